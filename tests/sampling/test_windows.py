"""Windows along an axis, their weights, and noise by coordinates."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.errors import UsageError
from satcascade.sampling.windows import Blocks, Windows, batches, overlapping


@st.composite
def axes(draw: st.DrawFn) -> Windows:
    size = draw(st.integers(1, 24))
    overlap = draw(st.integers(0, size - 1))
    context = draw(st.integers(0, overlap // 3))
    length = draw(st.integers(size, 120))
    return Windows(length, size, overlap, draw(st.booleans()), context)


@given(axes(), st.integers(1, 4))
def test_weights_sum_to_one_everywhere(axis: Windows, cell: int):
    sums = torch.zeros(axis.length * cell)
    sums.index_add_(0, axis.positions(cell).flatten(), axis.weights(cell).flatten())
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    assert (axis.weights(cell) >= 0).all()


@given(axes())
def test_neighbours_share_the_overlap_and_no_position_is_left_out(axis: Windows):
    assert set(axis.positions().flatten().tolist()) == set(range(axis.length))
    starts = [*axis.starts, axis.starts[0] + axis.length] if axis.wrap else axis.starts
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(0 < gap <= axis.size - axis.overlap for gap in gaps)
    # As even as whole positions allow.
    assert not gaps or max(gaps) - min(gaps) <= 1
    # A window has each position once.
    assert all(len(set(row)) == axis.size for row in axis.positions().tolist())


@given(axes())
def test_windows_stay_within_unless_they_wrap(axis: Windows):
    within = all(0 <= start <= axis.length - axis.size for start in axis.starts)
    assert within or axis.wrap


def test_weights_fall_towards_the_ends_of_a_window():
    weights = overlapping(64, 16, 0.5).weights()
    inner = weights[3]
    assert (inner[:8].diff() > 0).all()
    torch.testing.assert_close(inner, inner.flip(0))
    assert inner[0] < 0.02
    # The first positions of the canvas are in one window alone.
    assert weights[0, 0] == 1


def test_context_has_no_weight():
    axis = Windows(40, 16, 8, context=2)
    assert (axis.weights()[1][:2] < 1e-9).all()
    assert (axis.weights()[0][:2] == 1).all()


def test_a_round_axis_has_no_ends():
    weights = overlapping(32, 16, 0.5, wrap=True).weights()
    assert len(weights) == 4
    assert (weights == weights[0]).all()


@pytest.mark.parametrize(("length", "size", "overlap"), [(7, 8, 2), (8, 8, 8), (8, 8, -1)])
def test_impossible_windows(length: int, size: int, overlap: int):
    with pytest.raises(ValueError, match="window"):
        Windows(length, size, overlap)


@pytest.mark.parametrize("overlap", [-0.1, 0.8, 1.0])
def test_an_overlap_out_of_range_is_refused(overlap: float):
    with pytest.raises(UsageError, match=r"overlap .* is not possible: give a share of a window"):
        overlapping(32, 16, overlap)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.integers(1, 3))
def test_squares_make_up_the_canvas(height: int, width: int, side: int, channels: int):
    blocks = Blocks(height, width, side, 0)
    canvas = torch.arange(1.0, channels * height * width + 1).view(channels, height, width)
    squares = blocks.split(canvas)
    assert squares.shape == (blocks.rows * blocks.columns, channels, side, side)
    assert torch.equal(blocks.join(squares), canvas)
    assert int((squares == 0).sum()) == squares.numel() - canvas.numel()


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**63 - 1)
)
def test_noise_does_not_depend_on_the_size_of_the_canvas(
    height: int, width: int, more: int, wider: int, seed: int
):
    small, large = Blocks(height, width, 8, seed), Blocks(height + more, width + wider, 8, seed)
    cpu = torch.device("cpu")
    noise = large.join(large.noise(2, "first", cpu))
    assert torch.equal(noise[:, :height, :width], small.join(small.noise(2, "first", cpu)))


def test_noise_of_each_place_seed_and_name_is_its_own():
    blocks, cpu = Blocks(16, 16, 8, 1), torch.device("cpu")
    first = blocks.noise(1, "first", cpu)
    others = [
        blocks.noise(1, "second", cpu), Blocks(16, 16, 8, 2).noise(1, "first", cpu), first[[1, 2, 3, 0]]
    ]  # fmt: skip
    assert not any(torch.equal(each[0], first[0]) for each in others)
    big = Blocks(128, 128, 8, 1).noise(1, "first", cpu)
    assert abs(float(big.mean())) < 0.05
    assert abs(float(big.std()) - 1) < 0.05


@given(st.integers(0, 50), st.integers(1, 9))
def test_batches_hold_each_number_once(count: int, size: int):
    found = list(batches(count, size))
    assert [number for batch in found for number in batch] == list(range(count))
    assert all(len(batch) <= size for batch in found)
