"""Masks at the size of a stage, and their soft edges."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from satcascade.sampling.mask import feathered, mask_at


def some_mask(seed: int, size: int) -> torch.Tensor:
    """Boxes at random places."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 1, size, size, dtype=torch.bool)
    for row in range(2):
        left, top, width, height = torch.randint(1, size, (4,), generator=generator).tolist()
        mask[row, :, top : top + height, left : left + width] = True
    return mask


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([4, 8, 12, 16, 24]))
def test_a_smaller_mask_has_every_position_that_a_marked_pixel_lies_in(seed, size):
    mask = some_mask(seed, 24)
    found = mask_at(mask, size)
    assert found.shape == (2, 1, size, size)
    for place in mask.nonzero().tolist():
        row, _, top, left = place
        assert found[row, 0, top * size // 24, left * size // 24]
    # And, where sizes divide, no other.
    if 24 % size == 0:
        assert torch.equal(found, mask.unfold(2, 24 // size, 24 // size).unfold(3, 24 // size, 24 // size)
                           .flatten(4).any(dim=4))  # fmt: skip


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 9))
def test_a_soft_edge_lies_inside_of_the_mask_and_reaches_one(seed, width):
    mask = some_mask(seed, 24)
    weight = feathered(mask, width)
    assert not weight[~mask].any()
    assert (weight[mask] > 0).all()
    assert torch.equal(weight.amax(dim=(1, 2, 3)), torch.ones(2))
    if width == 0:
        assert torch.equal(weight, mask.float())


def test_the_ramp_has_its_width_and_thin_parts_are_made_whole():
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    mask[..., 10:31, 10:31] = True
    mask[..., 20:23, 31:38] = True
    weight = feathered(mask, 3)[0, 0]
    torch.testing.assert_close(weight[20, 10:15], torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0]))
    # A strip of three pixels.
    torch.testing.assert_close(weight[19:24, 36], torch.tensor([0, 0.5, 1.0, 0.5, 0]))


def test_the_border_of_the_image_is_no_edge():
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 8:] = True
    weight = feathered(mask, 3)[0, 0]
    assert torch.equal(weight[0], weight[8])
    assert torch.equal(weight[:, -1], torch.ones(16))
