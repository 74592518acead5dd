"""The command that prepares image sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import QuietOption, count, numbers
from satcascade.errors import UsageError


def prepare(
    source: Annotated[str, typer.Argument(help="A folder, an annotation file, or owner/name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    image_size: Annotated[int, count("Side of the images in pixels.")] = 256,
    encoder: Annotated[str, typer.Option(help="minilm, t5-base, another T5, or a folder.")] = "minilm",
    kind: Annotated[str | None, typer.Option(help="Reader of the source; default: what fits.")] = None,
    split: Annotated[str, typer.Option(help="Split of rows to which the source gives none.")] = "train",
    caption_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Caption of images without one, such as 'a satellite image of {label}'.",
        ),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Bands to show, from 1; one for grey.")
    ] = None,
    stretch: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Percentiles shown as black and full; default: 2,98 beyond 8 bits."
        ),
    ] = None,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="Stretch each image by itself, not the set as one.")
    ] = False,
    max_nodata: Annotated[
        float, typer.Option(metavar="SHARE", help="A tile with more nodata than that is bad.")
    ] = 0.5,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out and say which.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Prepare a captioned image set for training."""
    chosen, percentiles = numbers("--bands", bands, int), numbers("--stretch", stretch, float)
    if percentiles is not None and len(percentiles) != 2:
        raise UsageError(
            f"--stretch '{stretch}' is not possible: give a low and a high percentile, such as 2,98"
        )

    from satcascade.data.prepare import prepare
    from satcascade.data.raster import RasterOptions

    report = prepare(
        source,
        out,
        image_size=image_size,
        encoder=encoder,
        skip_bad=skip_bad,
        progress=not quiet,
        kind=kind,
        split=split,
        raster=RasterOptions(chosen, percentiles, per_image, max_nodata),
        caption_template=caption_template,
    )
    if not quiet:
        print(report.summary())
