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
    """

    step: int
    steps: int
    preview: Image.Image | None
    seconds: float


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
        self._next = self._began

    def __call__(self, pipeline: Any, step: int, timestep: Tensor, state: dict[str, Any]) -> None:
        """Called by the pipeline after each step.

        Raises:
            JobCancelledError: the job was told to end.
        """
        self._job.check()
        self._done += 1
        now = time.monotonic()
        preview = None
        if now >= self._next:
            preview = decode_first(pipeline, state)
            spent = time.monotonic() - now
            self._next = now + max(_PAUSE, spent / _SHARE)
        self._job.tell(self._wrap(Progress(self._done, self._steps, preview, now - self._began)))


def decode_first(pipeline: Any, state: dict[str, Any]) -> Image.Image:
    """The first picture of a batch, as it is after a step: with the noise that is still in it.

    Args:
        pipeline: that samples.
        state: what it gives its callback: ``stage`` and ``sample`` (B, C, S, S).
    """
    sample = state["sample"][:1].float()
    images: list[Image.Image] = to_output(pipeline.codec(state["stage"]).decode(sample).float(), "pil")
    return images[0]
