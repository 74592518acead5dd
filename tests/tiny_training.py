"""Short training runs of a tiny stage, and their weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from forked import Forked, two_of
from rounding import ALLOWED, norm, nudge
from satcascade.config.preset import load_preset
from satcascade.data.prepared import PreparedDataset
from satcascade.models.denoiser import Denoiser
from satcascade.models.network_config import NetworkConfig
from satcascade.models.registry import build_model
from satcascade.training.checkpoints import optimizer_tensors
from satcascade.training.device_data import DeviceData
from satcascade.training.run import train
from satcascade.training.stage_trainer import StageTrainer


def run(preset: str, data: PreparedDataset, out: Path, *overrides: str, stage: str = "base") -> Path:
    (checkpoint,) = train(
        [stage], preset=preset, data=data.path, out=out, overrides=overrides, device="cpu", quiet=True
    )
    return checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name in ("model", "ema", "optimizer")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def assert_same(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def in_a_process(preset: str, data: PreparedDataset, out: Path, *overrides: str) -> Forked:
    return Forked(_train(preset, data, out, *overrides))


def in_two_processes(preset: str, data: PreparedDataset, out: Path, *overrides: str) -> list[Forked]:
    """A run of the base stage in two processes that find each other, after both have ended."""
    return two_of(_train(preset, data, out, *overrides))


def _train(preset: str, data: PreparedDataset, out: Path, *overrides: str) -> Callable[[], object]:
    return partial(
        train, ["base"], preset=preset, data=data.path, out=out, overrides=overrides, device="cpu", quiet=True
    )


def run_nudged(preset: str, data: PreparedDataset, out: Path, *overrides: str, stage: str = "base") -> Path:
    """The same run, but for first weights that are nudged: how far its last ones are shows rounding."""

    def built(config: NetworkConfig) -> Denoiser:
        model = build_model(config)
        nudge(model, 1000)
        return model

    with mock.patch("satcascade.training.stage_trainer.build_model", built):
        return run(preset, data, out, *overrides, stage=stage)


def assert_alike(a: Path, b: Path, nudged: Path) -> None:
    """Losses and weights of two runs are equal up to rounding, which a third, nudged run shows.

    All are given by their last checkpoints.
    """
    one, other, probe = (_results(checkpoint) for checkpoint in (a, b, nudged))
    assert one.keys() == other.keys() == probe.keys()
    for name, value in one.items():
        rounding, unit = norm(probe[name] - value), torch.finfo(torch.float32).eps * norm(value)
        assert rounding < 0.001 * norm(value), f"rounding of {name}: {rounding:.3g}"
        assert norm(other[name] - value) <= ALLOWED * rounding + unit, name
    assert not torch.equal(probe["model"], one["model"])


def _results(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The losses of a run up to a checkpoint, and all numbers of each of its files."""
    lines = (checkpoint.parents[1] / "metrics.jsonl").read_text().splitlines()
    results = {"loss": torch.tensor([json.loads(line)["loss"] for line in lines], dtype=torch.float64)}
    for name in ("model", "ema", "optimizer"):
        tensors = load_file(checkpoint / f"{name}.safetensors")
        results[name] = torch.cat([tensors[key].double().flatten() for key in sorted(tensors)])
    return results


def report_held(preset: str, data: Path, out: Path, *overrides: str) -> None:
    """Write how many values this process holds of network, averages and optimiser state after a step."""
    accelerator = Accelerator(cpu=True)
    loaded = DeviceData(PreparedDataset.open(data), "train", accelerator.device)
    settings = load_preset(preset, [f"base.{override}" for override in overrides])
    trainer = StageTrainer("base", settings, loaded, out, accelerator, torch.float32, quiet=True)
    with trainer:
        trainer.advance()
        state = optimizer_tensors(trainer._optimizers)
        kinds = {"weights": trainer._model.parameters(), "averages": trainer._average.shadow.values()}
        kinds["moments"] = [value for name, value in state.items() if name.endswith("exp_avg_sq")]
        held = {kind: sum(value.to_local().numel() for value in values) for kind, values in kinds.items()}
    (out / f"held-{accelerator.process_index}.json").write_text(json.dumps(held))
