"""The work behind the tabs, without a page: pictures of a caption, each a PNG that says how it was made.

The picture of a caption, a seed and settings is the one that ``satcascade sample`` makes of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from satcascade.config.stage_settings import StageName, StageSettings, check_stages
from satcascade.data.captions import Captions
from satcascade.errors import UsageError
from satcascade.generation.edit_source import EditSource
from satcascade.generation.edits import ImageEdits
from satcascade.generation.jobs import TextToImage
from satcascade.generation.provenance import write_png
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.web.backend import Backend
from satcascade.web.jobs import Job
from satcascade.web.previews import Progress, StepPreviews

MOST_PICTURES = 16
LONGEST_CAPTION = 500

Stages = Mapping[StageName, StageSettings]


@dataclass(frozen=True)
class Picture:
    """A picture that was made.

    Attributes:
        path: its PNG file.
        label: what it is, in a few words.
    """

    path: Path
    label: str


@dataclass(frozen=True)
class Making:
    """News of pictures in the making.

    Attributes:
        made: those that are finished.
        total: how many there will be.
        progress: of the one after them; None where one has just been finished.
    """

    made: tuple[Picture, ...]
    total: int
    progress: Progress | None = None


@dataclass(frozen=True)
class DrawRequest:
    """Pictures of one caption.

    Attributes:
        caption: what to draw.
        seed: of the run, as ``satcascade sample --seed`` has it.
        number: how many pictures.
        stages: settings of the stages, by their names; what is left out is the model's.

    Raises:
        UsageError: a value is out of its range.
    """

    caption: str
    seed: int = 0
    number: int = 1
    stages: Stages = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_caption(self.caption)
        check_stages(self.stages)
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")
        if not 1 <= self.number <= MOST_PICTURES:
            raise UsageError(f"{self.number} pictures are not possible: give 1 to {MOST_PICTURES}")

    def maker(self, pipeline: CascadePipeline) -> TextToImage:
        """What makes the pictures, and knows how they were made."""
        return TextToImage(
            pipeline, Captions.of([self.caption]), self.number, self.seed, self.stages, stop_at=None
        )


@dataclass(frozen=True)
class EditRequest(DrawRequest):
    """Pictures made out of one that there is.

    Attributes:
        source: the picture, of the model's size, and what of it changes.

    The other attributes are those of :class:`DrawRequest`.
    """

    source: EditSource = field(kw_only=True)

    def maker(self, pipeline: CascadePipeline) -> ImageEdits:
        """What makes the pictures, and knows how they were made."""
        captions = Captions.of([self.caption])
        return ImageEdits(
            pipeline, captions, self.number, self.seed, self.stages, stop_at=None, source=self.source
        )


def check_caption(caption: str) -> None:
    """Refuse what is no caption.

    Raises:
        UsageError: it is empty, or too long.
    """
    if not caption.strip():
        raise UsageError("the caption is empty: describe the scene in words")
    if len(caption) > LONGEST_CAPTION:
        raise UsageError(f"the caption has {len(caption)} characters: give at most {LONGEST_CAPTION}")


def make_pictures(backend: Backend, requests: Sequence[DrawRequest], job: Job) -> Making:
    """Make the pictures of several requests, one picture after the other.

    Args:
        backend: what to make them with, and where they go.
        requests: what to make.
        job: told a :class:`Making` after each step and each picture.

    Returns:
        The last news: all pictures, in the order of the requests.

    Raises:
        UsageError: the model cannot sample like that.
        JobCancelledError: the job was told to end.
    """
    folder = backend.new_folder()
    total = sum(request.number for request in requests)
    made: list[Picture] = []
    for request in requests:
        maker = request.maker(backend.pipeline)
        for index in range(request.number):

            def news(progress: Progress) -> Making:
                return Making(tuple(made), total, progress)

            (image,) = maker.sample(range(index, index + 1), StepPreviews(job, maker.steps, news))
            path = folder / f"{len(made) + 1:02d}_{maker.file(index).partition('_')[2]}"
            write_png(path, image, maker.text(index))
            which = f", {index + 1} of {request.number}" if request.number > 1 else ""
            # First what tells the pictures of a caption apart: the page cuts long labels off.
            made.append(Picture(path, f"seed {request.seed}{which}: {maker.caption(index)}"))
            job.tell(Making(tuple(made), total))
    return Making(tuple(made), total)


def bundle(pictures: Sequence[Picture], name: str) -> Path:
    """One file of pictures: the PNG of a single one, otherwise a ZIP of all, beside them."""
    if len(pictures) == 1:
        return pictures[0].path
    path = pictures[0].path.with_name(f"{name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for picture in pictures:
            archive.write(picture.path, picture.path.name)
    return path
