"""What all tabs of the page share: the model, the queue of its jobs, and a folder for pictures."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from satcascade.config.stage_settings import StageSettings
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.web.jobs import Job, JobQueue

# Seconds that pictures and uploads are kept while the page is up: the length of a long visit.
KEPT_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Backend:
    """What all tabs of the page share.

    Attributes:
        pipeline: the model, on its device.
        jobs: the queue of what is asked of it.
        folder: for the pictures that were made.
    """

    pipeline: CascadePipeline
    jobs: JobQueue
    folder: Path

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the model."""
        return self.pipeline.stage_names

    @property
    def size(self) -> int:
        """The side of the model's pictures in pixels."""
        return self.pipeline.prepare({})[-1].image_size

    def new_folder(self) -> Path:
        """An empty folder for the pictures of a job; those of long ago are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        long_ago = time.time() - KEPT_SECONDS
        for old in self.folder.iterdir():
            if old.stat().st_mtime < long_ago:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self.folder))

    def warm_up(self, job: Job) -> None:
        """Load the text encoder and make the networks ready, so that the first picture need not wait."""
        # A model may be guided only between two noise levels: its first step and a later one are unlike.
        few = StageSettings(steps=2)
        self.pipeline(
            "warm up",
            seeds=[0],
            settings={"base": few, "sr": few},
            callback_on_step_end=lambda *_: job.check(),
        )
