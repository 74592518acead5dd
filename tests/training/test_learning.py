"""That training learns: tiny cascades on shapes on textures, from noise to pictures of what captions say.

The slow one (``make test-slow``) trains both stages for minutes and is measured as models are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from satcascade.data.captions import Captions
from satcascade.data.prepare import prepare
from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.run import EvaluationRequest, evaluate
from satcascade.generation.run import GenerationRequest, generate
from satcascade.training.assemble import assemble
from satcascade.training.run import train
from synthetic import make_synthetic_rsicd

pytestmark = [
    # diffusers calls NumPy in ways that NumPy 2 warns of; a hundred images are few for a Frechet distance.
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::satcascade.evaluation.run.EvaluationWarning"),
]

SIZE = 32
COMPACT = {
    "architecture": "compact",
    "patch_size": 2,
    "widths": [32, 64],
    "blocks": [1, 1],
    "attention": [False, True],
    "head_dim": 16,
    "cond_dim": 64,
    "sigma_data": 0.4,
}
RSDIFF = {
    "architecture": "rsdiff",
    "width": 16,
    "width_multipliers": [1, 2, 3],
    "blocks": 1,
    "self_attention": [False, False, True],
    "cross_attention": [False, False, True],
    "heads": 2,
    "head_dim": 16,
    "middle_cross_heads": 2,
    "middle_cross_head_dim": 16,
    "cond_dim": 32,
    "max_text_len": 32,
    "text_latents": 4,
    "text_mean_latents": 2,
    "resampler_depth": 1,
    "stem_kernels": [3, 7],
}
# For colours alone: two layers, and the optimiser of its presets, which takes half the time.
SMALL_RSDIFF = (
    "model.width_multipliers=[1,2]",
    "model.blocks=0",
    "model.self_attention=[false,true]",
    "model.cross_attention=[false,true]",
    "training.optimizer=adamw",
)
TRAINING = {
    "batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "warmup_steps": 20,
    "ema_half_life": 4000,
    "precision": "float32",
    # Dunes lie and houses stand: turned ones would only be more to learn.
    "symmetries": False,
    "sample_every": 0,
    "checkpoint_every": 0,
}
# By architecture: network, and steps of either stage.
FAMILIES: dict[str, tuple[dict[str, Any], int, int]] = {
    "compact": (COMPACT, 1000, 1500),
    "rsdiff": (RSDIFF, 1000, 1500),
}


def write_preset(path: Path, architecture: str, prediction_type: str) -> str:
    """A cascade of 16 and 32 pixels."""
    model, base_steps, sr_steps = FAMILIES[architecture]
    model = model | {"text_dim": 384, "prediction_type": prediction_type}

    def steps(count: int) -> dict[str, int]:
        return {"steps": count, "decay_steps": count // 3}

    # Down to the level of the ground's grain, in training as in sampling.
    fine = {"low_res_noise": {"low": 0.0, "high": 8.0}, "log_snr_mean": 3.0, "log_snr_std": 2.5}
    preset = {
        "name": "tiny",
        "text_encoder": "minilm",
        "base": {
            "model": model | {"sample_size": SIZE // 2},
            "training": TRAINING | steps(base_steps),
        },
        "sr": {
            "model": model | {"sample_size": SIZE, "low_res": True},
            "training": TRAINING | steps(sr_steps) | fine,
        },
        "sampling": {
            # With fresh noise at each step, which corrects what epsilon gets wrong where there is most noise.
            "base": {"scheduler": "dpm++sde", "steps": 20},
            "sr": {"scheduler": "dpm++sde", "steps": 40, "schedule": {"low": -7.0}},
            "low_res_log_snr": 5.0,
        },
    }
    path.write_text(yaml.safe_dump(preset))
    return str(path)


def drawn(folder: Path, images: int) -> PreparedDataset:
    """A set with MiniLM's embeddings of its captions; a tenth of it is the test split."""
    prepare(make_synthetic_rsicd(folder / "drawn", images), folder / "set", image_size=SIZE, progress=False)
    return PreparedDataset.open(folder / "set")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawn(tmp_path_factory.mktemp("shapes"), 800)


