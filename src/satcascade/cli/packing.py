"""The command that makes a data set of generated images."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import JsonOption, count, print_json
from satcascade.errors import UsageError


class FormatName(str, Enum):
    """How a data set is laid out."""

    imagefolder = "imagefolder"
    webdataset = "webdataset"


def pack(
    folder: Annotated[Path, typer.Argument(help="Folder written by 'satcascade sample', all images there.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    kind: Annotated[
        FormatName, typer.Option("--format", help="A folder with metadata.jsonl, or tar shards.")
    ] = FormatName.imagefolder,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prepared set that the captions are of, for labels.")
    ] = None,
    shard_size: Annotated[int, count("Images of each tar file.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Make a data set of generated images, which other tools read as it is.

    The same command again resumes where it was stopped.
    """
    if data is not None and not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")

    from satcascade.generation.pack import pack

    report = pack(folder, out, kind.value, data, shard_size)
    if as_json:
        print_json({"folder": str(out), "images": report.images, "classes": report.classes})
    else:
        classes = f" of {len(report.classes)} classes" if report.classes else ""
        kept = f" ({report.kept} files were there)" if report.kept else ""
        print(f"{report.images} images{classes} in {out}{kept}")
