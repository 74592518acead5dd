"""Settings of training: sections, and the keys from before there were any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from satcascade.config.preset import load_preset
from satcascade.config.training import Training
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from tiny_training import run

FLAT = {
    "steps": 12,
    "batch_size": 6,
    "accumulate": 2,
    "optimizer": "muon",
    "learning_rate": 0.003,
    "symmetries": "flip",
    "low_res_noise": {"low": 0.0, "high": 8.0},
    "ema_half_life": 500,
    "validate_every": 4,
    "patience": 2,
    "keep_checkpoints": 3,
}


def test_flat_keys_are_read_into_sections() -> None:
    training = Training.model_validate(FLAT)
    assert training.schedule.steps == 12
    assert training.optimizer.name == "muon"
    assert training.optimizer.learning_rate == 0.003
    assert training.augmentation.symmetries == "flip"
    assert training.noise.low_res_noise is not None
    assert training.averages.half_life == 500
    assert training.validation.every == 4
    assert training.validation.patience == 2
    assert training.logging.keep_checkpoints == 3
    assert training.hardware.accumulate == 2
    assert Training.model_validate(json.loads(training.model_dump_json())) == training


def test_a_flat_override_changes_one_key_of_a_section(tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    content = load_preset("compact").model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(content))
    plain = load_preset(str(path)).base.training
    changed = load_preset(str(path), ["base.training.learning_rate=1"]).base.training
    assert changed == plain.replace({"optimizer.learning_rate": 1})
    assert changed == load_preset(str(path), ["base.training.optimizer.learning_rate=1"]).base.training


def test_unknown_keys_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"base\.training\.optimizer\.pace: unknown key"):
        load_preset("compact", ["base.training.optimizer.pace=1"])
    with pytest.raises(ValidationError, match="pace"):
        Training.model_validate(FLAT).replace({"pace": 1})


def test_a_run_of_before_the_sections_is_resumed(
    tiny_preset: str, prepared_synthetic: PreparedDataset, tmp_path: Path
) -> None:
    plateau = ("training.decay_steps=0", "training.sample_every=0")
    run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=2", *plateau)
    file = tmp_path / "run/run.json"
    description = json.loads(file.read_text())
    # As version 0.1 wrote it.
    for part in (description["settings"]["base"], description["settings"]["sr"], description["identity"]):
        part["training"] = FLAT | {"low_res_noise": None, "accumulate": 1}
    flat = {
        "symmetries": True,
        "ema_half_life": 10_000,
        "warmup_steps": 2,
        "decay_steps": 0,
        "precision": "float32",
        "low_res_noise": None,
    }
    description["settings"]["base"]["training"] |= flat
    file.write_text(json.dumps(description))
    resumed = run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=4", *plateau)
    assert resumed.name == "step-0000004"
    with pytest.raises(UsageError, match=r"optimizer\.learning_rate was 0\.003, now 0\.1"):
        run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.learning_rate=0.1", *plateau)
