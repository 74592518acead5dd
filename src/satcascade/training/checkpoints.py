"""The checkpoints of a run: folders that appear whole, in safetensors and JSON, no pickle.

``RUN/checkpoints/step-0001000/`` holds ``model.safetensors``, ``ema.safetensors``,
``optimizer.safetensors`` and ``state.json`` (step, SHA-256 of the others). It is written under another name
and renamed, so that a killed run never leaves half of one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from satcascade.errors import SatcascadeError
from satcascade.files import folder_written_whole, sha256_of_file, synced_write

_PREFIX = "step-"
_STATE = "state.json"
WEIGHTS = ("model", "ema", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run goes on from.

    Attributes:
        step: optimiser steps done.
        model: weights by parameter name.
        ema: averaged weights.
        optimizer: state tensors, named ``optimizer.parameter.entry`` by position.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        run: the run's folder.
        keep: how many of the last ones stay.
    """

    def __init__(self, run: Path, keep: int = 2):
        self.path = Path(run) / "checkpoints"
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        found = self.path.glob(f"{_PREFIX}*/{_STATE}")
        return sorted(int(path.parent.name.removeprefix(_PREFIX)) for path in found)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self.path / f"{_PREFIX}{step:07d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and drop the oldest ones beyond ``keep``.

        Raises:
            SatcascadeError: the disk is full; the earlier checkpoints are untouched.
        """
        final = self.folder(checkpoint.step)
        with folder_written_whole(final) as aside:
            for name in WEIGHTS:
                tensors = {key: value.contiguous() for key, value in getattr(checkpoint, name).items()}
                synced_write(aside / f"{name}.safetensors", save(tensors))
            hashes = {name: sha256_of_file(aside / f"{name}.safetensors") for name in WEIGHTS}
            state = json.dumps({"step": checkpoint.step, "sha256": hashes}, indent=1)
            synced_write(aside / _STATE, state.encode())
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder(old))
        return final

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            SatcascadeError: a file of it is missing or not what was written.
        """
        folder = self.folder(step)
        parts = {name: read_weights(folder, name) for name in WEIGHTS}
        return Checkpoint(step=step, **parts)


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of ``name`` (``model``, ``ema`` or ``optimizer``) in a checkpoint's folder.

    Raises:
        SatcascadeError: the file is missing or its SHA-256 is not the recorded one.
    """
    path = folder / f"{name}.safetensors"
    try:
        recorded = json.loads((folder / _STATE).read_text())["sha256"][name]
        intact = sha256_of_file(path) == recorded
    except (OSError, ValueError, KeyError):
        intact = False
    if not intact:
        raise SatcascadeError(
            f"checkpoint {folder} is damaged ({path.name}): delete that folder to go on from the one before"
        )
    return load_file(path)


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
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        states[int(which)].setdefault(int(index), {})[entry] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
