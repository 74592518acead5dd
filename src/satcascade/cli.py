"""The command line: arguments in, one-line errors out; the work is done elsewhere.

Only typer is imported at the top, so that help and refusals of bad arguments come at once.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from satcascade.errors import SatcascadeError, UsageError
from satcascade.model_names import check_model_name
from satcascade.sharding import Shard
from satcascade.solvers import SOLVERS, check_solver

if TYPE_CHECKING:
    from satcascade.captions import Captions

app = typer.Typer(
    name="satcascade",
    help="Text to satellite image with a two-stage diffusion cascade.",
    add_completion=False,
    rich_markup_mode=None,
)

_INTERRUPTED = 130
_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")


class Stage(str, Enum):
    """The two stages of the cascade."""

    base = "base"
    sr = "sr"


class StopAt(str, Enum):
    """Where sampling may end early."""

    base = "base"


class WeightsName(str, Enum):
    """Which weights of a trainer's checkpoint."""

    ema = "ema"
    online = "online"


class PrecisionName(str, Enum):
    """What networks compute in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def _one_or_more(option: typer.CallbackParam, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{option.opts[-1]} {value} is not possible: give 1 or more")
    return value


def _not_negative(option: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise UsageError(f"{option.opts[-1]} {value} is not possible: give 0 or more")
    return value


def _count(about: str, *names: str) -> Any:
    return typer.Option(*names, callback=_one_or_more, metavar="N", help=about)


def _amount(about: str) -> Any:
    return typer.Option(callback=_not_negative, metavar="X", help=about)


def _seed(value: int) -> int:
    if not 0 <= value < 2**63:
        raise UsageError(f"--seed {value} is out of range: give an integer from 0 to 2^63 - 1")
    return value


def _device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise UsageError(f"--device '{value}' is not a device: give auto, cpu, cuda, cuda:1, ...")
    return value


def _scheduler(value: str | None) -> str | None:
    return None if value is None else check_solver(value)


DeviceOption = Annotated[str, typer.Option(callback=_device, help="auto, cpu, cuda, cuda:1, ...")]


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Anywhere.")] = False,
) -> None:
    pass


@app.command()
def sample(
    caption: Annotated[list[str] | None, typer.Argument(help="What to draw; one or more captions.")] = None,
    captions: Annotated[Path | None, typer.Option(metavar="FILE", help="Captions, one a line.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Captions of a prepared set.")] = None,
    split: Annotated[str, typer.Option(help="With --data: which rows.")] = "test",
    caption_number: Annotated[int, _count("With --data: which caption of each row.")] = 1,
    draw: Annotated[int | None, _count("With --data: draw so many rows at random.")] = None,
    draw_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of that draw.")] = 17,
    number: Annotated[int, _count("Images of each caption.", "-n", "--number")] = 1,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: samples/...")
    ] = None,
    seed: Annotated[int, typer.Option(callback=_seed, help="Seed of the run.")] = 0,
    batch_size: Annotated[int, _count("Images at once.")] = 8,
    steps: Annotated[int | None, _count("Sampling steps of both stages.")] = None,
    base_steps: Annotated[int | None, _count("Sampling steps of the base stage.")] = None,
    sr_steps: Annotated[int | None, _count("Sampling steps of the super-resolution stage.")] = None,
    guidance: Annotated[float | None, _amount("Guidance of the base stage; 1 is none.")] = None,
    sr_guidance: Annotated[float | None, _amount("Guidance of the super-resolution stage.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(callback=_scheduler, help=f"Sampler of both stages: {', '.join(SOLVERS)}.")
    ] = None,
    stop_at: Annotated[StopAt | None, typer.Option(help="Leave super-resolution out.")] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="builtin, rsdiff, a folder, or owner/name on the hub.")
    ] = "builtin",
    device: DeviceOption = "auto",
    precision: Annotated[
        PrecisionName, typer.Option(help="auto is bfloat16 where the device has it: faster, less exact.")
    ] = PrecisionName.float32,
    columns: Annotated[int | None, _count("Columns of the contact sheet.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Make only part I of N of the run.")] = "1/1",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Make images of captions.

    The same command again goes on where it was stopped.
    """
    if sum(bool(source) for source in (caption, captions, data)) != 1:
        raise UsageError("give captions in one way: as arguments, with --captions FILE, or with --data DIR")
    for text in caption or []:
        if not text.strip():
            raise UsageError("a caption is empty: describe the scene in words")
    if captions is not None and not captions.is_file():
        raise UsageError(f"no caption file {captions}")
    if data is not None and not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")
    if draw is not None and data is None:
        raise UsageError("--draw draws rows of a prepared set: give one with --data DIR")
    part = Shard.parse(shard)
    check_model_name(model)
    _check_out(out)

    from satcascade.generation import GenerationRequest, generate
    from satcascade.pipeline import load_pipeline

    chosen, name = _captions(caption, captions, data, split, caption_number, draw, draw_seed)
    request = GenerationRequest(
        captions=chosen,
        out=out or Path("samples") / name,
        per_caption=number,
        seed=seed,
        batch_size=batch_size,
        shard=part,
        base_steps=base_steps or steps,
        sr_steps=sr_steps or steps,
        base_guidance=guidance,
        sr_guidance=sr_guidance,
        stop_at=stop_at.value if stop_at else None,
        columns=columns,
    )
    pipeline = load_pipeline(model, device=device, precision=precision.value, scheduler=scheduler)
    report = generate(pipeline, request, progress=not quiet)
    if not quiet:
        state = "" if report.complete else f"; {report.total} in the whole run, not all there yet"
        kept = f", {report.kept} were there" if report.kept else ""
        print(f"{report.made} images in {report.out} ({report.seconds:.1f} s{kept}){state}")


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A folder, an annotation file, or owner/name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    image_size: Annotated[int, _count("Side of the images in pixels.")] = 256,
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


