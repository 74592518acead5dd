"""A pipeline from a preset and its networks, whether these were trained here or converted."""

from __future__ import annotations

from typing import Any

from torch import nn

from satcascade.config.preset import Preset, StageSampling
from satcascade.diffusion.schedulers import make_scheduler
from satcascade.models.codec import TinyAutoencoder
from satcascade.pipelines.cascade import CascadePipeline


def build_pipeline(
    settings: Preset,
    unet: nn.Module,
    sr_unet: nn.Module | None,
    encoder_fingerprint: str | None = None,
    vae: TinyAutoencoder | None = None,
    vae_fingerprint: str | None = None,
) -> CascadePipeline:
    """A pipeline around trained networks, with the sampling defaults of their preset.

    Args:
        settings: their preset.
        unet: the network of the base stage.
        sr_unet: that of the super-resolution stage; None makes a pipeline of base images only.
        encoder_fingerprint: of the text encoder whose embeddings they were trained on.
        vae: the autoencoder whose latents they were trained on; None where that was pixels.
        vae_fingerprint: ``Codec.fingerprint`` of that autoencoder, as their training recorded it.

    Raises:
        SatcascadeError: a network takes other channels than ``vae`` has, or than pixels have, or
            ``vae`` has another fingerprint.
    """
    sampling, sr = settings.sampling, settings.sampling.sr
    options: dict[str, Any] = {"base_steps": sampling.base.steps, "base_guidance": sampling.base.guidance}
    if sr is not None:
        options |= {"sr_steps": sr.steps, "sr_guidance": sr.guidance}
    if sampling.low_res_log_snr is not None:
        options["low_res_log_snr"] = sampling.low_res_log_snr
    return CascadePipeline(
        unet=unet,
        scheduler=preset_scheduler(sampling.base, unet),
        sr_unet=sr_unet,
        sr_scheduler=None if sr_unet is None or sr is None else preset_scheduler(sr, sr_unet),
        text_encoder=settings.text_encoder,
        text_encoder_fingerprint=encoder_fingerprint,
        projected_guidance=sampling.projected_guidance,
        guidance_rescale=sampling.guidance_rescale,
        guidance_interval=sampling.guidance_interval,
        clip_x0=sampling.clip_x0,
        vae=vae,
        vae_fingerprint=vae_fingerprint,
        **options,
    )


def preset_scheduler(sampling: StageSampling, unet: Any) -> Any:
    """The scheduler that a preset names for a stage, for the predictions of ``unet``."""
    schedule = sampling.schedule
    return make_scheduler(
        sampling.scheduler,
        unet.config.prediction_type,
        shift=schedule.shift,
        low=schedule.low,
        high=schedule.high,
    )
