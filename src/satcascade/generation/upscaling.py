"""A user's own images, enlarged by a super-resolution stage, to a folder.

::

    OUT/upscale.json      the settings that make the pictures what they are; written first
    OUT/name.png          the pictures, or name.tif of a GeoTIFF; each says of what and how it was made
    OUT/manifest.jsonl    the same, a line a picture
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from satcascade.config.stage_settings import StageSettings, check_stages
from satcascade.data.geotiff import GeoTile, read_geotiff, read_geotiff_text, write_geotiff
from satcascade.data.rgb_file import read_rgb
from satcascade.errors import UsageError
from satcascade.formats.upscaled_folder import FORMAT, MANIFEST, RUN_FILE
from satcascade.generation.provenance import (
    manifest_line_of,
    picture_text,
    read_png_text,
    sampling_settings,
    write_png,
)
from satcascade.io.files import atomic_write
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.hashing import sha256_of_file
from satcascade.io.locks import exclusive
from satcascade.io.progress import ProgressDisplay
from satcascade.models.text import check_captions
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.scene import SceneSettings
from satcascade.seeds import derived_seed

ENLARGED = "enlarged by a model: its finer details are synthetic and show no real place"
_TIFF = (".tif", ".tiff")
_ENDINGS = (".png", ".jpg", ".jpeg", *_TIFF)


@dataclass(frozen=True)
class UpscaleRequest:
    """What to enlarge and where to put it.

    Attributes:
        images: an image file, or a folder of them.
        out: the folder; missing, empty, or of an earlier run with the same settings.
        caption: what the images show; None for nothing.
        seed: of the run, 0 to 2^63 - 1; the seed of an image follows from it and the file's name.
        scene: overlap and windows at once.
        sr: steps, guidance and scheduler; what is left out is the model's.
        low_res_log_snr: noise level to which images are taken before the network sees them; None is the
            model's.

    Raises:
        UsageError: the caption is empty, or a number is out of its range.
    """

    images: Path
    out: Path
    caption: str | None = None
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)
    sr: StageSettings = field(default_factory=StageSettings)
    low_res_log_snr: float | None = None

    def __post_init__(self) -> None:
        if self.caption is not None:
            check_captions([self.caption])
        check_stages({"sr": self.sr})
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")


@dataclass(frozen=True)
class UpscaleReport:
    """What a call of :func:`upscale` did.

    Attributes:
        out: the folder.
        made: images written now.
        kept: images that were there already.
        seconds: spent.
    """

    out: Path
    made: int
    kept: int
    seconds: float


class _Upscaling:
    """A request for a pipeline: settings, and what is made of each image."""

    def __init__(self, pipeline: CascadePipeline, request: UpscaleRequest):
        self.pipeline, self.request = pipeline, request

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the pictures depend on, beside images, caption and seed."""
        request = self.request
        settings = sampling_settings(self.pipeline, {"sr": request.sr}, None, "float32")
        del settings["base"]
        if request.low_res_log_snr is not None:
            settings["low_res_log_snr"] = request.low_res_log_snr
        return settings | {"overlap": request.scene.overlap}

    def description(self) -> dict[str, Any]:
        """The content of ``upscale.json``."""
        return {
            "format": FORMAT,
            "caption": self.request.caption,
            "seed": self.request.seed,
            "model_hash": self.pipeline.weights_hash,
            "settings": self.settings,
        }

    def seed(self, source: Path) -> int:
        """The seed of an image."""
        return derived_seed(self.request.seed, "image", source.name)

    def file(self, source: Path) -> Path:
        """The picture that is made of an image."""
        ending = ".tif" if source.suffix.lower() in _TIFF else ".png"
        return self.request.out / (source.stem + ending)

    def text(self, source: Path, index: int) -> dict[str, str]:
        """The text fields of a picture."""
        sha256 = sha256_of_file(source)
        return picture_text(
            self.pipeline,
            self.request.caption or "",
            self.seed(source),
            ENLARGED,
            run_seed=self.request.seed,
            settings=self.settings,
            about={"index": index, "source": source.name, "source_sha256": sha256},
            source=f"{source.name} sha256:{sha256}",
        )

    def make(self, source: Path, text: Mapping[str, str]) -> None:
        """Enlarge an image and write it."""
        tile = _read(source)
        pixels = tile.pixels if isinstance(tile, GeoTile) else tile
        made = self.pipeline.upscale(
            Image.fromarray(pixels),
            self.request.caption,
            seed=self.seed(source),
            overlap=self.request.scene.overlap,
            batch_size=self.request.scene.batch_size,
            settings=self.request.sr,
            low_res_log_snr=self.request.low_res_log_snr,
        )
        if isinstance(tile, GeoTile):
            ratio = made.height // len(pixels)
            write_geotiff(self.file(source), np.array(made), tile, ratio, text)
        else:
            write_png(self.file(source), made, dict(text))


