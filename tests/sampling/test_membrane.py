"""Joins without a seam: the membrane is the minimum it says it is, and colours meet."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from satcascade.sampling.membrane import joined, membrane


def some(seed: int, *shape: int) -> torch.Tensor:
    """Numbers in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., top:bottom, left:right] = True
    return mask


def solved(values: torch.Tensor, free: torch.Tensor, reach: float) -> torch.Tensor:
    """The membrane (H, W) of one channel by elimination: its equations, written out pixel by pixel."""
    (height, width), places = values.shape, free.nonzero().tolist()
    numbers = {tuple(place): number for number, place in enumerate(places)}
    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), dtype=torch.float64)
    for number, (row, column) in enumerate(places):
        matrix[number, number] = reach**-2
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            matrix[number, number] += 1
            if near in numbers:
                matrix[number, numbers[near]] -= 1
            else:
                right[number] += values[near].double()
    made = torch.zeros(height, width, dtype=torch.float64)
    made[free] = torch.linalg.solve(matrix, right)
    return made.float()


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(30, 37), (9, 40), (33, 33), (1, 20)]),
    st.sampled_from([0.5, 3.0, 12.0]),
)
def test_it_solves_its_equation_for_masks_of_any_shape(seed, size, reach):
    values = some(seed, 1, 1, *size)
    # Blobs, some of which touch the border.
    free = torch.nn.functional.avg_pool2d(some(seed + 1, 1, 1, *size), 5, 1, 2) > 0
    free[..., 0, 0] = False
    found = membrane(values, free, reach)
    expected = solved(values[0, 0], free[0, 0], reach)
    # A level of 255 is 0.008.
    torch.testing.assert_close(found[0, 0], expected, atol=0.004, rtol=0)
    assert not found[~free].any()
    assert found.abs().max() <= values[~free].abs().max() + 0.004


def test_it_falls_with_the_distance_from_an_edge():
    free = box(64, 200, 0, 60, 64, 200)
    made = membrane(torch.full((1, 1, 64, 200), 0.5), free, 10.0)[0, 0]
    assert (made - made[:1]).abs().max() < 1e-3
    torch.testing.assert_close(made[0, 69], torch.tensor(0.5 / torch.e), atol=0.01, rtol=0)
    assert made[0, -1].abs() < 1e-3


def test_nothing_known_and_nothing_free_leave_what_is_made():
    made, known = some(0, 2, 3, 20, 20), some(1, 2, 3, 20, 20)
    everything = torch.ones(2, 1, 20, 20, dtype=torch.bool)
    assert torch.equal(joined(made, known, everything, 4.0), made)
    assert torch.equal(joined(made, known, ~everything, 4.0), known)


def test_an_image_does_not_depend_on_its_batch():
    made, known = some(0, 2, 3, 40, 40), some(1, 2, 3, 40, 40)
    # The second one needs far fewer iterations.
    made[1] = known[1] + 0.01 * made[1]
    free = torch.cat([box(40, 40, 5, 5, 35, 40), box(40, 40, 20, 20, 22, 22)])
    together = joined(made, known, free, 8.0)
    for row in (0, 1):
        alone = joined(made[row : row + 1], known[row : row + 1], free[row : row + 1], 8.0)
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("free", [box(48, 64, 0, 30, 48, 64), box(48, 64, 10, 12, 30, 40)])
def test_what_is_off_by_a_colour_meets_what_is_known_and_keeps_its_gradients(free):
    picture = 0.2 * some(2, 1, 3, 48, 64)
    made = (picture + torch.tensor([0.3, -0.2, 0.1])[:, None, None]).clamp(-1, 1)
    pasted, met = (joined(made, picture, free, reach) for reach in (0.0, 12.0))
    for whole in (pasted, met):
        assert torch.equal(torch.where(free, 0, whole), torch.where(free, 0, picture))
    column = int(free[0, 0].any(dim=0).nonzero()[0])
    rows = free[0, 0, :, column].nonzero()[:, 0]

    def across(whole: torch.Tensor) -> torch.Tensor:
        return (whole[..., column] - whole[..., column - 1])[..., rows]

    true = across(picture)
    assert (across(met) - true).abs().mean() < 0.15 * (across(pasted) - true).abs().mean()
    steps = [
        (whole[..., 1:] - whole[..., :-1])[..., column + 1 : column + 8][..., rows, :]
        for whole in (met, made)
    ]
    assert (steps[0] - steps[1]).abs().max() < 0.06
