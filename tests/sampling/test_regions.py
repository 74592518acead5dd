"""Which caption is where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.errors import UsageError
from satcascade.sampling.regions import Regions


def test_later_boxes_lie_over_earlier_ones():
    regions = Regions.of_boxes("sea", [((0, 0, 4, 2), "beach"), ((2, 0, 2, 4), "forest")], 4, 6)
    assert regions.captions == ("sea", "beach", "forest")
    assert regions.labels.tolist() == [
        [1, 1, 2, 2, 0, 0],
        [1, 1, 2, 2, 0, 0],
        [0, 0, 2, 2, 0, 0],
        [0, 0, 2, 2, 0, 0],
    ]


def test_boxes_of_one_caption_are_one_region():
    regions = Regions.of_boxes("sea", [((0, 0, 1, 1), "boat"), ((3, 3, 1, 1), "boat")], 4, 4)
    assert regions.captions == ("sea", "boat")


@pytest.mark.parametrize("box", [(0, 0, 0, 2), (-1, 0, 2, 2), (5, 0, 2, 2), (0, 3, 2, 2)])
def test_a_box_outside_the_picture_is_refused(box):
    with pytest.raises(UsageError, match=r"box .* of 'beach' does not lie in the picture of 6x4 px"):
        Regions.of_boxes("sea", [(box, "beach")], 4, 6)


def test_labels_without_caption_are_refused():
    with pytest.raises(UsageError, match="labels of regions"):
        Regions(("sea",), np.ones((2, 2), np.int64))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.data())
def test_masks_share_every_position_among_the_captions(high, wide, cell, less, data):
    height, width = max(high * cell - less, 1), max(wide * cell - less, 1)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=height * width, max_size=height * width))
    regions = Regions(("a", "b", "c"), np.array(labels).reshape(height, width))
    masks = regions.masks(high, wide, cell)
    assert masks.shape == (3, high, wide)
    torch.testing.assert_close(masks.sum(0), torch.ones(high, wide))


def test_a_mask_is_the_share_of_pixels():
    regions = Regions(("a", "b"), np.array([[0, 1, 1, 1], [0, 0, 1, 1]]))
    assert regions.masks(1, 2, 2)[1].tolist() == [[0.25, 1.0]]


def test_a_map_is_drawn_larger_and_smaller():
    regions = Regions(("a", "b"), np.array([[0, 1]]))
    assert regions.resized(2, 4).labels.tolist() == [[0, 0, 1, 1]] * 2
    assert regions.resized(2, 4).resized(1, 2).labels.tolist() == [[0, 1]]
