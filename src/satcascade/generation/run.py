"""Many images to a folder: a seed for each, sharding, resume, and a record of how each was made.

A run of C captions with n images each is a row of C * n images; caption c has the n images from c * n on.
Everything about image i follows from the run's seed, i and its caption, so that a run may be cut into
batches and shards, killed and resumed, and ends with the same pictures::

    OUT/run.json            the settings that make the pictures what they are; written first
    OUT/captions.txt        a line an image, in the order of the images
    OUT/0000_slug.png       the images; each carries prompt, seed, model, settings and a notice
    OUT/manifest.jsonl      a line an image, read from the PNGs when all are there
    OUT/_grid.png           contact sheet of the first images

While shards are at work, each that has finished leaves ``manifest.shard-i-of-n.jsonl``; the last one to
finish merges them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from satcascade.config.stage_settings import StageName, StageSettings, check_stages
from satcascade.data.captions import Captions
from satcascade.errors import UsageError
from satcascade.generation.edit_source import EditSource
from satcascade.generation.edits import ImageEdits
from satcascade.generation.folder import GeneratedFolder
from satcascade.generation.jobs import TextToImage
from satcascade.generation.shard import Shard
from satcascade.io.progress import ProgressDisplay, ProgressTask
from satcascade.pipelines.cascade import CascadePipeline


@dataclass(frozen=True)
class GenerationRequest:
    """What to make and where to put it.

    Attributes:
        captions: what to draw.
        out: the folder; missing, empty, or left by an interrupted run with the same settings.
        per_caption: images of each caption.
        seed: of the run, 0 to 2^63 - 1.
        batch_size: images at once; changes pictures by float rounding only.
        shard: which part of the run to make.
        stages: steps, guidance and scheduler of the stages, by their names; what is left out is the model's.
        stop_at: ``base`` leaves super-resolution out.
        columns: of the contact sheet; None makes it as square as it gets.
        edit: the image to make them of; None makes new ones.

    Raises:
        UsageError: a number is out of its range.
    """

    captions: Captions
    out: Path
    per_caption: int = 1
    seed: int = 0
    batch_size: int = 8
    shard: Shard = field(default_factory=Shard)
    stages: Mapping[StageName, StageSettings] = field(default_factory=dict)
    stop_at: Literal["base"] | None = None
    columns: int | None = None
    edit: EditSource | None = None

    def __post_init__(self) -> None:
        positive = {
            "images per caption": self.per_caption,
            "batch size": self.batch_size,
            "columns": self.columns,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise UsageError(f"{name}: {value} is not possible, give 1 or more")
        check_stages(self.stages)
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")
        if self.stop_at not in (None, "base"):
            raise UsageError(f"cannot stop at '{self.stop_at}': give 'base' or leave it out")


@dataclass(frozen=True)
class GenerationReport:
    """What a call of :func:`generate` did.

    Attributes:
        out: the folder.
        made: images written now.
        kept: images of this shard that were there already.
        total: images of the whole run.
        complete: whether the whole run is there, with manifest and grid.
        seconds: time spent sampling and writing.
    """

    out: Path
    made: int
    kept: int
    total: int
    complete: bool
    seconds: float

    @property
    def summary(self) -> str:
        """The report in one line."""
        state = "" if self.complete else f"; {self.total} in the whole run, not all there yet"
        kept = f", {self.kept} were there" if self.kept else ""
        return f"{self.made} images in {self.out} ({self.seconds:.1f} s{kept}){state}"


def generate(
    pipeline: CascadePipeline, request: GenerationRequest, *, progress: bool = True
) -> GenerationReport:
    """Make the images of a run (or of one shard of it) that are not there yet.

    Batches are cut at fixed places, and a batch of which any image is missing is computed whole, so that
    a resumed run (same machine, same batch size) writes the very bytes an uninterrupted one would have.
    Shards take whole batches in turn; with as many batches as shards or more, their union is byte for
    byte the single run.

    Args:
        pipeline: what to sample with, on its device and in its precision.
        request: what to make.
        progress: show a progress bar on the error stream.

    Raises:
        UsageError: the folder holds a run with other settings (the difference is named), or something else;
            or the image to edit cannot be edited.
        SatcascadeError: the disk is full, the device's memory is, another process works on the same
            shard, or the text encoder cannot be had.
    """
    job = _job(pipeline, request)
    folder = GeneratedFolder(request.out, job, request.columns)
    shard, started = request.shard, time.monotonic()
    batches = shard.batches(job.total, request.batch_size)
    indices = sorted(index for batch in batches for index in batch)
    # A folder that is refused is left as it was, without a lock in it.
    folder.check()
    with folder.shard_lock(shard):
        with folder.lock():
            folder.open()
        made = _make_missing(job, folder, batches, progress)
        with folder.lock():
            complete = folder.close(shard, indices)
    seconds = time.monotonic() - started
    return GenerationReport(request.out, made, len(indices) - made, job.total, complete, seconds)


def _job(pipeline: CascadePipeline, request: GenerationRequest) -> TextToImage:
    what = (request.captions, request.per_caption, request.seed, request.stages, request.stop_at)
    if request.edit is None:
        return TextToImage(pipeline, *what)
    return ImageEdits(pipeline, *what, request.edit)


def _make_missing(job: TextToImage, folder: GeneratedFolder, batches: Sequence[range], progress: bool) -> int:
    """Make the images of batches that are not there; how many."""
    missing = {index for batch in batches for index in batch if not folder.has(index)}
    todo = [batch for batch in batches if missing.intersection(batch)]
    with _progress(job.pipeline, len(missing), len(todo), progress) as task:
        for batch in todo:
            for index, image in zip(batch, job.sample(batch), strict=True):
                if index in missing:
                    folder.write(index, image)
                    task.advance()
    return len(missing)


@contextmanager
def _progress(pipeline: CascadePipeline, images: int, batches: int, shown: bool) -> Iterator[ProgressTask]:
    """Progress over images, or over sampling steps where there is one batch only."""
    before = getattr(pipeline, "_progress_bar_config", {})
    # None lets tqdm decide by whether the stream is a terminal.
    pipeline.set_progress_bar_config(disable=None if shown and batches == 1 else True, leave=False)
    try:
        with ProgressDisplay(shown and batches > 1, transient=False) as display:
            yield display.task("images", images)
    finally:
        pipeline.set_progress_bar_config(**before)
