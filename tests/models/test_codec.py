"""Codecs: what is encoded comes back, and what is wrong is refused in a line."""

from __future__ import annotations

import warnings

import pytest
import torch

from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.codec import LatentCodec, PixelCodec, TinyAutoencoder, encoder_fingerprint
from tiny_codec import saved_codec, tiny_codec


def test_pixels_are_diffused_as_they_are():
    codec, images = PixelCodec(), torch.rand(2, 3, 6, 10) * 2 - 1
    assert (codec.channels, codec.factor, codec.bounded) == (3, 1, True)
    assert torch.equal(codec.encode(images), images)
    assert torch.equal(codec.decode(2 * images), (2 * images).clamp(-1, 1))


def test_latents_are_normalised_and_decoded_from_that(tmp_path):
    codec, images = tiny_codec(), torch.rand(2, 3, 16, 24) * 2 - 1
    latents = codec.encode(images)
    assert latents.shape == (2, codec.channels, 16 // codec.factor, 24 // codec.factor)
    mean, std = (
        torch.tensor(codec.vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    torch.testing.assert_close(latents * std + mean, codec.vae.encode(images).latents)
    decoded = codec.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1
    torch.testing.assert_close(decoded, codec.vae(images).sample.clamp(-1, 1))


def test_saved_codec_is_the_same_and_loads_without_a_warning(tmp_path, caplog):
    codec, images = tiny_codec(), torch.rand(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = LatentCodec.load(saved_codec(tmp_path / "vae"))
    assert not caplog.records
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(images), codec.encode(images))


def test_fingerprint_is_of_all_that_latents_depend_on():
    vae = tiny_codec().vae
    before = encoder_fingerprint(vae)
    next(vae.decoder.parameters()).data.add_(1)
    assert encoder_fingerprint(vae) == before
    half = tiny_codec().vae.half()
    assert encoder_fingerprint(half) == before
    vae.register_to_config(latents_std=[1.0] * 4)
    assert encoder_fingerprint(vae) != before
    other = tiny_codec().vae
    next(other.encoder.parameters()).data.add_(0.1)
    assert encoder_fingerprint(other) != before


def test_refusals(tmp_path):
    codec = tiny_codec()
    with pytest.raises(UsageError, match="10 x 8 px cannot be encoded: 4 must divide both sides"):
        codec.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(UsageError, match="expected a batch of 4 channels"):
        codec.decode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(SatcascadeError, match="holds no whole autoencoder"):
        LatentCodec.load(tmp_path)
    with pytest.raises(SatcascadeError, match="has no latents_mean for 32 channels"):
        LatentCodec(TinyAutoencoder())
    with pytest.raises(ValueError, match="the encoder reduces by 8, the decoder enlarges by 16"):
        TinyAutoencoder(decoder_patch_size=16)
