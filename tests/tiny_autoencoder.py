"""Short training runs of a tiny autoencoder, and a teacher of random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from forked import Forked
from satcascade.data.prepared import PreparedDataset
from satcascade.training.codec.run import train_codec
from satcascade.training.codec.teacher import new_decoder, new_encoder

SETTINGS = """
name: test
model:
  latent_channels: 8
  encoder_patch_size: 8
  decoder_patch_size: 8
  encoder_block_out_channels: [8]
  decoder_block_out_channels: [16]
  num_encoder_blocks: [0]
  num_decoder_blocks: [1]
encoder: {images: 12, steps: 0, learning_rate: 1.0e-3}
decoder:
  steps: 8
  learning_rate: 1.0e-3
  warmup_steps: 2
  decay_steps: 3
  noise_share: 0.5
  texture_weight: 1.0
batch_size: 2
crop: 32
log_every: 2
checkpoint_every: 3
"""

# What a teacher of 32 channels needs.
TAUGHT = (
    "model.latent_channels=32",
    "model.encoder_reduction=2",
    "model.encoder_patch_size=4",
    "model.decoder_patch_size=16",
    "model.encoder_block_out_channels=[8,8]",
    "model.num_encoder_blocks=[0,1]",
    "encoder.steps=5",
    "decoder.teacher_latents=0.5",
    "decoder.teacher_pictures=1",
    "decoder.teacher_features=1",
    # Blocks as wide as the teacher's.
    "model.decoder_block_out_channels=[64]",
    "model.decoder_expansion=2",
    "model.decoder_grain=4",
    "decoder.adversarial_weight=0.5",
    "decoder.adversarial_after=1",
    "decoder.critic_alone=2",
    "decoder.critic_warmup=2",
)


def settings_file(folder: Path) -> str:
    path = folder / "test.yaml"
    path.write_text(SETTINGS)
    return str(path)


def trained(preset: str, data: PreparedDataset, out: Path, *overrides: str, **options: Path | None) -> Path:
    return train_codec(
        data.path, out, preset=preset, overrides=overrides, device="cpu", quiet=True, **options
    )


def in_a_process(
    preset: str, data: PreparedDataset, out: Path, teacher: Path | None, *overrides: str
) -> Forked:
    return Forked(partial(trained, preset, data, out, *overrides, teacher=teacher))


def random_teacher(folder: Path, seed: int = 0) -> Path:
    """A folder with weights of the teacher's architecture."""
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, network in (("encoder", new_encoder()), ("decoder", new_decoder())):
            save_file(dict(network.state_dict()), folder / f"{name}.safetensors")
    return folder
