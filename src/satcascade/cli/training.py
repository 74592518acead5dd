"""The commands that train networks and put them together."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli import completion
from satcascade.cli.launch import is_first, launch, launched
from satcascade.cli.options import DeviceOption, JsonOption, amount, count, print_json
from satcascade.errors import UsageError


class Stage(str, Enum):
    """The two stages of the cascade."""

    base = "base"
    sr = "sr"


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder written by 'satcascade prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder; an existing run is resumed.")],
    stage: Annotated[Stage | None, typer.Argument(help="Which network.")] = None,
    joint: Annotated[bool, typer.Option("--joint", help="Both networks: RUN/base and RUN/sr.")] = False,
    preset: Annotated[
        str, typer.Option(autocompletion=completion.presets, help="Name of a preset, or a YAML file.")
    ] = "compact",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For example training.batch_size=16; repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="The rows to train on.")] = "train",
    init_from: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Start from the weights of a run or a model.")
    ] = None,
    device: DeviceOption = "auto",
    processes: Annotated[int, count("Processes (GPUs) to train on.")] = 1,
    minutes: Annotated[float | None, amount("Stop with a checkpoint after that many.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train one stage of a cascade, or with --joint both.

    The same command again resumes where it was stopped.
    """
    began = time.monotonic()
    if (stage is None) != joint:
        raise UsageError("say what to train: base, sr, or --joint for both")
    from satcascade.config.preset import load_preset

    load_preset(preset)
    if not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")
    if processes > 1 and not launched():
        raise typer.Exit(launch(processes, context.obj))

    from satcascade.training.run import train

    # Imports take seconds, which a lease counts too.
    left = None if minutes is None else minutes - (time.monotonic() - began) / 60
    checkpoints = train(
        ("base", "sr") if stage is None else (stage.value,),
        preset=preset,
        data=data,
        out=out,
        overrides=override or [],
        split=split,
        device=None if device == "auto" else device,
        init_from=init_from,
        minutes=left,
        quiet=quiet,
    )
    if not quiet and is_first():
        for checkpoint in checkpoints:
            print(f"last checkpoint: {checkpoint}")


def assemble(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE_RUN [SR_RUN] OUT",
            help="Runs of the stages, also as RUN@STEP, RUN@best, RUN@STEP:LENGTH; and the folder to write.",
        ),
    ],
    vae: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Autoencoder with a better decoder than the run's.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Make a model folder of the averaged weights of one training run, or of one of each stage."""
    if not 2 <= len(folders) <= 3:
        raise UsageError(
            "give the run of the base stage, that of super-resolution if any, and the folder to write"
        )
    *runs, out = folders
    for run in runs:
        if not any(Path(folder).is_dir() for folder in (run, run.rpartition("@")[0] or run)):
            raise UsageError(f"no run folder {run}: 'satcascade train' makes one")

    from satcascade.models.codec import LatentCodec
    from satcascade.training.assemble import assemble

    assemble(
        runs[0],
        runs[1] if len(runs) > 1 else None,
        Path(out),
        half=half,
        vae=None if vae is None else LatentCodec.load(vae).vae,
    )
    print(f"model in {out}: use it with 'satcascade sample CAPTION --model {out}'")


def runs(
    run: Annotated[list[Path], typer.Argument(help="Run folders.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw loss and speed: a .png, .svg or .pdf file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far training runs are, and in what several differ."""
    from satcascade.training.summary import plot as draw
    from satcascade.training.summary import summarize, table

    summaries = summarize(run)
    if as_json:
        print_json([each.to_json() for each in summaries])
    else:
        print(table(summaries))
    if plot is not None:
        draw(summaries, plot)
    if plot is not None and not as_json:
        print(f"\ncurves in {plot}")
