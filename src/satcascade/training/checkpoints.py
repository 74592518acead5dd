"""The checkpoints of a run: folders that appear whole, in safetensors and JSON, no pickle.

``RUN/checkpoints/step-0001000/`` holds ``model.safetensors``, ``ema.safetensors``,
``optimizer.safetensors`` and ``state.json`` (step, SHA-256 of the others). It is written under another name
and renamed, so that a killed run never leaves half of one. ``RUN/best.json`` names the one that validation
found best. ``RUN/milestones/step-0001000/`` holds averaged weights that are never dropped, and
``RUN/snapshots/step-0001000/`` the averages that
:mod:`satcascade.training.post_hoc_averages` makes others of.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from satcascade.errors import SatcascadeError, one_line
from satcascade.formats.training_run import BEST
from satcascade.io.files import atomic_folder, synced_write
from satcascade.io.hashing import sha256_of_file
from satcascade.io.json import damaged, read_json, write_json
from satcascade.training.sharded import fill

_PREFIX = "step-"
_STATE = "state.json"
# What every checkpoint has.
_ALWAYS = ("model", "ema", "optimizer")
WEIGHTS = ("model", "ema", "optimizer", "power")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run is resumed from.

    Attributes:
        step: optimiser steps done.
        model: weights by parameter name.
        ema: averaged weights.
        optimizer: state tensors, named ``optimizer.parameter.entry`` by position.
        power: power function averages, named ``length/parameter``; empty in a run without.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    power: dict[str, Tensor] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        run: the run's folder.
        keep: how many of the last ones stay, beside the best.
    """

    def __init__(self, run: Path, keep: int = 2):
        self.path = Path(run) / "checkpoints"
        self.keep = keep
        self._damaged: set[int] = set()
        self._best = Path(run) / BEST
        self._milestones = Path(run) / "milestones"
        self._snapshots = Path(run) / "snapshots"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order, without those found damaged."""
        return sorted(_by_step(self.path).keys() - self._damaged)

    def averages(self) -> dict[int, Path]:
        """Folders with averaged weights, by step in order: milestones and complete checkpoints."""
        folders = _by_step(self._milestones) | _by_step(self.path)
        return {step: folders[step] for step in sorted(folders)}

    def snapshots(self) -> dict[int, Path]:
        """Folders with snapshots of power function averages, by step in order."""
        folders = _by_step(self._snapshots)
        return {step: folders[step] for step in sorted(folders)}

    def best(self) -> int | None:
        """The step that validation found best; None where nothing says so.

        Raises:
            SatcascadeError: the file that says so is damaged.
        """
        if not self._best.exists():
            return None
        remedy = "delete it, the run writes it again when it is resumed"
        try:
            return int(read_json(self._best, remedy)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(self._best, one_line(error), remedy) from error

    def set_best(self, step: int, measure: str, value: float) -> None:
        """Keep the checkpoint of ``step`` until another one is best.

        Raises:
            SatcascadeError: the disk is full.
        """
        write_json(self._best, {"step": step, "measure": measure, "value": value})
        self._drop_old()

    def folder(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self.path / f"{_PREFIX}{step:07d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and drop the oldest ones beyond ``keep``.

        Raises:
            SatcascadeError: the disk is full; the earlier checkpoints are untouched.
        """
        final = self.folder(checkpoint.step)
        parts = {name: getattr(checkpoint, name) for name in WEIGHTS}
        _write(final, checkpoint.step, {name: tensors for name, tensors in parts.items() if tensors})
        # Now there is something better than what may be left of them.
        for earlier in self._damaged - {checkpoint.step}:
            _remove(self.folder(earlier))
        self._damaged.clear()
        self._drop_old()
        return final

    def save_milestone(self, step: int, ema: dict[str, Tensor]) -> None:
        """Write averaged weights that stay.

        Raises:
            SatcascadeError: the disk is full.
        """
        _write(self._milestones / f"{_PREFIX}{step:07d}", step, {"ema": ema})

    def save_snapshot(self, step: int, power: dict[str, Tensor]) -> None:
        """Write power function averages, in float16, that stay.

        Raises:
            SatcascadeError: the disk is full.
        """
        halves = {name: value.half() for name, value in power.items()}
        _write(self._snapshots / f"{_PREFIX}{step:07d}", step, {"power": halves})

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            DamagedCheckpointError: a file of it is missing or not what was written.
        """
        folder = self.folder(step)
        written = _hashes(folder).keys() | set(_ALWAYS)
        parts = {name: read_weights(folder, name) for name in WEIGHTS if name in written}
        return Checkpoint(step=step, **parts)

    def load_last(self, quiet: bool = False) -> Checkpoint | None:
        """Read the last checkpoint that is intact, with a warning for each later one that is not.

        Damaged ones are no checkpoints from then on, and go when the next one is saved.

        Args:
            quiet: do not warn.

        Returns:
            None where there is no checkpoint at all.

        Raises:
            SatcascadeError: there are checkpoints, and all are damaged.
        """
        steps = self.steps()
        problems: list[str] = []
        for step in reversed(steps):
            try:
                checkpoint = self.load(step)
            except DamagedCheckpointError as error:
                problems.append(error.problem)
                continue
            self._damaged.update(later for later in steps if later > step)
            if not quiet:
                for problem in problems:
                    message = f"{problem}: the run resumes from step {step}"
                    warnings.warn(DamagedCheckpointWarning(message), stacklevel=2)
            return checkpoint
        if problems:
            raise SatcascadeError(
                f"{problems[0]}, and so is every other one: delete {self.path} to begin again"
            )
        return None

    def clear_leftovers(self) -> None:
        """Remove what killed processes left half-written or half-removed; for the process that writes."""
        for folder in (self.path, self._milestones, self._snapshots):
            for left in folder.glob(f".{_PREFIX}*"):
                shutil.rmtree(left)

    def _drop_old(self) -> None:
        best = self.best()
        for old in self.steps()[: -self.keep]:
            if old != best:
                _remove(self.folder(old))


class DamagedCheckpointWarning(UserWarning):
    """A run resumes from an earlier checkpoint than its last."""


class DamagedCheckpointError(SatcascadeError):
    """A checkpoint is not what was written.

    Attributes:
        problem: which one, and what of it.
    """

    def __init__(self, folder: Path, name: str):
        self.problem = f"checkpoint {folder} is damaged ({name})"
        super().__init__(f"{self.problem}: name another one as RUN@STEP, or resume the run, which mends it")


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that half of one is never seen."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def _by_step(folder: Path) -> dict[int, Path]:
    """The complete ones among the folders of weights in a folder."""
    states = folder.glob(f"{_PREFIX}*/{_STATE}")
    return {int(path.parent.name.removeprefix(_PREFIX)): path.parent for path in states}


def _write(final: Path, step: int, weights: dict[str, dict[str, Tensor]]) -> None:
    with atomic_folder(final) as aside:
        for name, values in weights.items():
            tensors = {key: value.contiguous() for key, value in values.items()}
            synced_write(aside / f"{name}.safetensors", save(tensors))
        hashes = {name: sha256_of_file(aside / f"{name}.safetensors") for name in weights}
        synced_write(aside / _STATE, json.dumps({"step": step, "sha256": hashes}, indent=1).encode())


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of ``name``, one of ``WEIGHTS``, in a checkpoint's folder.

    Raises:
        DamagedCheckpointError: the file is missing or its SHA-256 is not the recorded one.
    """
    path = folder / f"{name}.safetensors"
    try:
        intact = sha256_of_file(path) == _hashes(folder).get(name)
    except OSError:
        intact = False
    if not intact:
        raise DamagedCheckpointError(folder, path.name)
    return load_file(path)


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 that a checkpoint records of its files, by name; none where it is damaged."""
    try:
        return dict(read_json(folder / _STATE, "take another checkpoint")["sha256"])
    except (SatcascadeError, ValueError, KeyError, TypeError):
        return {}


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State of several optimisers as named tensors."""
    return {
        f"{which}.{parameter}.{entry}": value
        for which, optimizer in enumerate(optimizers)
        for parameter, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    parameters = [
        [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for optimizer in optimizers
    ]
    for name, value in tensors.items():
        which, index, entry = name.split(".", 2)
        parameter = parameters[int(which)][int(index)]
        if value.shape == parameter.shape:
            # Fused kernels walk parameter and state side by side in memory: the layout must be the same.
            laid_out = torch.empty_like(parameter, dtype=value.dtype)
            fill(laid_out, value)
            value = laid_out
        states[int(which)].setdefault(int(index), {})[entry] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
