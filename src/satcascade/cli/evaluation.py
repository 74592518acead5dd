"""The commands that measure images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import names
from satcascade.errors import UsageError


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of generated images with a captions.txt.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A prepared set, or a published one.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="REPORT", help="The folder to write.")],
    split: Annotated[str, typer.Option(help="The real images to compare with.")] = "test",
    metrics: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of frechet, kernel, manifold, scene, ... (see the docs)."),
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="A,B", help="Feature networks, the first for all but the distances.")
    ] = "efficientnet-lite0",
    clip: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="CLIP model of the CLIP-score.")
    ] = "openai/clip-vit-base-patch32",
    inception_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The Inception networks' weights, where not fetched.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
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
    )
    found = evaluate(request, progress=not quiet)
    if not quiet:
        for name, value in found.items():
            print(f"{name:45s} {value:>10,}" if isinstance(value, int) else f"{name:45s} {value:>10.4f}")
        print(f"report in {out}: 'satcascade report {out}' makes a page of it")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="REPORT ...", help="The first is the main one.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    sweep: Annotated[
        list[Path] | None, typer.Option(metavar="TSV", help="Table of a sweep, for its curves; repeatable.")
    ] = None,
) -> None:
    """Make one self-contained page of evaluations."""
    from satcascade.evaluation.report import write_report

    print(f"page in {write_report(folders, out, sweep or [])}")
