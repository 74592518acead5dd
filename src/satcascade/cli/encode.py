"""The command that stores latents beside a prepared set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import DeviceOption, QuietOption, count, numbers
from satcascade.errors import UsageError


def encode(
    data: Annotated[Path, typer.Argument(help="Folder written by 'satcascade prepare'.")],
    codec: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="The autoencoder: builtin, or its folder.")
    ] = "builtin",
    image_size: Annotated[int, count("Side of the images in pixels.")] = 256,
    views: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which of the eight symmetries, from 0; default: all.")
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Store the latents of a prepared set, for training on them.

    The same command again resumes where it was stopped.
    """
    chosen = numbers("--views", views, int)
    if chosen is not None and not all(0 <= each < 8 for each in chosen):
        raise UsageError(f"--views '{views}' is not possible: give numbers from 0 to 7 with commas")
    if not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")

    from satcascade.data.latents import encode_latents
    from satcascade.data.prepared import PreparedDataset
    from satcascade.data.views import SYMMETRIES
    from satcascade.hardware.devices import pick_device
    from satcascade.training.run import open_codec

    where = pick_device(device)
    path = encode_latents(
        PreparedDataset.open(data),
        open_codec(codec, where),
        image_size,
        chosen or range(SYMMETRIES),
        device=where,
        progress=not quiet,
    )
    if not quiet:
        print(f"latents in {path}")
