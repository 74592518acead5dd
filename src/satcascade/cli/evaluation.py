"""The commands that measure images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli import completion
from satcascade.cli.options import (
    DeviceOption,
    JsonOption,
    PrecisionName,
    PrecisionOption,
    SeedOption,
    count,
    names,
    numbers,
    print_json,
)
from satcascade.diffusion.solvers import check_solver
from satcascade.errors import UsageError
from satcascade.evaluation.measures.registry import MEASURES
from satcascade.zoo import check_model_name

_MEASURES = "; ".join(
    f"{name} ({measure.about}{'' if measure.usual else '; only if named'})"
    for name, measure in MEASURES.items()
)
_SWEPT = ", ".join(name for name, measure in MEASURES.items() if measure.swept)

FeaturesOption = Annotated[
    str, typer.Option(metavar="A,B", help="Feature networks, the first for all but the distances.")
]
ClipOption = Annotated[str, typer.Option(metavar="NAME|DIR", help="CLIP model of the CLIP-score.")]
InceptionOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The Inception networks' weights, where not fetched.")
]


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of generated images with a captions.txt.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A prepared set, or a published one.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="REPORT", help="The folder to write.")],
    split: Annotated[str, typer.Option(help="The real images to compare with.")] = "test",
    metrics: Annotated[
        str | None,
        typer.Option(metavar="A,B", help=f"What to measure: {_MEASURES}."),
    ] = None,
    features: FeaturesOption = "efficientnet-lite0",
    clip: ClipOption = "openai/clip-vit-base-patch32",
    inception_weights: InceptionOption = None,
    device: DeviceOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure generated images against real ones."""
    for folder in (bundle, data):
        if not folder.exists():
            raise UsageError(f"no folder {folder}")

    from satcascade.evaluation.run import EvaluationRequest, evaluate

    request = EvaluationRequest(
        bundle=bundle,
        data=data,
        out=out,
        split=split,
        metrics=None if metrics is None else names(metrics),
        features=names(features),
        clip=clip,
        inception_weights=inception_weights,
        device=device,
    )
    measured = evaluate(request, progress=not quiet)
    if as_json:
        print_json(measured)
    elif not quiet:
        for name, value in measured.items():
            print(f"{name:45s} {value:>10,}" if isinstance(value, int) else f"{name:45s} {value:>10.4f}")
        print(f"report in {out}: 'satcascade report {out}' makes a page of it")


def sweep(
    data: Annotated[Path, typer.Option(metavar="DIR", help="A prepared set.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="The folder; an existing one grows.")
    ],
    guidance: Annotated[
        str | None, typer.Option(metavar="A,B", help="Guidance scales of the base stage to try.")
    ] = None,
    sr_guidance: Annotated[
        str | None, typer.Option(metavar="A,B", help="Guidance scales of super-resolution to try.")
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="A,B", help="Steps of both stages to try.")] = None,
    base_steps: Annotated[
        str | None, typer.Option(metavar="A,B", help="Steps of the base stage to try.")
    ] = None,
    sr_steps: Annotated[
        str | None, typer.Option(metavar="A,B", help="Steps of super-resolution to try.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="A,B", help="Samplers of both stages to try, as of sample.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="To try: models, RUN for all, RUN@STEP[:LENGTH], RUN@best."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            autocompletion=completion.models,
            help="The model, or the rest of it where runs are tried.",
        ),
    ] = "builtin",
    number: Annotated[int, count("Images of each row of the table.", "-n", "--number")] = 256,
    split: Annotated[str, typer.Option(help="Captions and real images; never test.")] = "val",
    seed: SeedOption = 0,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"As of evaluate; default: {_SWEPT}.")
    ] = None,
    features: FeaturesOption = "efficientnet-lite0",
    clip: ClipOption = "openai/clip-vit-base-patch32",
    inception_weights: InceptionOption = None,
    by: Annotated[str | None, typer.Option(metavar="MEASURE", help="What the best row is chosen by.")] = None,
    batch_size: Annotated[int, count("Images at once.")] = 8,
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try settings on the validation split, and say which is best.

    The same command again resumes where it was stopped; other values add rows.
    """
    if not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")
    schedulers = None if scheduler is None else names(scheduler)
    for name in schedulers or ():
        check_solver(name)
    check_model_name(model)

    from satcascade.sweep.request import SweepRequest
    from satcascade.sweep.run import sweep

    request = SweepRequest(
        data=data,
        out=out,
        model=model,
        checkpoints=None if checkpoint is None else names(checkpoint),
        scheduler=schedulers,
        guidance=numbers("--guidance", guidance, float),
        sr_guidance=numbers("--sr-guidance", sr_guidance, float),
        steps=numbers("--steps", steps, int),
        base_steps=numbers("--base-steps", base_steps, int),
        sr_steps=numbers("--sr-steps", sr_steps, int),
        n=number,
        split=split,
        seed=seed,
        metrics=None if metrics is None else names(metrics),
        features=names(features),
        clip=clip,
        inception_weights=inception_weights,
        by=by,
        batch_size=batch_size,
        device=device,
        precision=precision.value,
    )
    result = sweep(request, progress=not quiet)
    if as_json:
        print_json(result.to_json())
    elif not quiet:
        print(result.summary())


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="REPORT ...", help="The first is the main one.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    sweep: Annotated[
        list[Path] | None, typer.Option(metavar="TSV", help="Table of a sweep, for its curves; repeatable.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the page's figures too, as SVG files.")
    ] = None,
) -> None:
    """Make one self-contained page of evaluations."""
    from satcascade.evaluation.report.page import write_report

    print(f"page in {write_report(folders, out, sweep or [], figures)}")
