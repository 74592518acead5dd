"""Cut a run's checkpoint into pieces small enough to carry, and put it together again.

    python carry.py cut runs/base carried/base
    python carry.py join carried/base runs/base

Weights and averages are carried in float16 and the optimisers' state in bfloat16, or all as they are with
--exact. A run that goes on from rounded state no longer equals an uninterrupted one; README.md has numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
from pieces import MIB, cut_archive, joined, read_archive, run_script
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.formats.training_run import METRICS, RUN_FILE, VALIDATION
from satcascade.io.files import atomic_write
from satcascade.training.checkpoints import WEIGHTS, Checkpoint, CheckpointFolder
from satcascade.training.history import read_rows

ARCHIVE = "checkpoint.tar"
# A line a step, and a line a validation where there are any.
_HISTORIES = (METRICS, VALIDATION)
# Second moments reach far below float16's range: bfloat16 has float32's.
_CARRIED_AS = {"model": torch.float16, "ema": torch.float16, "optimizer": torch.bfloat16}


def cut_checkpoint(
    run: Path, out: Path, *, exact: bool, piece_bytes: int, step: int | None = None
) -> list[Path]:
    """Write the pieces of a checkpoint, with the run's description and history.

    Args:
        run: the run's folder.
        out: folder for the pieces.
        exact: carry float32 as float32.
        piece_bytes: the largest piece.
        step: which checkpoint; by default the last.

    Raises:
        UsageError: the run has no (such) checkpoint.
        SatcascadeError: it is damaged.
    """
    checkpoints = CheckpointFolder(run)
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        raise UsageError(f"{run} has no such checkpoint: it has {', '.join(map(str, steps)) or 'none'}")
    checkpoint = checkpoints.load(steps[-1] if step is None else step)
    contents = {"step": str(checkpoint.step).encode(), RUN_FILE: (run / RUN_FILE).read_bytes()}
    for name in _HISTORIES:
        rows = read_rows(run / name, checkpoint.step)
        contents[name] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name in WEIGHTS:
        tensors = getattr(checkpoint, name)
        if not exact:
            tensors = {key: _rounded(value, _CARRIED_AS[name]) for key, value in tensors.items()}
        contents[name] = safetensors.torch.save(tensors)
    return cut_archive(contents, out / ARCHIVE, piece_bytes)


def join_checkpoint(pieces: Path, run: Path) -> Path:
    """Put a checkpoint into a run's folder, which may be missing; the checkpoint's folder is returned.

    Raises:
        UsageError: ``run`` holds another run, or has gone on further.
        SatcascadeError: a piece is missing or damaged, or the disk is full.
    """
    with TemporaryDirectory(dir=pieces) as work:
        whole = Path(work) / ARCHIVE
        joined(pieces, whole)
        contents = read_archive(whole)
    description, step = contents[RUN_FILE], int(contents["step"])
    if (run / RUN_FILE).exists():
        identities = [json.loads(text)["identity"] for text in ((run / RUN_FILE).read_bytes(), description)]
        if identities[0] != identities[1]:
            raise UsageError(f"{run} holds another run: choose another folder")
    elif run.exists() and any(run.iterdir()):
        raise UsageError(f"{run} is not empty and holds no run: choose another folder")
    checkpoints = CheckpointFolder(run)
    if (there := checkpoints.steps()) and there[-1] >= step:
        raise UsageError(f"{run} has a checkpoint of step {there[-1]}, these pieces one of step {step}")
    for name in (RUN_FILE, *_HISTORIES):
        with atomic_write(run / name) as aside:
            aside.write_bytes(contents[name])
    parts = {
        name: {key: _restored(value) for key, value in safetensors.torch.load(contents[name]).items()}
        for name in WEIGHTS
    }
    return checkpoints.save(Checkpoint(step=step, **parts))


def _rounded(tensor: Tensor, kind: torch.dtype) -> Tensor:
    # Counters of steps, and biases, which are few.
    return tensor if tensor.ndim < 2 else tensor.to(kind)


def _restored(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("run", type=Path)
    cutting.add_argument("pieces", type=Path)
    cutting.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    cutting.add_argument("--exact", action="store_true", help="carry float32 as float32")
    cutting.add_argument("--piece-mib", type=float, default=15)
    joining = commands.add_parser("join")
    joining.add_argument("pieces", type=Path)
    joining.add_argument("run", type=Path)
    given = parser.parse_args()
    if given.command == "join":
        print(f"last checkpoint: {join_checkpoint(given.pieces, given.run)}")
        return
    size = int(given.piece_mib * MIB)
    pieces = cut_checkpoint(given.run, given.pieces, exact=given.exact, piece_bytes=size, step=given.step)
    total = sum(piece.stat().st_size for piece in pieces)
    print(f"{len(pieces)} pieces, {total / MIB:.1f} MiB in all, in {given.pieces}")


if __name__ == "__main__":
    run_script(main)
