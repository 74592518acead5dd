"""A scene to a folder: the picture, how it was made, and while it is being made the state to go on from.

::

    OUT/scene.json            the settings that make the picture what it is; written first
    OUT/slug.png              the picture; it carries captions, seed, model, settings and a notice
    OUT/manifest.jsonl        the same in a line, when the picture is there
    OUT/.state.safetensors    a scene on its way; gone when the picture is there
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from satcascade.config.stage_settings import StageName, StageSettings, check_stages
from satcascade.data.captions import slug
from satcascade.data.rgb_file import read_rgb
from satcascade.errors import UsageError
from satcascade.formats.scene_folder import FORMAT, MANIFEST, RUN_FILE, STATE
from satcascade.generation.provenance import (
    NOTICE,
    manifest_line,
    picture_text,
    read_png_text,
    sampling_settings,
    write_png,
)
from satcascade.generation.scene_state import SceneStateFile
from satcascade.io.files import atomic_write
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.hashing import sha256_of_file
from satcascade.io.locks import exclusive
from satcascade.models.text import check_captions
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import SceneSettings, SceneState
from satcascade.seeds import derived_seed

EXTENDED = "extended by a model: what lies outside the source image is synthetic and shows no real place"


@dataclass(frozen=True)
class Extension:
    """A picture that is to grow.

    Attributes:
        image: its file.
        left, top, right, bottom: pixels it grows by on each side.
        resampling, seamless: as :meth:`satcascade.pipelines.scenes.ScenePipeline.extend` takes them.

    Raises:
        UsageError: the resampling is less than 1.
    """

    image: Path
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    resampling: int = 1
    seamless: bool = True

    def __post_init__(self) -> None:
        if self.resampling < 1:
            raise UsageError(f"resampling {self.resampling} is not possible: give 1 or more")

    @property
    def sides(self) -> dict[str, int]:
        """The pixels by the names of the sides."""
        return {"left": self.left, "top": self.top, "right": self.right, "bottom": self.bottom}

    @property
    def joining(self) -> dict[str, Any]:
        """How what is made is fitted to the picture: arguments of the pipeline's call, and of the records."""
        return {"resampling": self.resampling, "seamless": self.seamless}


@dataclass(frozen=True)
class SceneRequest:
    """What scene to make and where to put it.

    Attributes:
        prompt: a caption, or captions of parts of the picture.
        out: the folder; missing, empty, or left by an interrupted run with the same settings.
        size: height and width in pixels; None takes those of the captions' map, or of the extension.
        extension: the picture that grows; None makes a new one.
        seed: of the run, 0 to 2^63 - 1.
        scene: overlap, wrapping, windows at once; its seed is not used.
        stages: steps, guidance and scheduler of the stages, by their names; what is left out is the model's.
        save_every: seconds between two states to go on from.

    Raises:
        UsageError: a caption is empty, there is no size, or a number is out of its range.
    """

    prompt: str | Regions
    out: Path
    size: tuple[int, int] | None = None
    extension: Extension | None = None
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)
    stages: Mapping[StageName, StageSettings] = field(default_factory=dict)
    save_every: float = 60.0

    def __post_init__(self) -> None:
        check_captions(self.captions)
        check_stages(self.stages)
        if isinstance(self.prompt, str) and self.size is None and self.extension is None:
            raise UsageError("a scene of one caption needs a size: give height and width in pixels")
        if self.extension and (
            min(self.extension.sides.values()) < 0 or not any(self.extension.sides.values())
        ):
            raise UsageError("nothing to extend: say by how many pixels on the left, right, top or bottom")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt.captions


@dataclass(frozen=True)
class SceneReport:
    """What a call of :func:`make_scene` did.

    Attributes:
        file: the picture.
        made: whether it was made now; otherwise it was there.
        resumed: the stage and the number of its steps that an earlier call had done; None without one.
        seconds: spent.
    """

    file: Path
    made: bool
    resumed: tuple[str, int] | None
    seconds: float


