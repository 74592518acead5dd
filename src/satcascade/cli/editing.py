"""The command that edits an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import (
    DeviceOption,
    GuidanceOption,
    ModelOption,
    PrecisionName,
    PrecisionOption,
    QuietOption,
    SchedulerOption,
    SeamlessOption,
    SeedOption,
    SRGuidanceOption,
    StepsOption,
    amount,
    check_out,
    count,
    numbers,
    share,
)
from satcascade.cli.sharing import ProcessesOption, ShardOption, own_share, part_of_run, run_in_processes
from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name, load_pipeline


def edit(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image, 8 bits, RGB.")],
    caption: Annotated[str, typer.Argument(help="What it, or its marked part, is to show.")],
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Image of the same size: white is remade.")
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Remake a box: left, top, width, height.")
    ] = None,
    strength: Annotated[
        float | None, share("0 is the image, 1 all new. Default: 1 with a mask or a box, otherwise 0.8.")
    ] = None,
    resampling: Annotated[int, count("With a mask or a box: take all steps so often, to fit in better.")] = 1,
    feather: Annotated[
        int | None, amount("Width of the soft edge inside of a mask. Default: 8.", metavar="PX")
    ] = None,
    seamless: SeamlessOption = True,
    number: Annotated[int, count("Pictures to make.", "-n", "--number")] = 1,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: samples/...")
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, count("Pictures at once.")] = 8,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    sr_guidance: SRGuidanceOption = None,
    scheduler: SchedulerOption = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    processes: ProcessesOption = 1,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Remake a part of an image by a caption, or vary the whole of it.

    The same command again resumes where it was stopped.
    """
    if not caption.strip():
        raise UsageError("the caption is empty: describe in words what the image is to show")
    for file in (image, mask):
        if file is not None and not file.is_file():
            raise UsageError(f"no image file {file}")
    if mask is not None and box is not None:
        raise UsageError("say in one way what is to be remade: with --mask or with --box")
    if mask is None and box is None and (resampling > 1 or feather is not None):
        option = "--resampling" if resampling > 1 else "--feather"
        raise UsageError(f"{option} is for a part of an image: say which with --mask or --box")
    corners = numbers("--box", box, int)
    if corners is not None and len(corners) != 4:
        raise UsageError(f"--box '{box}' is not possible: give left, top, width and height with commas")
    part = part_of_run(shard, processes)
    check_model_name(model)
    check_out(out)

    from satcascade.data.captions import Captions, slug

    folder = out or Path("samples") / slug(f"{image.stem} {caption}")
    if run_in_processes(processes, context.obj, number, folder, quiet):
        return
    part, device, quiet = own_share(part, device, quiet)

    from satcascade.generation.edit_source import EditSource
    from satcascade.generation.run import GenerationRequest, generate

    request = GenerationRequest(
        captions=Captions.of([caption]),
        out=folder,
        per_caption=number,
        seed=seed,
        batch_size=batch_size,
        shard=part,
        stages={
            "base": StageSettings(steps, guidance, scheduler),
            "sr": StageSettings(steps, sr_guidance, scheduler),
        },
        edit=EditSource(image, mask, corners, strength, resampling, feather, seamless),
    )
    pipeline = load_pipeline(model, device=device, precision=precision.value)
    report = generate(pipeline, request, progress=not quiet)
    # Of several processes the one that started them tells what all have made.
    if not quiet and processes == 1:
        print(report.summary)
