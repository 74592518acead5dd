"""The command that puts a model on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli import completion
from satcascade.cli.options import JsonOption, print_json
from satcascade.zoo import check_model_name


def push(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=completion.models, help="The folder of a saved pipeline, or the name of a model."
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository that others cannot see.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--license", metavar="NAME", help="Licence in a new card, as the hub calls it.")
    ] = "other",
    metrics: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="Numbers for the card: a report of evaluate.")
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|DIR", help="For the card: a picture, or a generated folder; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go there, and send nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a model on the hub, with a card.

    Files of the model that are in the repository already are replaced; it takes a login ('hf auth login').
    """
    check_model_name(model)

    from satcascade.io.tables import aligned_table
    from satcascade.publishing.push import plan_upload
    from satcascade.publishing.push import push as send

    upload = plan_upload(model, repository, licence, metrics, pictures or [])
    address = None if dry_run else send(upload, private)
    sizes = upload.sizes()
    if as_json:
        print_json({"repository": repository, "address": address, "files": sizes})
    elif dry_run:
        rows = [[name, f"{size:,}"] for name, size in [*sizes.items(), ("in all", sum(sizes.values()))]]
        print(aligned_table(rows, "<>"))
        print(f"nothing was sent; without --dry-run it goes to {repository}")
    else:
        print(f"{len(sizes)} files ({sum(sizes.values()) / 1e6:.1f} MB) in {address}")
