"""The command that enlarges images of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli.options import (
    DeviceOption,
    ModelOption,
    PrecisionName,
    PrecisionOption,
    QuietOption,
    SchedulerOption,
    SeedOption,
    amount,
    check_out,
    count,
)
from satcascade.cli.scenes import BatchOption, OverlapOption
from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name, load_pipeline


def upscale(
    images: Annotated[Path, typer.Argument(metavar="IMAGE|DIR", help="8 bits, RGB: PNG, JPEG or GeoTIFF.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to put them.")] = Path(
        "upscaled"
    ),
    caption: Annotated[str | None, typer.Option(help="What the images show.")] = None,
    overlap: OverlapOption = 0.5,
    seed: SeedOption = 0,
    batch_size: BatchOption = 4,
    steps: Annotated[int | None, count("Sampling steps.")] = None,
    guidance: Annotated[float | None, amount("Guidance by the caption; 1 is none.")] = None,
    low_res_log_snr: Annotated[
        float | None, typer.Option(metavar="X", help="Noise on the image: more is closer to it, less freer.")
    ] = None,
    scheduler: SchedulerOption = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    quiet: QuietOption = False,
) -> None:
    """Enlarge images with the super-resolution stage of a model.

    The same command again resumes where it was stopped.
    """
    if not images.exists():
        raise UsageError(f"no image or folder {images}")
    if caption is not None and not caption.strip():
        raise UsageError("a caption is empty: describe the images in words, or leave it out")
    if guidance is not None and caption is None:
        raise UsageError("--guidance is guidance by a caption: give one with --caption")
    check_model_name(model)
    check_out(out)

    from satcascade.generation.upscaling import UpscaleRequest
    from satcascade.generation.upscaling import upscale as upscale_images
    from satcascade.sampling.scene import SceneSettings

    request = UpscaleRequest(
        images=images,
        out=out,
        caption=caption,
        seed=seed,
        scene=SceneSettings(overlap=overlap, batch_size=batch_size),
        sr=StageSettings(steps, guidance, scheduler),
        low_res_log_snr=low_res_log_snr,
    )
    pipeline = load_pipeline(model, device=device, precision=precision.value)
    report = upscale_images(pipeline, request, progress=not quiet)
    if not quiet:
        kept = f", {report.kept} were there" if report.kept else ""
        print(f"{report.made} images in {report.out} ({report.seconds:.1f} s{kept})")
