"""The program: its commands, and how it ends."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from satcascade.cli.codec import train_codec
from satcascade.cli.data import prepare
from satcascade.cli.doctor import doctor
from satcascade.cli.editing import edit
from satcascade.cli.encode import encode
from satcascade.cli.evaluation import evaluate, report, sweep
from satcascade.cli.hub import push
from satcascade.cli.launch import is_first
from satcascade.cli.packing import pack
from satcascade.cli.sampling import sample
from satcascade.cli.scenes import extend, scene
from satcascade.cli.training import assemble, runs, train
from satcascade.cli.upscaling import upscale
from satcascade.cli.web import web
from satcascade.cli.weights import convert, export
from satcascade.errors import SatcascadeError

_TRAIN_CODEC = "train codec"


class _Commands(TyperGroup):
    """Commands, of which one has a name of two words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = _TRAIN_CODEC.split()
        return super().parse_args(ctx, [_TRAIN_CODEC, *args[2:]] if args[:2] == words else args)


app = typer.Typer(
    name="satcascade",
    cls=_Commands,
    help="Text to satellite image with a two-stage diffusion cascade.",
    rich_markup_mode=None,
)

_INTERRUPTED = 130


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Anywhere.")] = False,
) -> None:
    pass


# The order of the help.
_MAKING = (sample, edit, scene, extend, upscale, web)
_TRAINING = (prepare, encode, train, runs, assemble, convert, export)
_MEASURING = (evaluate, sweep, report)
_SHARING = (pack, push, doctor)
for _command in (*_MAKING, *_TRAINING, *_MEASURING, *_SHARING):
    app.command()(_command)
    if _command is train:
        app.command(_TRAIN_CODEC)(train_codec)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    options = [argument for argument in given[:end] if argument != "--debug"]
    if "--version" in options[:1]:
        from satcascade import __version__

        print(f"satcascade {__version__}")
        sys.exit(0)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = partial(_show_warning, debug)
        sys.exit(_run((options + given[end:]) or ["--help"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    """Run a command; its exit status."""
    try:
        # What a command starts itself again with.
        status = app(arguments, prog_name="satcascade", standalone_mode=False, obj=arguments)
        # Newer versions of typer turn an interruption into this status, older ones into Abort.
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted: the same command again resumes where this one stopped", _INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, SatcascadeError):
            return _fail(str(error), error.exit_code)
        if hasattr(error, "format_message"):  # a usage error of click, which typer may carry inside itself
            return _fail(f"{error.format_message()} (see 'satcascade --help')", 2)
        if isinstance(error, OSError):
            where = f": {error.filename}" if error.filename else ""
            return _fail(f"{error.strerror or error}{where}", 1)
        return _fail(f"unexpected {type(error).__name__}: {error} (run again with --debug and report it)", 1)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _show_warning(debug: bool, message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Show our own warnings as one line; those of libraries about themselves only with ``--debug``.

    What several processes of one command would all say, the first of them says.
    """
    if is_first() and (debug or category.__module__.startswith("satcascade")):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
