"""Training with sharded parameters: the run of one process, whatever is read from or written to disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from forked import two_of
from rounding import ALLOWED, norm
from satcascade.config.preset import load_preset
from satcascade.errors import UsageError
from satcascade.models.registry import build_model
from satcascade.training.checkpoints import CheckpointFolder
from tiny_training import assert_alike, in_two_processes, report_held, run, run_nudged

# Plain settings, in which rounding has no time to grow, and everything that a run may do beside its steps.
SETTINGS = (
    "training.decay_steps=0",
    "training.optimizer=adamw",
    "training.batch_size=5",
    "training.steps=6",
    "training.sample_every=3",
    "training.validate_every=3",
    "training.validation_images=4",
    "training.milestone_epochs=0.5",
)
ARCHITECTURES = {
    "compact": ("model.dropout=0.0",),
    "rsdiff": (
        "base.model={architecture: rsdiff, sample_size: 32, width: 8, width_multipliers: [1, 2], blocks: 1, "
        "self_attention: [false, true], cross_attention: [false, true], heads: 2, head_dim: 8, cond_dim: 16, "
        "text_dim: 16, text_latents: 4, text_mean_latents: 2, resampler_depth: 1}",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["compact", "rsdiff"])
def test_sharded_run_is_that_of_one_process(architecture, tiny_preset, prepared_synthetic, tmp_path):
    settings = (*SETTINGS, *ARCHITECTURES[architecture])
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", *settings)
    out = tmp_path / "sharded"
    sharded = (
        *settings,
        "training.fsdp=true",
        "training.accumulate=2",
        "training.activation_checkpointing=true",
    )
    # Alone to the third step, sharded to the end: each reads what the other wrote.
    run(tiny_preset, prepared_synthetic, out, *settings, "training.steps=3")
    in_two_processes(tiny_preset, prepared_synthetic, out, *sharded)
    nudged = run_nudged(tiny_preset, prepared_synthetic, tmp_path / "nudged", *settings)
    assert_alike(whole, CheckpointFolder(out).folder(6), nudged)
    runs = (whole.parents[1], out, nudged.parents[1])
    expected, found, probe = map(validation_losses, runs)
    unit = torch.finfo(torch.float32).eps * norm(expected)
    assert norm(probe - expected) < 0.001 * norm(expected)
    assert norm(found - expected) <= ALLOWED * norm(probe - expected) + unit
    for name in ("milestones", "samples"):
        assert sorted(path.name for path in (out / name).iterdir()) == sorted(
            path.name for path in (whole.parents[1] / name).iterdir()
        )
    expected_pictures, pictures, nudged_pictures = (folder / "samples" for folder in runs)
    # Levels are whole numbers: the least rounding may make one of it.
    bound = 1 + ALLOWED * largest_difference(expected_pictures, nudged_pictures)
    assert bound < 20
    assert largest_difference(expected_pictures, pictures) <= bound
    # And back to one process.
    longer = (*settings, "training.steps=8")
    again = run(tiny_preset, prepared_synthetic, out, *longer)
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", *longer)
    nudged = run_nudged(tiny_preset, prepared_synthetic, tmp_path / "nudged", *longer)
    assert_alike(whole, again, nudged)


def validation_losses(run: Path) -> torch.Tensor:
    lines = (run / "validation.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines], dtype=torch.float64)


def largest_difference(ours: Path, theirs: Path) -> int:
    """Of any pixel of two folders of pictures, in levels of 255."""
    pairs = ((Image.open(path), Image.open(theirs / path.name)) for path in ours.iterdir())
    return max(abs(x - y) for a, b in pairs for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


@pytest.mark.slow
def test_processes_hold_a_part_each(tiny_preset, prepared_synthetic, tmp_path):
    settings = ("training.optimizer=adamw", "training.fsdp=true", "training.validate_every=0")
    two_of(report_held, tiny_preset, prepared_synthetic.path, tmp_path / "run", *settings)
    parts = [json.loads((tmp_path / "run" / f"held-{process}.json").read_text()) for process in (0, 1)]
    whole = sum(
        parameter.numel() for parameter in build_model(load_preset(tiny_preset).base.model).parameters()
    )
    for kind in ("weights", "averages", "moments"):
        assert parts[0][kind] + parts[1][kind] == whole
        assert max(part[kind] for part in parts) < 0.6 * whole


def test_muon_is_refused():
    with pytest.raises(UsageError, match=r"muon works on whole matrices.*set optimizer\.name=adamw"):
        load_preset("compact", ["base.training.fsdp=true"])