@pytest.fixture(scope="module")
def few_shapes(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawn(tmp_path_factory.mktemp("few"), 40)


def measured(preset: str, data: PreparedDataset, out: Path, *overrides: str) -> tuple[float, float]:
    """Frechet distance and scene accuracy of the pictures of a cascade trained for all test captions."""
    train(
        ["base", "sr"], preset=preset, data=data.path, out=out, overrides=overrides, device="cpu", quiet=True
    )
    pipeline = assemble(out / "base", out / "sr", out / "model")
    pipeline.set_progress_bar_config(disable=True)
    captions = Captions.from_data(data.path, "test")
    generate(pipeline, GenerationRequest(captions, out / "pictures", batch_size=20), progress=False)
    request = EvaluationRequest(out / "pictures", data.path, out / "report", metrics=("frechet", "scene"))
    metrics = evaluate(request, progress=False)
    return metrics["frechet_distance/efficientnet-lite0"], metrics["scene_accuracy"]


@pytest.mark.long
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_a_cascade_learns_to_draw_what_captions_say(
    architecture: str,
    prediction_type: str,
    shapes: PreparedDataset,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    preset = write_preset(tmp_path / "preset.yaml", architecture, prediction_type)
    start, _ = measured(preset, shapes, tmp_path / "start", "training.steps=1")
    end, accuracy = measured(preset, shapes, tmp_path / "end")
    found = {"frechet_at_start": start, "frechet": end, "scene_accuracy": accuracy}
    for name, value in found.items():
        record_property(name, round(value, 3))
    assert start >= 5 * end, found
    assert accuracy >= 0.8, found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "prediction_type"),
    [("compact", "sample"), ("rsdiff", "v_prediction")],
)
def test_a_base_network_learns_the_colours_of_scenes_in_seconds(
    architecture: str, prediction_type: str, few_shapes: PreparedDataset, tmp_path: Path
) -> None:
    """Of 16 pictures, nearly all have the mean colour nearest to that of their caption's class."""
    preset = write_preset(tmp_path / "preset.yaml", architecture, prediction_type)
    right = {}
    for name, steps in (("start", 1), ("end", 100)):
        train(
            ["base"],
            preset=preset,
            data=few_shapes.path,
            out=tmp_path / name,
            overrides=[
                "training.batch_size=8",
                f"training.steps={steps}",
                "training.decay_steps=30",
                *(SMALL_RSDIFF if architecture == "rsdiff" else ()),
            ],
            device="cpu",
            quiet=True,
        )
        pipeline = assemble(tmp_path / name, None, tmp_path / f"{name}-model")
        pipeline.set_progress_bar_config(disable=True)
        right[name] = told_by_colour(pipeline, few_shapes)
    # By chance it is 4.
    assert right["start"] <= 8
    assert right["end"] >= 13


def told_by_colour(pipeline: Any, data: PreparedDataset) -> int:
    """How many of 16 pictures, drawn for training captions, are coloured as their class."""
    labels = [record.label for record in data.records]
    classes = sorted({label for label in labels if label})
    colours = torch.from_numpy(np.asarray(data.images, dtype=np.float32) / 255).mean(dim=(1, 2))
    means = torch.stack(
        [colours[[row for row, label in enumerate(labels) if label == name]].mean(0) for name in classes]
    )
    rows = [int(row) for row in data.indices("train")][:16]
    text = data.text([data.records[row].caption_ids[0] for row in rows])
    pictures = pipeline(prompt_embeds=text, seeds=range(16), output_type="pt").images
    found = torch.cdist(pictures.mean(dim=(2, 3)), means).argmin(1).tolist()
    return sum(classes[number] == labels[row] for number, row in zip(found, rows, strict=True))
