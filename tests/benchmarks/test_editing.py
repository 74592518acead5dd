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


def test_a_line_is_found_at_its_column(editing):
    picture = np.full((2, 20, 40, 3), 90, dtype=np.uint8)
    picture[0, :, 12:] = 100
    picture[1, :, 25:] = 94
    found = editing.line_gradients(picture, np.array([12, 22]))
    assert found.shape == (2, editing.LINES + 1)
    assert (found[0, 0], found[0, 1:].max()) == (10, 0)
    assert found[1].argmax() == 3
    assert found[1, 3] == 4


def test_growth_of_a_tiny_model(editing, tiny_text_encoder):
    from functools import partial

    from tiny_cascade import tiny_latent_pipeline

    real = np.random.default_rng(0).integers(100, 156, (2, 32, 32, 3), dtype=np.uint8)
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    generated = editing.made(pipeline, ["a pond", "desert"], 2)
    grow = partial(editing.grown, pipeline, captions=["a pond", "desert"])
    head, *table = editing.growth_table(real, generated, grow, [1])
    names = [row[0] for row in table]
    assert names[2:] == ["pasted", "grown, resampling 1", "grown, resampling 1, as made"]
    assert all(len(row) == len(head) for row in table)
    met, plain = (float(row[2]) for row in table[3:])
    assert met < plain


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
        *(
            f"inpainted, resampling {count}{how}"
            for count in (1, 2)
            for how in ("", ", as made", ", hard edge", ", hard edge, as made")
        ),
    ]
    assert all(len(row) == len(head) for row in table)
    assert table[0][2] == "1.00"
    (half,) = editing.halves(real, make, [1]).values()
    np.testing.assert_array_equal(half[:, :, :16], real[:, :, :16])
    assert (half[:, :, 24:] != real[:, :, 24:]).mean() > 0.8
