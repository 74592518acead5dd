"""A scene to a folder: the picture, how it was made, and while it is being made the state to go on from.

::

    OUT/scene.json            the settings that make the picture what it is; written first
    OUT/slug.png              the picture; it carries captions, seed, model, settings and a notice
    OUT/manifest.jsonl        the same in a line, when the picture is there
    OUT/.state.safetensors    a scene on its way; gone when the picture is there
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from satcascade.data.rgb_file import read_rgb
from satcascade.formats.scene_folder import MANIFEST, RUN_FILE, STATE
from satcascade.generation.provenance import manifest_line, read_png_text, write_png
from satcascade.generation.scene_job import SceneJob, SceneSpec
from satcascade.generation.scene_state import SceneStateFile
from satcascade.io.files import atomic_write
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.locks import exclusive
from satcascade.pipelines.cascade import CascadePipeline


@dataclass(frozen=True)
class SceneRequest(SceneSpec):
    """What scene to make and where to put it.

    Attributes:
        out: the folder; missing, empty, or left by an interrupted run with the same settings.
        save_every: seconds between two states to go on from.

    The other attributes, and what is raised, are those of :class:`satcascade.generation.scene_job.SceneSpec`.
    """

    out: Path = field(kw_only=True)
    save_every: float = field(default=60.0, kw_only=True)


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
    job = SceneJob(pipeline, request)
    described = DescribedFolder(request.out, RUN_FILE, "scene", words=_words)
    described.check(job.description())
    busy = f"another process is making the scene in {request.out}: wait for it or end it"
    with exclusive(request.out / ".lock", busy):
        described.check(job.description())
        described.write(job.description(), sort_keys=True)
        file = request.out / job.file
        keeper = SceneStateFile(request.out / STATE, request.save_every)
        made, state = not _is_there(file, job), None
        if made:
            state = keeper.read()
            before = getattr(pipeline, "_progress_bar_config", {})
            # None lets tqdm decide by whether the stream is a terminal.
            pipeline.set_progress_bar_config(disable=None if progress else True, leave=False, desc="windows")
            try:
                write_png(file, job.sample(state, on_state=keeper.offer), job.text())
            finally:
                pipeline.set_progress_bar_config(**before)
        with atomic_write(request.out / MANIFEST) as aside:
            aside.write_text(manifest_line(file), encoding="utf-8", newline="\n")
        keeper.remove()
    resumed = None if state is None else (state.stage, state.done)
    return SceneReport(file, made, resumed, time.monotonic() - started)


def _is_there(file: Path, job: SceneJob) -> bool:
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
