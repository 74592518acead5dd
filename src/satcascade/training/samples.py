"""Grids of pictures that show how a run is getting on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from satcascade.assembly import build_pipeline
from satcascade.config import Preset, StageName
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.training.resident import to_float

_IMAGES = 8


class SampleGrid:
    """The same captions and seeds every time, so that grids of different steps compare.

    The base stage draws the captions of the first rows of the validation split (of the training split,
    where there is none). The super-resolution stage starts from those rows' real images, reduced to half;
    its grid has a row of what it was given, a row of what it made, and a row of the real images.

    Args:
        settings: the preset, for its sampling defaults.
        stage: which stage the network is.
        dataset: prepared images and captions.
    """

    def __init__(self, settings: Preset, stage: StageName, dataset: PreparedDataset):
        self.settings = settings
        self.stage = stage
        try:
            rows = dataset.indices("val")
        except UsageError:
            rows = dataset.indices("train")
        # Spread over the split: neighbours in a file are often of one class.
        rows = rows[np.linspace(0, len(rows) - 1, min(_IMAGES, len(rows))).astype(int)]
        self.text = dataset.text([dataset.records[row].caption_ids[0] for row in rows])
        config = settings.stage(stage).model
        self.real = to_float(torch.from_numpy(dataset.images[rows]), config.sample_size)

    def __call__(self, model: nn.Module, dtype: torch.dtype) -> npt.NDArray[np.uint8]:
        """Sample with the weights that ``model`` has now, computing in ``dtype``; uint8 (H, W, 3)."""
        was_training = model.training
        pipeline = build_pipeline(self.settings, model, model if self.stage == "sr" else None)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.precision = "bfloat16" if dtype is torch.bfloat16 else "float32"
        real = (self.real + 1) / 2
        small = F.avg_pool2d(real, 2) if self.stage == "sr" else None
        made, _ = pipeline(
            prompt_embeds=self.text,
            seeds=range(len(self.text)),
            base_images=small,
            output_type="pt",
            return_dict=False,
        )
        rows = [made.cpu()]
        if small is not None:
            rows = [F.interpolate(small, scale_factor=2.0), made.cpu(), real]
        # A pipeline freezes its networks; this one is still being trained.
        model.requires_grad_(True).train(was_training)
        grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        levels: npt.NDArray[np.uint8] = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return levels
