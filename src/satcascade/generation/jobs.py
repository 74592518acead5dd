"""What the images of a run are made of: for each image its name, its seed and how it is sampled.

The loop and the folder know a job by the methods here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.data.captions import Captions, slug
from satcascade.errors import SatcascadeError
from satcascade.formats.generated_folder import FORMAT
from satcascade.generation.embeddings import CaptionEmbeddings
from satcascade.generation.provenance import NOTICE, picture_text, sampling_settings
from satcascade.io.hashing import sha256_of_text
from satcascade.pipelines.callbacks import StepCallback
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.edit import count_calls
from satcascade.seeds import derived_seed


def image_seed(seed: int, index: int) -> int:
    """The seed of image ``index`` of a run: the first 63 bits of SHA-256 of ``"{seed}/image/{index}"``."""
    return derived_seed(seed, "image", index)


class TextToImage:
    """Images of captions, the same number of each.

    Args:
        pipeline: what to sample with, on its device and in its precision.
        captions: what to draw.
        per_caption: images of each caption.
        seed: of the run.
        stages: settings of the stages, by their names.
        stop_at: as of the pipeline's call.

    Attributes:
        total: the number of images.

    Raises:
        UsageError: the pipeline cannot sample like that.
    """

    def __init__(
        self,
        pipeline: CascadePipeline,
        captions: Captions,
        per_caption: int,
        seed: int,
        stages: Mapping[StageName, StageSettings],
        stop_at: Literal["base"] | None,
    ):
        pipeline.prepare(stages, stop_at)
        self.pipeline = pipeline
        self.total = len(captions) * per_caption
        self._captions = captions
        self._per_caption = per_caption
        self._seed = seed
        self._stages = stages
        self._stop_at = stop_at
        # Further arguments of the pipeline's call.
        self._call: Mapping[str, Any] = {}
        self._embeddings = CaptionEmbeddings(pipeline, captions)

    def caption(self, index: int) -> str:
        """What an image shows."""
        return self._captions.texts[index // self._per_caption]

    def seed(self, index: int) -> int:
        """The seed of an image."""
        return image_seed(self._seed, index)

    def file(self, index: int) -> str:
        """The file name of an image."""
        width = max(4, len(str(self.total - 1)))
        return f"{index:0{width}d}_{slug(self.caption(index))}.png"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the pictures depend on, beside captions and seeds."""
        return sampling_settings(self.pipeline, self._stages, self._stop_at, self._embeddings.origin)

    def description(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return {
            "format": FORMAT,
            "images": self.total,
            "per_caption": self._per_caption,
            "captions": sha256_of_text("\n".join(self._captions.texts)),
            "seed": self._seed,
            "model_hash": self.pipeline.weights_hash,
            "settings": self.settings,
        }

    @property
    def steps(self) -> int:
        """How many network calls an image takes, or a batch at once: an edit may leave some out, or jump."""
        taken = self._call.get("strength", 1.0), self._call.get("resampling", 1)
        stages = self.pipeline.prepare(self._stages, self._stop_at)
        return sum(count_calls(stage, *taken) for stage in stages)

    def sample(self, batch: range, on_step: StepCallback | None = None) -> list[Image.Image]:
        """Make images, given by their numbers.

        Args:
            batch: the numbers.
            on_step: called after each step, as ``callback_on_step_end`` of the pipeline.

        Raises:
            SatcascadeError: the device's memory is full.
        """
        try:
            images, _ = self.pipeline(
                prompt_embeds=self._embeddings([index // self._per_caption for index in batch]),
                seeds=[self.seed(index) for index in batch],
                return_dict=False,
                settings=self._stages,
                stop_at=self._stop_at,
                callback_on_step_end=on_step,
                **self._call,
            )
        except torch.OutOfMemoryError as error:
            raise SatcascadeError(
                f"out of memory on {self.pipeline.device} with {len(batch)} images at once: "
                "lower --batch-size and run the same command again"
            ) from error
        return list(images)

    def text(self, index: int) -> dict[str, str]:
        """The text fields of an image."""
        number = index // self._per_caption
        row = self._captions.rows[number] if self._captions.rows else None
        return picture_text(
            self.pipeline,
            self.caption(index),
            self.seed(index),
            NOTICE,
            run_seed=self._seed,
            settings=self.settings,
            about={"index": index, "caption_number": number, "row": row},
        )
