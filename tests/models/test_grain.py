"""Grain: noise that follows from the latents, of the strength that was learnt."""

from __future__ import annotations

import pytest
import torch

from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.models.grain import Grain
from satcascade.training.codec.losses import texture_error


def grain(factor: int = 16, deviation: float = 0.1) -> Grain:
    torch.manual_seed(0)
    made = Grain(4, 8, factor)
    with torch.no_grad():
        made.strength[2].weight.zero_()
        made.strength[2].bias.fill_(torch.tensor(deviation).log())
    return made.eval()


@torch.no_grad()
def test_it_is_white_noise_of_the_strength_asked_for():
    noise = grain()._noise(torch.randn(4, 4, 16, 16))
    assert noise.mean().abs() < 0.01
    assert noise.var() == pytest.approx(1, abs=0.02)
    for step in (1, 8):
        for dim in (2, 3):
            beside = (noise * noise.roll(step, dim)).mean()
            assert beside.abs() < 0.02
    fine, coarse = noise.chunk(2, 1)
    assert (fine * coarse).mean().abs() < 0.02
    # Fine and coarse noise, enlarged, of a tenth each.
    assert grain()(torch.randn(4, 4, 16, 16)).std() == pytest.approx(0.1 * 2**0.5, rel=0.3)


@torch.no_grad()
def test_it_follows_from_the_latents_wherever_they_are():
    made, latents = grain(), torch.randn(3, 4, 12, 12)
    whole = made(latents)
    # Convolutions of other batches and widths are computed in another order; an angle turns that to at most
    # the sum of the directions times one part in ten million.
    same = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(made(latents[1:2])[0], whole[1], **same)
    # The strength reads two positions around, its enlargement one more.
    torch.testing.assert_close(made(latents[:, :, 2:10])[:, :, 64:-64], whole[:, :, 96:-96], **same)
    assert (made(latents.flip(0)) - whole).abs().max() > 0.1


def test_what_it_follows_by_fits_into_half_precision():
    made = grain()
    for values in (made.directions, made.phases):
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(values.to(dtype).float(), values)
    assert not {"directions", "phases"} & set(made.state_dict())


@torch.no_grad()
def test_autocast_leaves_the_noise_as_it_is():
    made, latents = grain(), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made._noise(latents), grain()._noise(latents))
        half = made(latents)
    torch.testing.assert_close(half.float(), made(latents), atol=0.02, rtol=0.05)


def test_a_factor_without_blocks_is_refused():
    with pytest.raises(ValueError, match="grain needs a factor divisible by 8, not 4"):
        Grain(4, 8, 4)


def test_its_strength_can_be_learnt_where_there_is_texture():
    made, latents = grain(deviation=0.01), torch.randn(4, 4, 8, 8)
    # The left half of each picture is rough, and its latents say so.
    latents[:, 0, :, :4], latents[:, 0, :, 4:] = 2, -2
    real = 0.3 * torch.nn.functional.interpolate(torch.randn(4, 3, 64, 64), scale_factor=2)
    real[..., 64:] /= 10
    drawn = torch.zeros_like(real)
    optimizer = torch.optim.Adam(made.parameters(), 0.03)
    before = texture_error(drawn, real)
    for _ in range(60):
        optimizer.zero_grad()
        loss = texture_error(drawn + made(latents), real)
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * before
    added = made(latents).detach()
    assert added[..., :48].std() > 4 * added[..., 80:].std()


def test_decoded_images_have_it_and_files_keep_it(tmp_path):
    torch.manual_seed(0)
    shape = {"latent_channels": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    vae = TinyAutoencoder(**shape, decoder_grain=8)
    latents = torch.randn(1, 4, 4, 4)
    codec = LatentCodec(vae)
    added = codec.vae.decode(latents).sample - codec.vae.drawn(latents)
    torch.testing.assert_close(added, codec.vae.decoder.grain(latents))
    assert added.std() > 1e-3
    vae.save_pretrained(tmp_path)
    again = LatentCodec.load(tmp_path)
    assert torch.equal(again.decode(latents), codec.decode(latents))
    assert again.fingerprint == codec.fingerprint
