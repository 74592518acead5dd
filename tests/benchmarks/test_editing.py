"""The benchmark of edits: what its gradients see, and both tables of a tiny model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "editing.py"

pytestmark = [
    pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not beside the tests"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def editing():
    spec = importlib.util.spec_from_file_location("editing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pasted_box_shows_at_its_edge_and_nowhere_else(editing):
    boxes = editing.random_boxes(5, 64, 32, 0)
    masks = editing.box_masks(boxes, 64, 32)
    assert masks.sum() == 5 * 32 * 32
    pictures = np.where(masks[..., None], np.uint8(100), np.uint8(90)).repeat(3, axis=3)
    found = editing.edge_gradients(pictures, boxes, 32)
    np.testing.assert_array_equal(found[:, 0], 10)
    assert not found[:, 1:].any()


def test_a_soft_edge_shows_where_it_is_steepest(editing):
    boxes = np.array([[16, 16]])
    picture = np.full((1, 64, 64, 3), 90, dtype=np.uint8)
    picture[:, 16:48, 16:48] = 92
    picture[:, 19:45, 19:45] = 110
    found = editing.edge_gradients(picture, boxes, 32)[0]
    assert found[0] == 2
    assert found.argmax() == 3
    # But at the corners, where the inner box is shorter.
    assert found[3] == pytest.approx(18 * 26 / 32)


def test_seams_of_a_tiny_model(editing, tiny_text_encoder):
    from functools import partial

    from tiny_cascade import tiny_pipeline

    real = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    make = partial(editing.made, tiny_pipeline(tiny_text_encoder), ["a pond", "desert", "town"], 2)
    generated = make()
    assert generated.shape == real.shape
    head, *table = editing.seam_table(real, generated, make, [1, 2])
    assert [row[0] for row in table] == [
        "real images, random lines",
        "text to image, random lines",
        "pasted without blending",
        "inpainted, resampling 1",
        "inpainted, resampling 1, hard edge",
        "inpainted, resampling 2",
        "inpainted, resampling 2, hard edge",
    ]
    assert all(len(row) == len(head) for row in table)
    assert table[0][2] == "1.00"
    (half,) = editing.halves(real, make, [1]).values()
    np.testing.assert_array_equal(half[:, :, :16], real[:, :, :16])
    assert (half[:, :, 24:] != real[:, :, 24:]).mean() > 0.8