class _SceneJob:
    """A request for a pipeline: its description and the text of its picture."""

    def __init__(self, pipeline: CascadePipeline, request: SceneRequest):
        self.pipeline, self.request = pipeline, request
        self.caption = "; ".join(" ".join(caption.split()) for caption in request.captions)
        self.seed = derived_seed(request.seed, "image", 0)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the picture depends on, beside captions and seed."""
        request, scene = self.request, self.request.scene
        settings = sampling_settings(self.pipeline, request.stages, None, "float32")
        settings |= {"overlap": scene.overlap, "wrap": scene.wrap}
        if request.size is not None:
            settings["size"] = f"{request.size[1]}x{request.size[0]}"
        if isinstance(request.prompt, Regions):
            settings["map"] = request.prompt.fingerprint
        if request.extension is not None:
            source = request.extension.image
            settings |= {"extended": request.extension.sides, "source_sha256": sha256_of_file(source)}
            settings |= request.extension.joining
        return settings

    def description(self) -> dict[str, Any]:
        """The content of ``scene.json``."""
        return {
            "format": FORMAT,
            "captions": list(self.request.captions),
            "seed": self.request.seed,
            "model_hash": self.pipeline.weights_hash,
            "settings": self.settings,
        }

    def text(self) -> dict[str, str]:
        """The text fields of the picture."""
        extension, source = self.request.extension, None
        if extension is not None:
            source = f"{extension.image.name} sha256:{self.settings['source_sha256']}"
        return picture_text(
            self.pipeline,
            self.caption,
            self.seed,
            NOTICE if extension is None else EXTENDED,
            run_seed=self.request.seed,
            settings=self.settings,
            about={"index": 0, "captions": list(self.request.captions)},
            source=source,
        )

    def sample(self, state: SceneState | None, keeper: SceneStateFile) -> Image.Image:
        """Make the picture, from a state on."""
        request, scene = self.request, self.request.scene
        options: dict[str, Any] = {
            "seed": self.seed,
            "overlap": scene.overlap,
            "batch_size": scene.batch_size,
            "settings": request.stages,
            "state": state,
            "on_state": keeper.offer,
        }
        if request.extension is None:
            return self.pipeline.scene(request.prompt, request.size, wrap=scene.wrap, **options)
        image = Image.fromarray(read_rgb(request.extension.image))
        grown = request.extension.sides | request.extension.joining
        return self.pipeline.extend(image, self.caption, **(options | grown))


def make_scene(pipeline: CascadePipeline, request: SceneRequest, *, progress: bool = True) -> SceneReport:
    """Make a scene that is not there yet, from where an earlier call was stopped.

    Args:
        pipeline: what to sample with, on its device and in its precision.
        request: what to make.
        progress: show a progress bar on the error stream.

    Raises:
        UsageError: the folder holds a scene of other settings (the difference is named), or something else;
            or the pipeline cannot make such a scene.
        SatcascadeError: the disk or memory is full, another process makes the scene, or its state is damaged.
    """
    started = time.monotonic()
    if request.extension is not None:
        read_rgb(request.extension.image)
    job = _SceneJob(pipeline, request)
    described = DescribedFolder(request.out, RUN_FILE, "scene", words=_words)
    described.check(job.description())
    busy = f"another process is making the scene in {request.out}: wait for it or end it"
    with exclusive(request.out / ".lock", busy):
        described.check(job.description())
        described.write(job.description(), sort_keys=True)
        file = request.out / f"{slug(job.caption)}.png"
        keeper = SceneStateFile(request.out / STATE, request.save_every)
        made, state = not _is_there(file, job), None
        if made:
            state = keeper.read()
            before = getattr(pipeline, "_progress_bar_config", {})
            # None lets tqdm decide by whether the stream is a terminal.
            pipeline.set_progress_bar_config(disable=None if progress else True, leave=False, desc="windows")
            try:
                write_png(file, job.sample(state, keeper), job.text())
            finally:
                pipeline.set_progress_bar_config(**before)
        with atomic_write(request.out / MANIFEST) as aside:
            aside.write_text(manifest_line(file), encoding="utf-8", newline="\n")
        keeper.remove()
    resumed = None if state is None else (state.stage, state.done)
    return SceneReport(file, made, resumed, time.monotonic() - started)


def _is_there(file: Path, job: _SceneJob) -> bool:
    """Whether the picture is there, whole, and made for this scene."""
    try:
        with Image.open(file) as image:
            image.verify()
        text = read_png_text(file)
    except (OSError, SyntaxError, ValueError):
        return False
    return (text.get("Prompt"), text.get("Seed")) == (job.caption, str(job.seed))


def _words(difference: Difference) -> str:
    if difference.name == "model_hash":
        return "other model weights"
    names = {"settings.map": "another map", "settings.source_sha256": "another image"}
    return names.get(difference.name, str(difference).removeprefix("settings."))
