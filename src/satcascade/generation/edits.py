"""Images made out of an image: a job like text to image, with a source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from PIL import Image

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.data.captions import Captions
from satcascade.generation.edit_source import EditSource, fitted
from satcascade.generation.jobs import TextToImage
from satcascade.pipelines.callbacks import StepCallback
from satcascade.pipelines.cascade import CascadePipeline

NOTICE = "image edited by a model; what the model made of it shows no real place"


class ImageEdits(TextToImage):
    """Edits of one image by captions, the same number by each.

    Args:
        source: the image, and how it is edited.

    The other arguments, and the attributes, are those of :class:`satcascade.generation.jobs.TextToImage`.

    Raises:
        UsageError: the pipeline cannot sample like that, or the image cannot be edited.
    """

    def __init__(
        self,
        pipeline: CascadePipeline,
        captions: Captions,
        per_caption: int,
        seed: int,
        stages: Mapping[StageName, StageSettings],
        stop_at: Literal["base"] | None,
        source: EditSource,
    ):
        super().__init__(pipeline, captions, per_caption, seed, stages, stop_at)
        self._source = source
        self._fitted = fitted(source, pipeline.prepare(stages, stop_at)[-1].image_size)
        self._call = {"image": self._fitted.image, "mask_image": self._fitted.mask, **source.options}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the pictures depend on, beside captions and seeds."""
        return super().settings | {"edit": self._fitted.record | self._source.options}

    def sample(self, batch: range, on_step: StepCallback | None = None) -> list[Image.Image]:
        """Make images, given by their numbers; of an image larger than the model makes, the whole of it.

        Args:
            batch: the numbers.
            on_step: called after each step, as ``callback_on_step_end`` of the pipeline.

        Raises:
            SatcascadeError: the device's memory is full.
        """
        return [self._fitted.put_back(image) for image in super().sample(batch, on_step)]

    def text(self, index: int) -> dict[str, str]:
        """The text fields of an image."""
        record = self._fitted.record
        source = f"{record['image']} (SHA-256 {record['image_sha256']})"
        return super().text(index) | {"Source": source, "Notice": NOTICE}
