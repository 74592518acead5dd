"""The weights inside the package: they load without a network, and their pictures follow the caption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

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
    assert sum(path.stat().st_size for path in files) < 48e6
    assert "RSICD" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_model_makes_a_picture(pipeline):
    image = pipeline("many buildings and some green trees are near a river .", seeds=[0]).images[0]
    assert image.size == (256, 256)
    assert np.asarray(image).std() > 10


@pytest.mark.slow
def test_pictures_follow_the_caption(pipeline):
    captions = ["a piece of yellow desert with sand dunes", "a piece of dense green forest with many trees"]
    prompts = [caption for caption in captions for _ in range(4)]
    made = pipeline(prompts, seeds=list(range(8)), num_inference_steps=8, output_type="np")
    images = made.images
    desert, forest = images[:4].mean(axis=(1, 2)), images[4:].mean(axis=(1, 2))
    assert desert.mean(axis=1).min() > forest.mean(axis=1).max()
    assert (desert[:, 0] > desert[:, 2] + 0.1).all()
    assert (forest[:, 1] > forest[:, 0]).mean() >= 0.75


# A picture of eight steps, averaged down to 8 x 8 pixels. Made by the code below, on a CPU with AVX2.
RECORDED = Path(__file__).parents[1] / "data" / "builtin_picture.json"


def small_picture(pipeline: CascadePipeline) -> torch.Tensor:
    made = pipeline(
        "many green trees are near a river .",
        seeds=[0],
        num_inference_steps=8,
        output_type="pt",
    )
    return torch.nn.functional.avg_pool2d(made.images, 32)[0].double()


def test_a_picture_is_the_recorded_one(pipeline):
    """What rounding does to it is measured: by weights moved by one unit in the last place."""
    picture = small_picture(pipeline)
    weights = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pipeline.unet.parameters():
            up = torch.rand(value.shape, generator=generator) < 0.5
            far = torch.where(up, torch.inf, -torch.inf)
            value.copy_(torch.nextafter(value, far))
    moved = small_picture(pipeline)
    pipeline.unet.load_state_dict(weights)
    rounding = float((moved - picture).abs().max())
    assert 0 < rounding < 1e-3
    recorded = torch.tensor(json.loads(RECORDED.read_text()), dtype=torch.float64)
    # Other kernels round each of some hundred operations in a row otherwise, not the weights alone: the
    # square root of that many, and again as much for the largest of 192 numbers.
    assert float((picture - recorded).abs().max()) < 30 * rounding
