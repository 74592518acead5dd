"""What a scene keeps of a picture, at the size of each stage, and how the rest meets it."""

from __future__ import annotations

import torch

from satcascade.sampling.known_picture import KnownPicture
from satcascade.sampling.membrane import joined


def known(height: int, width: int, box: tuple[int, int, int, int], reach: float) -> KnownPicture:
    top, left, bottom, right = box
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return KnownPicture(pixels, mask, reach)


def made(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_cells_are_known_where_all_of_their_pixels_are():
    whole = known(16, 24, (3, 4, 12, 17), 8.0)
    smaller = whole.reduced(4)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:3, 1:4] = True
    assert torch.equal(smaller.mask, expected)
    assert smaller.reach == 2.0
    torch.testing.assert_close(smaller.pixels[:, 1, 2], whole.pixels[:, 4:8, 8:12].mean(dim=(1, 2)))
    # Of a picture smaller than a cell nothing is known.
    assert not known(16, 24, (5, 5, 7, 8), 8.0).reduced(8).mask.any()


def test_joining_in_a_window_is_joining_the_whole():
    picture, whole = made(60, 300), known(60, 300, (10, 100, 50, 160), 3.0)
    found = torch.stack([*whole.joined(picture)])
    expected = joined(
        picture[:, None], whole.pixels[:, None], ~whole.mask[None, None].expand(3, 1, -1, -1), 3.0
    )
    # Less than a level of 255.
    torch.testing.assert_close(found, expected[:, 0], atol=0.006, rtol=0)
    assert torch.equal(found[:, whole.mask], whole.pixels[:, whole.mask])
    assert torch.equal(found[:, :, :70], picture[:, :, :70])


def test_the_ends_of_a_scene_may_be_cut_off():
    picture, whole = made(50, 60), known(64, 64, (0, 0, 50, 20), 4.0)
    found = torch.stack([*whole.joined(picture)])
    assert torch.equal(found[:, :, :20], whole.pixels[:, :50, :20])
    assert not torch.equal(found[:, :, 20:24], picture[:, :, 20:24])


def test_without_anything_known_a_picture_stays():
    picture = made(32, 32)
    nothing = known(32, 32, (0, 0, 0, 0), 4.0)
    assert torch.equal(torch.stack([*nothing.joined(picture)]), picture)


def test_without_reach_the_rest_stays():
    picture, whole = made(32, 32), known(32, 32, (8, 8, 20, 20), 0.0)
    found = torch.stack([*whole.joined(picture)])
    assert torch.equal(found[:, ~whole.mask], picture[:, ~whole.mask])
    assert torch.equal(found[:, whole.mask], whole.pixels[:, whole.mask])
