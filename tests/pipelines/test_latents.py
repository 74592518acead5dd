"""Cascades that diffuse the latents of an autoencoder, and pixel cascades saved before there were any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from rounding import assert_equal_but_for_rounding, bound_of_rounding, largest, nudged_weights
from satcascade.diffusion.process import add_noise
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import make_scheduler
from satcascade.errors import SatcascadeError
from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.models.denoiser import resize_low_res
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.zoo import load_pipeline
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline, tiny_unet, tiny_vae

DATA = Path(__file__).parent.parent / "data"
CAPTIONS = ["a pond in the forest", "desert", "houses and trees of the town"]


def images(pipeline: CascadePipeline, captions=CAPTIONS, seeds=(1, 2, 3), **options) -> torch.Tensor:
    return pipeline(captions, seeds=seeds, output_type="pt", **options).images


def nudged_images(pipeline: CascadePipeline) -> Callable[[int], torch.Tensor]:
    """The images of a pipeline whose networks are nudged with a seed."""

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, pipeline.unet, pipeline.vae):
            return images(pipeline)

    return again


def test_one_stage_of_latents_is_decoded_to_images(tiny_text_encoder):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    seen = []

    def watch(pipeline, step, timestep, state):
        seen.append(state["sample"])

    made = pipeline(CAPTIONS, seeds=[1, 2, 3], output_type="pt", callback_on_step_end=watch)
    assert made.images.shape == (3, 3, 32, 32)
    assert torch.equal(made.images, made.base_images)
    assert [tuple(sample.shape) for sample in seen] == [(3, 6, 8, 8)] * 4
    decoded = LatentCodec(pipeline.vae).decode(seen[-1])
    torch.testing.assert_close(made.images, (decoded + 1) / 2)
    assert made.images.std() > 0.05


def test_estimates_of_latents_are_not_clamped(tiny_text_encoder):
    pipeline = tiny_latent_pipeline(tiny_text_encoder, scheduler=make_scheduler("ddim"))
    seen = []

    def watch(pipeline, step, timestep, state):
        seen.append(state["sample"])

    pipeline("a pond", seeds=[0], guidance_scale=30.0, callback_on_step_end=watch)
    # The last step of DDIM returns the estimate itself.
    assert seen[-1].abs().max() > 1.5


def test_a_latent_image_does_not_depend_on_its_batch(tiny_text_encoder):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    together = images(pipeline)
    bound = bound_of_rounding(together, nudged_images(pipeline))
    for row in range(3):
        assert largest(images(pipeline, [CAPTIONS[row]], [row + 1])[0] - together[row]) <= bound


def test_second_stage_takes_latents_of_the_enlarged_image(tiny_text_encoder, monkeypatch):
    sr_unet = tiny_unet(1, sample_size=16, low_res=True, self_attention=False, in_channels=6, patch_size=2)
    pipeline = tiny_latent_pipeline(tiny_text_encoder, sr_unet=sr_unet)
    calls = []
    forward = sr_unet.forward

    def watched(*args, **more):
        calls.append(more)
        return forward(*args, **more)

    monkeypatch.setattr(sr_unet, "forward", watched)
    made = pipeline("a pond", seeds=[4], output_type="pt")
    assert made.images.shape == (1, 3, 64, 64)
    # The stream of a seed: first noise of the base, noise on the low-resolution latents.
    stream = torch.Generator().manual_seed(4)
    torch.randn(1, 6, 8, 8, generator=stream)
    noise = torch.randn(1, 6, 16, 16, generator=stream)
    enlarged = resize_low_res(made.base_images * 2 - 1, 64, "bilinear")
    level = torch.tensor([pipeline.config.low_res_log_snr])
    expected = add_noise(LatentCodec(pipeline.vae).encode(enlarged), noise, level)
    torch.testing.assert_close(calls[0]["low_res"], expected, atol=1e-5, rtol=1e-5)


def test_super_resolution_of_pixels_may_follow_a_base_of_latents(tiny_text_encoder):
    sr_unet = tiny_unet(1, sample_size=64, low_res=True, self_attention=False)
    pipeline = tiny_latent_pipeline(tiny_text_encoder, sr_unet=sr_unet)
    assert (pipeline.codec("base").channels, pipeline.codec("sr").channels) == (6, 3)
    made = pipeline("a pond", seeds=[4], output_type="pt")
    assert (made.images.shape, made.base_images.shape) == ((1, 3, 64, 64), (1, 3, 32, 32))


def test_a_latent_pipeline_is_saved_and_loaded(tiny_text_encoder, tmp_path):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    pipeline.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["vae"] == ["satcascade.models.codec", "TinyAutoencoder"]
    by_name = load_pipeline(tmp_path / "model", device="cpu")
    for again in (by_name, DiffusionPipeline.from_pretrained(tmp_path / "model")):
        again.set_progress_bar_config(disable=True)
        assert type(again.vae) is TinyAutoencoder
        assert again.config.vae_fingerprint == pipeline.config.vae_fingerprint
        # How the decoder's weights lie in memory, and so how it rounds, is not saved.
        assert_equal_but_for_rounding(images(again), images(pipeline), nudged_images(pipeline))


def test_weights_hash_covers_the_autoencoder(tiny_text_encoder, tmp_path):
    first, second = (
        tiny_latent_pipeline(tiny_text_encoder, vae=tiny_vae(seed), vae_fingerprint=None) for seed in (0, 1)
    )
    assert first.weights_hash != second.weights_hash
    for name, pipeline in (("first", first), ("second", second)):
        pipeline.save_pretrained(tmp_path / name)
    loaded = [CascadePipeline.from_pretrained(tmp_path / name).weights_hash for name in ("first", "second")]
    assert loaded[0] != loaded[1]


def test_half_precision_and_bfloat16_stay_near(tiny_text_encoder, tmp_path):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    expected = images(pipeline, guidance_scale=1.0)
    pipeline.precision = "bfloat16"
    assert 0 < (images(pipeline, guidance_scale=1.0) - expected).abs().max() < 0.1
    tiny_latent_pipeline(tiny_text_encoder).to(torch.float16).save_pretrained(tmp_path / "half")
    half = load_pipeline(tmp_path / "half", device="cpu")
    half.set_progress_bar_config(disable=True)
    torch.testing.assert_close(images(half, guidance_scale=1.0), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": None}, "the base network takes 6 channels, pixels have 3"),
        ({"unet": tiny_unet(0)}, "the base network takes 3 channels, the latents of its vae have 6"),
        (
            {"sr_unet": tiny_unet(1, in_channels=5, low_res=True)},
            "the sr network takes 5 channels, the latents of its vae have 6",
        ),
        ({"vae_fingerprint": "0123456789abcdef"}, "trained on latents of 0123456789abcdef"),
    ],
)
def test_a_codec_that_the_networks_do_not_fit_is_refused(tiny_text_encoder, changes, message):
    with pytest.raises(SatcascadeError, match=message) as refused:
        tiny_latent_pipeline(tiny_text_encoder, **changes)
    assert "\n" not in str(refused.value)


def test_an_autoencoder_swapped_for_another_is_refused(tiny_text_encoder, tmp_path):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    pipeline.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    tiny_vae(1).save_pretrained(tmp_path / "model" / "vae")
    with pytest.raises(SatcascadeError, match="trained on latents of"):
        CascadePipeline.from_pretrained(tmp_path / "model")
    pipeline.vae = tiny_vae(1)
    with pytest.raises(SatcascadeError, match="trained on latents of"):
        images(pipeline)


def test_a_folder_saved_before_there_was_a_vae_loads_as_it_did(tiny_text_encoder, tmp_path):
    layout = {"width": 8, "width_multipliers": [1, 2], "blocks": 1, "heads": 2, "head_dim": 4, "cond_dim": 8}
    layout |= {"self_attention": False, "cross_attention": [False, True], "text_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sr_unet = RSDiffUNet(**layout, sample_size=32, low_res=True).eval()
    options = {"sr_unet": sr_unet, "sr_scheduler": RSDiffScheduler(), "clip_x0": "dynamic"}
    pipeline = tiny_pipeline(tiny_text_encoder, **options)
    pipeline.save_pretrained(tmp_path / "model")
    index = json.loads((DATA / "model_index_before_vae.json").read_text())
    index["text_encoder"] = tiny_text_encoder
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    again = load_pipeline(tmp_path / "model", device="cpu")
    again.set_progress_bar_config(disable=True)
    assert again.vae is None
    assert type(again.sr_scheduler) is RSDiffScheduler
    assert torch.equal(images(again), images(pipeline))
