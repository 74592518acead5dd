"""A run of images that processes share: the options of the commands that make images, and what they do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.launch import launch, launched, place
from satcascade.cli.options import count
from satcascade.errors import UsageError
from satcascade.generation.shard import Shard

ProcessesOption = Annotated[int, count("Processes (GPUs) to share the images.")]
ShardOption = Annotated[str, typer.Option(metavar="I/N", help="Make only part I of N of the run.")]


def part_of_run(shard: str, processes: int) -> Shard:
    """The part of a run that a command is asked to make.

    Args:
        shard: as the option ``--shard`` has it.
        processes: as the option ``--processes`` has it.

    Raises:
        UsageError: it is no shard, or several processes share the images anyway.
    """
    part = Shard.parse(shard)
    if part.count > 1 and (processes > 1 or launched()):
        who = "--processes" if processes > 1 else "torchrun"
        raise UsageError(f"{who} shares the images out itself: leave --shard out")
    return part


def run_in_processes(processes: int, arguments: Sequence[str], images: int, out: Path, quiet: bool) -> bool:
    """Run the same command in several processes, if it is to be and is not yet one of them.

    Args:
        processes: how many.
        arguments: of the command.
        images: how many they make together, and
        out: in which folder, for the summary.
        quiet: print none.

    Returns:
        Whether it has been run.

    Raises:
        typer.Exit: a process has failed; with its exit status.
    """
    if processes == 1 or launched():
        return False
    began = time.monotonic()
    if status := launch(processes, arguments):
        raise typer.Exit(status)
    if not quiet:
        print(f"{images} images in {out} ({time.monotonic() - began:.1f} s, {processes} processes)")
    return True


def own_share(part: Shard, device: str, quiet: bool) -> tuple[Shard, str, bool]:
    """What this process makes of a run, on which device, and whether it is quiet.

    One of several processes makes a shard, on a GPU of its own where there are any; only the first speaks. A
    process that is alone does what it is asked to.
    """
    if not launched():
        return part, device, quiet
    rank, world, local = place()
    if device in ("auto", "cuda") and _has_gpus():
        device = f"cuda:{local}"
    return Shard(rank + 1, world), device, quiet or rank > 0


def _has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()
