"""The weights inside the package: they load without a network, and their pictures follow the caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import satcascade
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.zoo import load_pipeline

FOLDER = Path(satcascade.__file__).parent / "builtin"


@pytest.fixture(scope="module")
def pipeline() -> CascadePipeline:
    pipeline = load_pipeline("builtin", device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_package_stays_small_and_carries_a_model_card():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60e6
    assert "RSICD" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_whole_cascade_makes_a_picture(pipeline):
    image = pipeline("many buildings and some green trees are near a river .", seeds=[0]).images[0]
    assert image.size == (256, 256)
    assert np.asarray(image).std() > 10


def test_pictures_follow_the_caption(pipeline):
    captions = ["a piece of yellow desert with sand dunes", "a piece of dense green forest with many trees"]
    prompts = [caption for caption in captions for _ in range(4)]
    images = pipeline(prompts, seeds=list(range(8)), stop_at="base", output_type="np").images
    desert, forest = images[:4].mean(axis=(1, 2)), images[4:].mean(axis=(1, 2))
    assert desert.mean(axis=1).min() > forest.mean(axis=1).max()
    assert (desert[:, 0] > desert[:, 2] + 0.1).all()
    assert (forest[:, 1] > forest[:, 0]).mean() >= 0.75
