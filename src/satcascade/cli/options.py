"""What several commands share: kinds of options, and their checks."""

from __future__ import annotations

import json
import math
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from satcascade.cli import completion
from satcascade.diffusion.solvers import SOLVERS, check_solver
from satcascade.errors import UsageError

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")


class PrecisionName(str, Enum):
    """What networks compute in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def _one_or_more(option: typer.CallbackParam, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{option.opts[-1]} {value} is not possible: give 1 or more")
    return value


def _not_negative(option: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise UsageError(f"{option.opts[-1]} {value} is not possible: give 0 or more")
    return value


def _share(option: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise UsageError(f"{option.opts[-1]} {value} is not possible: give 0 to 1")
    return value


def count(about: str, *names: str) -> Any:
    """An option that takes an integer of 1 or more."""
    return typer.Option(*names, callback=_one_or_more, metavar="N", help=about)


def amount(about: str, metavar: str = "X") -> Any:
    """An option that takes a number of 0 or more."""
    return typer.Option(callback=_not_negative, metavar=metavar, help=about)


def share(about: str) -> Any:
    """An option that takes a number from 0 to 1."""
    return typer.Option(callback=_share, metavar="X", help=about)


def _seed(value: int) -> int:
    if not 0 <= value < 2**63:
        raise UsageError(f"--seed {value} is out of range: give an integer from 0 to 2^63 - 1")
    return value


def _device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise UsageError(f"--device '{value}' is not a device: give auto, cpu, cuda, cuda:1, ...")
    return value


def _scheduler(value: str | None) -> str | None:
    return None if value is None else check_solver(value)


DeviceOption = Annotated[str, typer.Option(callback=_device, help="auto, cpu, cuda, cuda:1, ...")]
PrecisionOption = Annotated[
    PrecisionName, typer.Option(help="auto is bfloat16 where the device has it: faster, less exact.")
]
SeedOption = Annotated[int, typer.Option(callback=_seed, help="Seed of the run.")]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        callback=_scheduler,
        autocompletion=completion.solvers,
        help=f"Sampler of both stages: {', '.join(SOLVERS)}.",
    ),
]
StepsOption = Annotated[int | None, count("Sampling steps of both stages.")]
BaseStepsOption = Annotated[int | None, count("Sampling steps of the base stage.")]
SRStepsOption = Annotated[int | None, count("Sampling steps of the super-resolution stage.")]
GuidanceOption = Annotated[float | None, amount("Guidance of the base stage; 1 is none.")]
SRGuidanceOption = Annotated[float | None, amount("Guidance of the super-resolution stage.")]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        autocompletion=completion.models,
        help="builtin, rsdiff, a folder, or owner/name on the hub.",
    ),
]
SeamlessOption = Annotated[
    bool, typer.Option("--seamless/--no-seamless", help="Shift new colours to meet the image's at the edge.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def check_out(out: Path | None) -> None:
    """Refuse a file in the place of a folder.

    Raises:
        UsageError: there is one.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder")


def print_json(content: Any) -> None:
    """Print an object as JSON; numbers that JSON does not have (NaN, infinities) become null."""
    print(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(option: str, text: str | None, kind: type[int] | type[float]) -> tuple[Any, ...] | None:
    """The numbers in a list with commas, or None for no list.

    Raises:
        UsageError: something in it is no such number.
    """
    if text is None:
        return None
    try:
        return tuple(kind(each) for each in text.split(","))
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{option} '{text}' is not possible: give {what} with commas") from error
