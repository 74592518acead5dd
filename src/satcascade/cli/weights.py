"""The commands that exchange weights with imagen-pytorch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli import completion
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name


class WeightsName(str, Enum):
    """Which weights of a trainer's checkpoint."""

    ema = "ema"
    online = "online"


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of imagen-pytorch's trainer.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    base: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint to take the base stage from.")
    ] = None,
    weights: Annotated[
        WeightsName, typer.Option(help="The averaged weights, or those that were trained.")
    ] = WeightsName.ema,
    preset: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.presets,
            help="Name of a preset, or a YAML file; default: the one that fits.",
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Make a model folder of a checkpoint of RSDiff, written by imagen-pytorch."""
    for file in (checkpoint, base):
        if file is not None and not file.is_file():
            raise UsageError(f"no checkpoint file {file}")

    from satcascade.interop.imagen_checkpoint import convert

    made = convert(checkpoint, out, base=base, weights=weights.value, preset=preset, half=half)
    parameters = f"{made.parameters:,} parameters of preset {made.preset}"
    missing = "" if "sr" in made.stages else ", base stage only"
    print(f"{parameters}{missing} in {out}: use it with 'satcascade sample CAPTION --model {out}'")


def export(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=completion.models, help="An RSDiff model: rsdiff, a folder, or owner/name."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.pt", help="The file to write.")],
) -> None:
    """Write an RSDiff model as a checkpoint that imagen-pytorch's trainer loads."""
    check_model_name(model)

    from satcascade.interop.imagen_checkpoint import export

    export(model, out)
    print(f"checkpoint in {out}: load it with ImagenTrainer.load")
