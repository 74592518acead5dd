"""A tiny autoencoder of random weights, and its folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from satcascade.data.latents import encode_latents
from satcascade.data.prepared import PreparedDataset
from satcascade.models.codec import LatentCodec, TinyAutoencoder


def tiny_codec(seed: int = 0) -> LatentCodec:
    """4 channels at a quarter of the side, with means and deviations."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = TinyAutoencoder(
            encoder_patch_size=2,
            decoder_patch_size=2,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(0, 1),
            num_decoder_blocks=(1, 0),
            latent_channels=4,
            latents_mean=(0.1, 0.0, -0.1, 0.2),
            latents_std=(0.5, 1.0, 0.7, 0.9),
        )
    return LatentCodec(vae)


def saved_codec(folder: Path, seed: int = 0) -> str:
    """The folder of a tiny codec."""
    tiny_codec(seed).vae.save_pretrained(folder)
    return str(folder)


def encode_until_killed(data: Path, vae: str, side: int, views: tuple[int, ...]) -> None:
    """Store latents of a set until the eighth batch, in which the process is killed."""
    codec = LatentCodec.load(Path(vae))
    calls, encode = [], codec.encode

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(images)

    codec.encode = counted  # type: ignore[method-assign]
    encode_latents(PreparedDataset.open(data), codec, side, views, progress=False)
