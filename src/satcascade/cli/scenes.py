"""The commands that make pictures of any size: scenes, and pictures that grow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    SeamlessOption,
    SeedOption,
    SRGuidanceOption,
    SRStepsOption,
    StepsOption,
    amount,
    check_out,
    count,
)
from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.zoo import check_model_name, load_pipeline

if TYPE_CHECKING:
    from satcascade.generation.scene_job import Extension
    from satcascade.sampling.regions import Regions

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


def _share(value: float) -> float:
    if not 0 <= value <= 0.75:
        raise UsageError(f"--overlap {value} is not possible: give a share of a window, 0 to 0.75")
    return value


def _grow(side: str) -> Any:
    return amount(f"Pixels to grow by {side}.", metavar="PX")


_OutOption = Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: scenes/...")]
OverlapOption = Annotated[
    float,
    typer.Option(callback=_share, metavar="X", help="Overlap of windows, as a share of one: 0 to 0.75."),
]
BatchOption = Annotated[int, count("Windows at once.")]
_SaveOption = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How often to save a state to resume from.")
]


def scene(
    caption: Annotated[str | None, typer.Argument(help="What to draw; with --map: its background.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")] = None,
    map_: Annotated[
        Path | None, typer.Option("--map", metavar="YAML", help="Which caption is where: boxes, or colours.")
    ] = None,
    overlap: OverlapOption = 0.5,
    wrap: Annotated[bool, typer.Option("--wrap", help="A tile that repeats without a seam.")] = False,
    out: _OutOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 4,
    steps: StepsOption = None,
    base_steps: BaseStepsOption = None,
    sr_steps: SRStepsOption = None,
    guidance: GuidanceOption = None,
    sr_guidance: SRGuidanceOption = None,
    scheduler: SchedulerOption = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    save_every: _SaveOption = 60.0,
    quiet: QuietOption = False,
) -> None:
    """Make one picture of any size, of a caption or of a map of captions.

    The same command again resumes where it was stopped.
    """
    if caption is None and map_ is None:
        raise UsageError("give a caption, or captions of parts of the scene with --map YAML")
    if caption is not None and not caption.strip():
        raise UsageError("a caption is empty: describe the scene in words")
    if map_ is not None and not map_.is_file():
        raise UsageError(f"no map file {map_}")
    wanted = None if size is None else _pixels(size)
    if map_ is None and wanted is None:
        raise UsageError("give the size of the scene with --size, for example --size 1024x768")
    check_model_name(model)
    check_out(out)

    prompt: str | Regions
    if map_ is not None:
        from satcascade.data.scene_map import read_scene_map

        prompt = read_scene_map(map_, wanted, caption)
    else:
        assert caption is not None
        prompt = caption
    _make(
        prompt,
        wanted,
        None,
        map_.stem if map_ is not None else str(prompt),
        out,
        seed,
        (overlap, wrap, batch_size),
        StageSettings(base_steps or steps, guidance, scheduler),
        StageSettings(sr_steps or steps, sr_guidance, scheduler),
        (model, device, precision.value),
        save_every,
        quiet,
    )


def extend(
    image: Annotated[Path, typer.Argument(help="The picture that grows: 8 bits, RGB.")],
    caption: Annotated[str, typer.Argument(help="What lies beyond its edges.")],
    left: Annotated[int, _grow("on the left")] = 0,
    right: Annotated[int, _grow("on the right")] = 0,
    top: Annotated[int, _grow("at the top")] = 0,
    bottom: Annotated[int, _grow("at the bottom")] = 0,
    resampling: Annotated[int, count("Take all steps so often, to fit in better.")] = 1,
    seamless: SeamlessOption = True,
    overlap: OverlapOption = 0.5,
    out: _OutOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 4,
    steps: StepsOption = None,
    base_steps: BaseStepsOption = None,
    sr_steps: SRStepsOption = None,
    guidance: GuidanceOption = None,
    sr_guidance: SRGuidanceOption = None,
    scheduler: SchedulerOption = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionName.float32,
    save_every: _SaveOption = 60.0,
    quiet: QuietOption = False,
) -> None:
    """Let a picture grow beyond its edges; its own pixels stay as they are.

    The same command again resumes where it was stopped.
    """
    if not image.is_file():
        raise UsageError(f"no image file {image}")
    if not caption.strip():
        raise UsageError("a caption is empty: describe what lies beyond the edges in words")
    if not any((left, right, top, bottom)):
        raise UsageError("nothing to extend: give --left, --right, --top or --bottom in pixels")
    check_model_name(model)
    check_out(out)

    from satcascade.generation.scene_job import Extension

    _make(
        caption,
        None,
        Extension(
            image, left=left, top=top, right=right, bottom=bottom, resampling=resampling, seamless=seamless
        ),
        f"{image.stem} {caption}",
        out,
        seed,
        (overlap, False, batch_size),
        StageSettings(base_steps or steps, guidance, scheduler),
        StageSettings(sr_steps or steps, sr_guidance, scheduler),
        (model, device, precision.value),
        save_every,
        quiet,
    )


def _make(
    prompt: str | Regions,
    size: tuple[int, int] | None,
    extension: Extension | None,
    name: str,
    out: Path | None,
    seed: int,
    windows: tuple[float, bool, int],
    base: StageSettings,
    sr: StageSettings,
    model: tuple[str, str, str],
    save_every: float,
    quiet: bool,
) -> None:
    """Make a scene and print what was made."""
    from satcascade.data.captions import slug
    from satcascade.generation.scenes import SceneRequest, make_scene
    from satcascade.sampling.scene import SceneSettings

    overlap, wrap, batch_size = windows
    request = SceneRequest(
        prompt=prompt,
        out=out or Path("scenes") / slug(name),
        size=size,
        extension=extension,
        seed=seed,
        scene=SceneSettings(overlap=overlap, wrap=wrap, batch_size=batch_size),
        stages={"base": base, "sr": sr},
        save_every=save_every,
    )
    pipeline = load_pipeline(model[0], device=model[1], precision=model[2])
    report = make_scene(pipeline, request, progress=not quiet)
    if not quiet:
        resumed = f", resumed at step {report.resumed[1]} of {report.resumed[0]}" if report.resumed else ""
        print(
            f"{report.file} ({report.seconds:.1f} s{resumed})" if report.made else f"{report.file} was there"
        )


def _pixels(size: str) -> tuple[int, int]:
    """Height and width of a size as users write it."""
    match = _SIZE.fullmatch(size)
    if not match or not int(match[1]) or not int(match[2]):
        raise UsageError(f"--size {size} is not possible: give width and height in pixels, such as 1024x768")
    return int(match[2]), int(match[1])
