"""A cascade small enough for tests: random weights, 16 and 32 pixels, but every part of the real one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from satcascade.diffusion.schedulers import make_scheduler
from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.models.compact_unet import CompactUNet
from satcascade.pipelines.cascade import CascadePipeline


def tiny_unet(seed: int, **changes: object) -> CompactUNet:
    """A network of some 30,000 parameters; even its zero-initialised layers are random."""
    arguments = {
        "sample_size": 16,
        "widths": (16, 32),
        "blocks": (1, 1),
        "attention": (False, True),
        "head_dim": 16,
        "cond_dim": 24,
        "text_dim": 16,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = CompactUNet(**{**arguments, **changes})
        for parameter in unet.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def tiny_pipeline(text_encoder: str, **changes: object) -> CascadePipeline:
    """A two-stage cascade of :func:`tiny_unet`."""
    arguments = {
        "unet": tiny_unet(0),
        "scheduler": make_scheduler(),
        "sr_unet": tiny_unet(1, sample_size=32, low_res=True, self_attention=False),
        "sr_scheduler": make_scheduler(),
        "text_encoder": text_encoder,
        "base_steps": 4,
        "sr_steps": 3,
    }
    pipeline = CascadePipeline(**{**arguments, **changes})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_vae(seed: int) -> TinyAutoencoder:
    """An autoencoder of random weights: 6 channels at a quarter of the side."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = TinyAutoencoder(
            encoder_patch_size=4,
            decoder_patch_size=2,
            encoder_block_out_channels=(8,),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(0,),
            num_decoder_blocks=(1, 1),
            latent_channels=6,
            latents_mean=(0.1, -0.1, 0.0, 0.0, 0.0, 0.0),
            latents_std=(0.5,) * 6,
        )
        # The decoder works from 0 to 1: away from the black that pictures are clamped to.
        vae.decoder.layers[-1].bias.data.fill_(0.5)
        return vae.eval()


def tiny_latent_pipeline(text_encoder: str, **changes: object) -> CascadePipeline:
    """A base stage alone, on the latents of :func:`tiny_vae`: 8 x 8 of them make 32 pixels."""
    vae = tiny_vae(0)
    arguments = {
        "unet": tiny_unet(0, in_channels=6, sample_size=8, patch_size=2),
        "sr_unet": None,
        "sr_scheduler": None,
        "vae": vae,
        "vae_fingerprint": LatentCodec(vae).fingerprint,
    }
    return tiny_pipeline(text_encoder, **{**arguments, **changes})


def fill(disk: Path, leaving: int) -> None:
    """Fill a small file system but for so many bytes, with a file ``ballast``."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(bytes(free - leaving))
