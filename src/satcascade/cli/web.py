"""The command that serves the page."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from satcascade.cli.options import DeviceOption, ModelOption, PrecisionName, PrecisionOption
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name, load_pipeline


def _port(value: int | None) -> int | None:
    if value is not None and not 0 <= value < 65536:
        raise UsageError(f"--port {value} is not possible: give 0 to 65535, 0 for any that is free")
    return value


def web(
    model: ModelOption = "builtin",
    port: Annotated[
        int | None,
        typer.Option(callback=_port, metavar="P", help="Default: the first that is free from 7860 on."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not show the page in a browser.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
) -> None:
    """Open a page to draw pictures in; needs the extra web.

    It listens on this machine alone, unless --host says otherwise, and asks no other machine for anything.
    """
    check_model_name(model)

    from satcascade.web.server import check_gradio, free_port, serve

    # What is refused is refused before the model is loaded.
    check_gradio()
    number = free_port(host, port)
    load = partial(load_pipeline, model, device=device, precision=precision.value)
    serve(load, host=host, port=number, open_browser=not no_open)
