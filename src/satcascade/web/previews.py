"""Pictures as they appear: what a stage has after a step, as an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from satcascade.pipelines.output import to_output
from satcascade.web.jobs import Job

# Seconds between two previews: the eye wants no more, and each is sent to the browser.
_PAUSE = 0.2
# Decoding and sending previews takes at most this share of the time.
_SHARE = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a picture is.

    Attributes:
        step: steps done, of both stages.
        steps: how many there are.
        preview: the picture so far; None where the last one shown is recent enough.
        seconds: since the picture was begun.
        unit: what a step is called.
    """

    step: int
    steps: int
    preview: Image.Image | None
    seconds: float
    unit: str = "step"


class _Pace:
    """Sees to it that previews take little of the time."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def preview(self, decode: Callable[[], Image.Image]) -> Image.Image | None:
        """What ``decode`` makes, or None where it was called a short while ago."""
        now = time.monotonic()
        if now < self._next:
            return None
        image = decode()
        spent = time.monotonic() - now
        self._next = now + max(_PAUSE, spent / _SHARE)
        return image


class StepPreviews:
    """The callback of a pipeline that tells its job how far it is, and stops it where the job is cancelled.

    Args:
        job: told a :class:`Progress` after each step.
        steps: of all stages.
        wrap: makes what the job is told of a :class:`Progress`.
    """

    def __init__(self, job: Job, steps: int, wrap: Callable[[Progress], Any] = lambda progress: progress):
        self._job = job
        self._steps = steps
        self._wrap = wrap
        self._done = 0
        self._began = time.monotonic()
        self._pace = _Pace()

    def __call__(self, pipeline: Any, step: int, timestep: Tensor, state: dict[str, Any]) -> None:
        """Called by the pipeline after each step.

        Raises:
            JobCancelledError: the job was told to end.
        """
        self._job.check()
        self._done += 1
        seconds = time.monotonic() - self._began
        preview = self._pace.preview(lambda: decode_first(pipeline, state))
        self._job.tell(self._wrap(Progress(self._done, self._steps, preview, seconds)))


class ScenePreviews:
    """What a scene calls to tell its job how far it is; it stops where the job is cancelled.

    News follow one another quickly here, and those that nobody has read yet are replaced: each of them has
    the last preview.

    Args:
        job: told a :class:`Progress` after each batch of windows and each step.
        wrap: makes what the job is told of a :class:`Progress`.
    """

    def __init__(self, job: Job, wrap: Callable[[Progress], Any] = lambda progress: progress):
        self._job = job
        self._wrap = wrap
        self._done, self._total = 0, 1
        self._preview: Image.Image | None = None
        self._began = time.monotonic()
        self._pace = _Pace()

    def on_windows(self, done: int, total: int) -> None:
        """Called after each batch of windows.

        Raises:
            JobCancelledError: the job was told to end.
        """
        self._done, self._total = done, total
        self._tell()

    def on_picture(self, decode: Callable[[], Image.Image]) -> None:
        """Called after each step, with what decodes the scene as it is.

        Raises:
            JobCancelledError: the job was told to end.
        """
        self._job.check()
        self._preview = self._pace.preview(decode) or self._preview
        self._tell()

    def _tell(self) -> None:
        seconds = time.monotonic() - self._began
        self._job.tell(self._wrap(Progress(self._done, self._total, self._preview, seconds, unit="window")))


def decode_first(pipeline: Any, state: dict[str, Any]) -> Image.Image:
    """The first picture of a batch, as it is after a step: with the noise that is still in it.

    Args:
        pipeline: that samples.
        state: what it gives its callback: ``stage`` and ``sample`` (B, C, S, S).
    """
    sample = state["sample"][:1].float()
    images: list[Image.Image] = to_output(pipeline.codec(state["stage"]).decode(sample).float(), "pil")
    return images[0]
