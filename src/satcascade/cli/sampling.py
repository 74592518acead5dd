"""The command that makes images."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satcascade.cli.options import (
    BaseStepsOption,
    DeviceOption,
    GuidanceOption,
    ModelOption,
    PrecisionName,
    PrecisionOption,
    QuietOption,
    SchedulerOption,
    SeedOption,
    SRGuidanceOption,
    SRStepsOption,
    StepsOption,
    check_out,
    count,
)
from satcascade.cli.sharing import ProcessesOption, ShardOption, own_share, part_of_run, run_in_processes
from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name, load_pipeline

if TYPE_CHECKING:
    from satcascade.data.captions import Captions


class StopAt(str, Enum):
    """Where sampling may end early."""

    base = "base"


def sample(
    context: typer.Context,
    caption: Annotated[list[str] | None, typer.Argument(help="What to draw; one or more captions.")] = None,
    captions: Annotated[Path | None, typer.Option(metavar="FILE", help="Captions, one a line.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Captions of a prepared set.")] = None,
    split: Annotated[str, typer.Option(help="With --data: which rows.")] = "test",
    caption_number: Annotated[int, count("With --data: which caption of each row.")] = 1,
    draw: Annotated[int | None, count("With --data: draw so many rows at random.")] = None,
    draw_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of that draw.")] = 17,
    number: Annotated[int, count("Images of each caption.", "-n", "--number")] = 1,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: samples/...")
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, count("Images at once.")] = 8,
    steps: StepsOption = None,
    base_steps: BaseStepsOption = None,
    sr_steps: SRStepsOption = None,
    guidance: GuidanceOption = None,
    sr_guidance: SRGuidanceOption = None,
    scheduler: SchedulerOption = None,
    stop_at: Annotated[StopAt | None, typer.Option(help="Leave super-resolution out.")] = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    columns: Annotated[int | None, count("Columns of the contact sheet.")] = None,
    processes: ProcessesOption = 1,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Make images of captions.

    The same command again resumes where it was stopped.
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
    part = part_of_run(shard, processes)
    check_model_name(model)
    check_out(out)

    chosen, name = _captions(caption, captions, data, split, caption_number, draw, draw_seed)
    folder = out or Path("samples") / name
    if run_in_processes(processes, context.obj, len(chosen) * number, folder, quiet):
        return
    part, device, quiet = own_share(part, device, quiet)

    from satcascade.generation.run import GenerationRequest, generate

    request = GenerationRequest(
        captions=chosen,
        out=folder,
        per_caption=number,
        seed=seed,
        batch_size=batch_size,
        shard=part,
        stages={
            "base": StageSettings(base_steps or steps, guidance, scheduler),
            "sr": StageSettings(sr_steps or steps, sr_guidance, scheduler),
        },
        stop_at="base" if stop_at else None,
        columns=columns,
    )
    pipeline = load_pipeline(model, device=device, precision=precision.value)
    report = generate(pipeline, request, progress=not quiet)
    # Of several processes the one that started them tells what all have made.
    if not quiet and processes == 1:
        print(report.summary)


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
    from satcascade.data.captions import Captions, slug

    if data is not None:
        found = Captions.from_data(data, split, number, draw, draw_seed)
        return found, slug(f"{data.resolve().name} {split}")
    if file is not None:
        return Captions.from_file(file), slug(file.stem)
    assert texts is not None
    return Captions.of(texts), slug(texts[0])