def upscale(pipeline: CascadePipeline, request: UpscaleRequest, *, progress: bool = True) -> UpscaleReport:
    """Enlarge the images of a request that have not been yet.

    Args:
        pipeline: with a super-resolution stage, on its device and in its precision.
        request: what to enlarge.
        progress: show a progress bar on the error stream.

    Raises:
        UsageError: the model has no super-resolution stage, an image is not 8 bits of red, green and blue,
            there is no image, or the folder holds pictures of other settings or something else.
        SatcascadeError: the disk or memory is full, rasterio is needed and not installed, or another process
            works on the folder.
    """
    started = time.monotonic()
    pipeline.check_upscales()
    sources = _sources(request.images)
    job = _Upscaling(pipeline, request)
    _check_names(job, sources)
    for source in sources:
        _read(source)
    described = DescribedFolder(request.out, RUN_FILE, "upscaled images", words=_words)
    described.check(job.description())
    busy = f"another process is upscaling to {request.out}: wait for it or end it"
    made = 0
    before = getattr(pipeline, "_progress_bar_config", {})
    with exclusive(request.out / ".lock", busy), ProgressDisplay(progress, transient=False) as display:
        described.write(job.description(), sort_keys=True)
        pipeline.set_progress_bar_config(disable=True)
        try:
            with display.task("images", len(sources)) as task:
                for index, source in enumerate(sources):
                    text = job.text(source, index)
                    if _text_of(job.file(source)).get("Source") != text["Source"]:
                        job.make(source, text)
                        made += 1
                    task.advance()
        finally:
            pipeline.set_progress_bar_config(**before)
        files = [job.file(source) for source in sources]
        with atomic_write(request.out / MANIFEST) as aside:
            lines = "".join(manifest_line_of(file.name, _text_of(file)) for file in files)
            aside.write_text(lines, encoding="utf-8", newline="\n")
    return UpscaleReport(request.out, made, len(sources) - made, time.monotonic() - started)


def _sources(images: Path) -> list[Path]:
    """The images that are asked for, in the order of their names."""
    if not images.is_dir():
        return [images]
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    if not found:
        raise UsageError(f"{images} holds no images (none ends in {', '.join(_ENDINGS)})")
    return found


def _check_names(job: _Upscaling, sources: list[Path]) -> None:
    taken: dict[Path, Path] = {}
    for source in sources:
        other = taken.setdefault(job.file(source), source)
        if other != source:
            raise UsageError(
                f"{other.name} and {source.name} would both become {job.file(source).name}: put them in "
                "folders of their own"
            )
        if job.file(source).resolve() == source.resolve():
            raise UsageError(f"{source} would be written over: give another folder with --out")


def _read(source: Path) -> GeoTile | npt.NDArray[np.uint8]:
    return read_geotiff(source) if source.suffix.lower() in _TIFF else read_rgb(source)


def _text_of(file: Path) -> dict[str, str]:
    """The text fields of a picture; empty where it is not there, or cut short."""
    try:
        if file.suffix in _TIFF:
            # GDAL leaves out what is empty.
            return {"Prompt": "", **read_geotiff_text(file)}
        with Image.open(file) as image:
            image.verify()
        return read_png_text(file)
    except (OSError, SyntaxError, ValueError):
        return {}


def _words(difference: Difference) -> str:
    if difference.name == "model_hash":
        return "other model weights"
    return str(difference).removeprefix("settings.")