@app.command()
def train(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder written by 'satcascade prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder; an existing run goes on.")],
    stage: Annotated[Stage | None, typer.Argument(help="Which network.")] = None,
    joint: Annotated[bool, typer.Option("--joint", help="Both networks: RUN/base and RUN/sr.")] = False,
    preset: Annotated[str, typer.Option(help="Name of a preset, or a YAML file.")] = "compact",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For example training.batch_size=16; repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="The rows to train on.")] = "train",
    init_from: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Start from the weights of a run or a model.")
    ] = None,
    device: DeviceOption = "auto",
    processes: Annotated[int, _count("Processes (GPUs) to train on.")] = 1,
    minutes: Annotated[float | None, _amount("Stop with a checkpoint after that many.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train one stage of a cascade, or with --joint both.

    The same command again goes on where it was stopped.
    """
    if (stage is None) != joint:
        raise UsageError("say what to train: base, sr, or --joint for both")
    from satcascade.config import load_preset

    load_preset(preset)
    if not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        options = {"data": data, "out": out, "preset": preset, "split": split, "device": device}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments += [f"--set={setting}" for setting in override or []]
        arguments += [] if init_from is None else [f"--init-from={init_from}"]
        arguments += [] if minutes is None else [f"--minutes={minutes}"]
        arguments += ["--quiet"] if quiet else []
        _launch(processes, ["train", "--joint" if stage is None else stage.value, *arguments])

    from satcascade.training.run import train

    checkpoints = train(
        ("base", "sr") if stage is None else (stage.value,),
        preset=preset,
        data=data,
        out=out,
        overrides=override or [],
        split=split,
        device=None if device == "auto" else device,
        init_from=init_from,
        minutes=minutes,
        quiet=quiet,
    )
    if not quiet and os.environ.get("RANK", "0") == "0":
        for checkpoint in checkpoints:
            print(f"last checkpoint: {checkpoint}")


@app.command()
def assemble(
    base_run: Annotated[Path, typer.Argument(help="Run of the base stage.")],
    sr_run: Annotated[Path, typer.Argument(help="Run of the super-resolution stage.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Make a model folder of the averaged weights of two training runs."""
    for run in (base_run, sr_run):
        if not run.is_dir():
            raise UsageError(f"no run folder {run}: 'satcascade train' makes one")

    from satcascade.training.export import assemble

    assemble(base_run, sr_run, out, half=half)
    print(f"model in {out}: use it with 'satcascade sample CAPTION --model {out}'")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of imagen-pytorch's trainer.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    base: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint to take the base stage from.")
    ] = None,
    weights: Annotated[
        WeightsName, typer.Option(help="The averaged weights, or those that were trained.")
    ] = WeightsName.ema,
    preset: Annotated[
        str | None, typer.Option(help="Name of a preset, or a YAML file; default: the one that fits.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Make a model folder of a checkpoint of RSDiff, written by imagen-pytorch."""
    for file in (checkpoint, base):
        if file is not None and not file.is_file():
            raise UsageError(f"no checkpoint file {file}")

    from satcascade.checkpoints import convert

    made = convert(checkpoint, out, base=base, weights=weights.value, preset=preset, half=half)
    parameters = f"{made.parameters:,} parameters of preset {made.preset}"
    missing = "" if "sr" in made.stages else ", base stage only"
    print(f"{parameters}{missing} in {out}: use it with 'satcascade sample CAPTION --model {out}'")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="An RSDiff model: rsdiff, a folder, or owner/name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.pt", help="The file to write.")],
) -> None:
    """Write an RSDiff model as a checkpoint that imagen-pytorch's trainer loads."""
    check_model_name(model)

    from satcascade.checkpoints import export

    export(model, out)
    print(f"checkpoint in {out}: load it with ImagenTrainer.load")


@app.command()
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
        metrics=None if metrics is None else _names(metrics),
        features=_names(features),
        clip=clip,
        inception_weights=inception_weights,
    )
    found = evaluate(request, progress=not quiet)
    if not quiet:
        for name, value in found.items():
            print(f"{name:45s} {value:>10,}" if isinstance(value, int) else f"{name:45s} {value:>10.4f}")
        print(f"report in {out}: 'satcascade report {out}' makes a page of it")


@app.command()
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
        status = app(arguments, prog_name="satcascade", standalone_mode=False)
        # Newer versions of typer turn an interruption into this status, older ones into Abort.
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted: the same command again goes on where this one stopped", _INTERRUPTED)
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
    """Show our own warnings as one line; those of libraries about themselves only with ``--debug``."""
    if debug or category.__module__.startswith("satcascade"):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_out(out: Path | None) -> None:
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder")


def _captions(
    texts: list[str] | None,
    file: Path | None,
    data: Path | None,
    split: str,
    number: int,
    draw: int | None,
    draw_seed: int,
) -> tuple[Captions, str]:
    """The captions of a run, and what its folder is called by default."""
    from satcascade.captions import Captions, slug

    if data is not None:
        found = Captions.from_data(data, split, number, draw, draw_seed)
        return found, slug(f"{data.resolve().name} {split}")
    if file is not None:
        return Captions.from_file(file), slug(file.stem)
    assert texts is not None
    return Captions.of(texts), slug(texts[0])


def _launch(processes: int, arguments: list[str]) -> NoReturn:
    """Run a command in several processes that find each other, and exit as they do."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*launcher, str(processes), "-m", "satcascade", *arguments]
    sys.exit(subprocess.run(command, check=False).returncode)
