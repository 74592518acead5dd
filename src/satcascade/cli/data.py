"""The command that prepares image sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import count


def prepare(
    source: Annotated[str, typer.Argument(help="A folder, an annotation file, or owner/name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    image_size: Annotated[int, count("Side of the images in pixels.")] = 256,
    encoder: Annotated[str, typer.Option(help="minilm, t5-base, another T5, or a folder.")] = "minilm",
    kind: Annotated[str | None, typer.Option(help="Reader of the source; default: what fits.")] = None,
    split: Annotated[str, typer.Option(help="Split of rows to which the source gives none.")] = "train",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out and say which.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Prepare a captioned image set for training."""
    from satcascade.data.preparation import prepare

    report = prepare(
        source,
        out,
        image_size=image_size,
        encoder=encoder,
        skip_bad=skip_bad,
        progress=not quiet,
        kind=kind,
        split=split,
    )
    if not quiet:
        print(report.summary())
