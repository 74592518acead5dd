"""A tiny autoencoder of random weights, and its folder."""

from __future__ import annotations

from pathlib import Path

import torch

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
