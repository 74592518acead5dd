"""Grids of pictures that show how a run is getting on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.config.preset import Preset, StageName
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.diffusion.guidance import Guidance
from satcascade.errors import UsageError
from satcascade.hardware.precision import autocast
from satcascade.models.codec import PIXELS, Codec
from satcascade.models.denoiser import Denoiser
from satcascade.models.text import TextEmbeddings
from satcascade.pipelines.assembly import preset_scheduler
from satcascade.sampling.generators import image_generators
from satcascade.sampling.loop import check_finite, sample_stage
from satcascade.sampling.stage import LOW_RES_LOG_SNR, Sampler, prepare_stage

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
        codec: what the stage diffuses.
    """

    def __init__(self, settings: Preset, stage: StageName, dataset: PreparedDataset, codec: Codec = PIXELS):
        self.settings = settings
        self.stage = stage
        self.codec = codec
        try:
            rows = dataset.indices("val")
        except UsageError:
            rows = dataset.indices("train")
        rows = spread(rows, _IMAGES)
        self.text = dataset.text([dataset.records[row].caption_ids[0] for row in rows])
        config = settings.stage(stage).model
        self.real = to_float(torch.from_numpy(dataset.images[rows]), config.sample_size * codec.factor)

    def __call__(self, model: Denoiser, dtype: torch.dtype) -> npt.NDArray[np.uint8]:
        """Sample with the weights that ``model`` has now, computing in ``dtype``; uint8 (H, W, 3)."""
        seeds = range(len(self.text))
        made = draw(self.settings, self.stage, model, dtype, self.text, self.real, seeds, self.codec)
        rows = [made]
        if self.stage == "sr":
            real = (self.real + 1) / 2
            rows = [F.interpolate(F.avg_pool2d(real, 2), scale_factor=2.0), made, real]
        grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        levels: npt.NDArray[np.uint8] = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return levels


def draw(
    settings: Preset,
    stage: StageName,
    model: Denoiser,
    dtype: torch.dtype,
    text: TextEmbeddings,
    real: Tensor,
    seeds: Sequence[int],
    codec: Codec = PIXELS,
) -> Tensor:
    """Pictures of a network that is being trained, with the weights that it has now.

    Args:
        settings: the preset, for its sampling defaults.
        stage: which stage the network is.
        model: the network; it is left as it was.
        dtype: what it computes in.
        text: embeddings of B captions.
        real: their images (B, 3, S, S) in [-1, 1]; super-resolution starts from these, reduced to half.
        seeds: B seeds.
        codec: what the stage diffuses.

    Returns:
        (B, 3, S, S) in [0, 1], on the CPU.

    Raises:
        SatcascadeError: the network's output is not finite.
    """
    sampling, own = settings.sampling, settings.sampling.sr if stage == "sr" else settings.sampling.base
    assert own is not None
    guidance = Guidance(
        own.guidance, sampling.projected_guidance, sampling.guidance_rescale, sampling.guidance_interval
    )
    device = next(model.parameters()).device
    ready = prepare_stage(
        stage,
        model,
        codec,
        Sampler(preset_scheduler(own, model), own.steps, guidance),
        clip_x0=sampling.clip_x0,
        low_res_log_snr=LOW_RES_LOG_SNR if sampling.low_res_log_snr is None else sampling.low_res_log_snr,
        device=device,
    )
    small = F.avg_pool2d(real.to(device), 2) if stage == "sr" else None
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        generators = image_generators(len(text), seeds=seeds)
        diffused = sample_stage(ready, text.to(device), generators, small, dtype, lambda _, x: x)
        check_finite(diffused, f"the {stage} stage")
        with autocast(dtype, device):
            made = codec.decode(diffused).float()
    model.train(was_training)
    return ((made + 1) / 2).cpu()


def spread(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most ``count`` rows, evenly over all: neighbours in a file are often of one class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
