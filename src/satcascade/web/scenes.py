"""The work behind the tab of scenes, without a page: one picture of any size that says how it was made.

The picture of captions, a seed and settings is the one that ``satcascade scene`` makes of them.
"""

from __future__ import annotations

import math

from satcascade.errors import UsageError
from satcascade.generation.provenance import write_png
from satcascade.generation.scene_job import SceneJob, SceneSpec
from satcascade.sampling.scene import Scene
from satcascade.web.backend import Backend
from satcascade.web.jobs import Job
from satcascade.web.pictures import Making, Picture, check_caption
from satcascade.web.previews import Progress, ScenePreviews

# What a laptop makes while somebody waits, in pictures of the model.
MOST_ACROSS = 8
MOST_AREA = 16


def sides(picture: int) -> tuple[int, int]:
    """The smallest and the largest side of a scene, in pixels, of a model of pictures of that side."""
    return picture // 2, MOST_ACROSS * picture


def most_square(picture: int) -> int:
    """The side in pixels of the largest square scene."""
    return math.isqrt(MOST_AREA) * picture


def check_size(size: tuple[int, int], picture: int) -> None:
    """Refuse a scene that is too small or too large for the page.

    Args:
        size: height and width in pixels.
        picture: side of the model's pictures.

    Raises:
        UsageError: it is.
    """
    height, width = size
    least, most = sides(picture)
    if min(size) < least or max(size) > most:
        raise UsageError(
            f"a scene of {width} x {height} pixels is not possible here: give sides from {least} to {most}"
        )
    side = most_square(picture)
    if height * width > side**2:
        raise UsageError(
            f"a scene of {width} x {height} pixels is too large for this page: at most as many pixels as "
            f"{side} x {side} has; the command 'satcascade scene' makes larger ones"
        )


def check_scene(backend: Backend, spec: SceneSpec) -> None:
    """Refuse what cannot be made, before it waits for its turn.

    Raises:
        UsageError: a caption is too long, or the size is out of its range, or does not wrap.
    """
    assert spec.size is not None
    for caption in spec.captions:
        check_caption(caption)
    check_size(spec.size, backend.size)
    Scene(backend.pipeline.prepare(spec.stages), spec.size, spec.scene)


def make_scene_picture(backend: Backend, spec: SceneSpec, job: Job) -> Making:
    """Make a scene.

    Args:
        backend: what to make it with, and where it goes.
        spec: what to make.
        job: told a :class:`satcascade.web.pictures.Making` after each batch of windows and each step.

    Returns:
        The picture that was made.

    Raises:
        UsageError: the model cannot make such a scene.
        JobCancelledError: the job was told to end.
    """
    scene = SceneJob(backend.pipeline, spec)

    def news(progress: Progress) -> Making:
        return Making((), 1, progress)

    previews = ScenePreviews(job, news)
    image = scene.sample(on_windows=previews.on_windows, on_picture=previews.on_picture)
    path = backend.new_folder() / scene.file
    write_png(path, image, scene.text())
    return Making((Picture(path, f"seed {spec.seed}: {scene.caption}"),), 1)
