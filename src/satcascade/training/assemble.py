"""From trained stages to a pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from satcascade.config.preset import StageName
from satcascade.errors import UsageError
from satcascade.models.codec import TinyAutoencoder
from satcascade.pipelines.assembly import build_pipeline
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.training.run_folder import TrainedStage, named_checkpoint, trained_stage


def assemble(
    base_run: Path | str,
    sr_run: Path | str | None,
    out: Path,
    *,
    half: bool = False,
    vae: TinyAutoencoder | None = None,
) -> CascadePipeline:
    """Make a pipeline of the averaged weights of one or two runs and save it.

    Args:
        base_run: run of the base stage, or one of its checkpoints as
            :func:`satcascade.training.run_folder.named_checkpoint` knows them.
        sr_run: likewise of the super-resolution stage; None makes a pipeline of base images only.
        out: the pipeline's folder, written by ``save_pretrained``.
        half: store weights in float16.
        vae: an autoencoder with a better decoder than that which the base stage was trained with; its
            encoder must be the same, or imitate the codec of that training.

    Returns:
        The pipeline.

    Raises:
        UsageError: a folder is no run of that stage, has no (such) checkpoint, or ``out`` is not empty.
        SatcascadeError: a checkpoint is damaged.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose another folder")
    base = _trained(base_run, "base")
    settings, sr_unet = base.settings, None
    if sr_run is not None:
        sr = _trained(sr_run, "sr")
        if sr.encoder_fingerprint != base.encoder_fingerprint:
            raise UsageError(
                f"{base_run} was trained on embeddings of '{settings.text_encoder}', {sr_run} on those of "
                f"'{sr.settings.text_encoder}', or of other weights: train both on the same prepared set"
            )
        own = {"sr": sr.settings.sampling.sr, "low_res_log_snr": sr.settings.sampling.low_res_log_snr}
        settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update=own)})
        sr_unet = sr.model
    vae = base.vae if vae is None else vae
    if base.codec_fingerprint is not None and vae is None:
        raise UsageError(
            f"{base_run} was trained on latents of {base.codec_fingerprint}, and keeps no autoencoder: "
            "give one that decodes them with --vae"
        )
    pipeline = build_pipeline(
        settings, base.model, sr_unet, base.encoder_fingerprint, vae, base.codec_fingerprint
    )
    if half:
        for network in (pipeline.unet, pipeline.sr_unet, pipeline.vae):
            # Not diffusers' own `to`, which warns of modules to be kept in float32 where there are none.
            if network is not None:
                nn.Module.to(network, torch.float16)
    pipeline.save_pretrained(str(out))
    return pipeline


def _trained(name: Path | str, stage: StageName) -> TrainedStage:
    named = named_checkpoint(name)
    return trained_stage(named.run, stage, named.step, named.length)


def with_trained_stage(pipeline: CascadePipeline, stage: StageName, trained: TrainedStage) -> CascadePipeline:
    """A pipeline with another network in one stage.

    Sampler, steps and guidance of that stage are the run's, as :func:`assemble` would have them; for
    super-resolution also the noise on its low-resolution input. All else is the pipeline's.

    Args:
        pipeline: left as it is; the networks and schedulers that stay are shared with it.
        stage: which network to replace.
        trained: what replaces it.

    Raises:
        UsageError: the two were trained on embeddings of different text encoders.
    """
    expected = pipeline.config.text_encoder_fingerprint
    if expected not in (None, trained.encoder_fingerprint):
        raise UsageError(
            f"{pipeline.name} was trained on embeddings of '{pipeline.config.text_encoder}', the run on "
            f"those of '{trained.settings.text_encoder}', or of other weights: choose the model it is for"
        )
    base = stage == "base"
    unet, sr_unet = (trained.model, pipeline.sr_unet) if base else (pipeline.unet, trained.model)
    if base and trained.vae is not None:
        # It draws whole pictures: there is nothing to enlarge.
        sr_unet = None
    run = build_pipeline(trained.settings, unet, sr_unet, trained.encoder_fingerprint, trained.vae)
    mine = ("base_steps", "base_guidance") if base else ("sr_steps", "sr_guidance", "low_res_log_snr")
    parts = {"unet", "scheduler", "vae"} if base else {"sr_unet", "sr_scheduler"}
    if base and trained.vae is not None:
        parts |= {"sr_unet", "sr_scheduler"}
    config = {
        key: value
        for key, value in pipeline.config.items()
        if not key.startswith("_") and key not in pipeline.components
    }
    components = {
        key: getattr(run if key in parts else pipeline, key)
        for key in ("unet", "scheduler", "sr_unet", "sr_scheduler", "vae")
    }
    if base:
        config |= {"vae_fingerprint": None}
    made = CascadePipeline(**components, **config | {key: run.config[key] for key in mine})
    made.precision = pipeline.precision
    made.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return made.to(pipeline.device)
