"""The cascade as a diffusers pipeline: what it samples, what its images depend on, saving and loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DiffusionPipeline

from rounding import assert_equal_but_for_rounding, bound_of_rounding, largest, nudged_weights
from satcascade import zoo
from satcascade.diffusion.guidance import dynamic_threshold, guide
from satcascade.diffusion.process import add_noise, alpha_sigma, to_epsilon, to_x0
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import log_snr_at, make_scheduler, swap_scheduler
from satcascade.diffusion.solvers import SOLVERS
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.denoiser import resize_low_res
from satcascade.pipelines import captioned as pipeline_module
from satcascade.pipelines.captioned import TextEncoderWarning
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling import loop
from satcascade.zoo import load_pipeline
from tiny_cascade import fill, tiny_pipeline, tiny_unet
from tiny_rsdiff import rsdiff_pipeline

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

CAPTIONS = ["a pond in the forest", "desert", "houses and trees of the town"]


@pytest.fixture
def pipeline(tiny_text_encoder: str) -> CascadePipeline:
    return tiny_pipeline(tiny_text_encoder)


class Spy:
    """Stands between pipeline and network and keeps what the network was given."""

    def __init__(self, unet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[dict[str, torch.Tensor]] = []
        self.texts: list[int] = []
        forward, encode_text = unet.forward, unet.encode_text

        def watched(sample, log_snr, text, **more):
            self.calls.append({"sample": sample.clone(), "log_snr": log_snr.clone(), **more})
            return forward(sample, log_snr, text, **more)

        def watched_text(embeddings, mask, keep=None):
            self.texts.append(len(embeddings))
            return encode_text(embeddings, mask, keep)

        monkeypatch.setattr(unet, "forward", watched)
        monkeypatch.setattr(unet, "encode_text", watched_text)

    def batches(self) -> list[int]:
        return [len(call["sample"]) for call in self.calls]


def images(pipeline: CascadePipeline, captions=CAPTIONS, seeds=(1, 2, 3), **options) -> torch.Tensor:
    return pipeline(captions, seeds=seeds, output_type="pt", **options).images


def nudged_images(pipeline: CascadePipeline, *arguments, **options) -> Callable[[int], torch.Tensor]:
    """The images of a pipeline whose networks are nudged with a seed."""

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, *filter(None, (pipeline.unet, pipeline.sr_unet))):
            return images(pipeline, *arguments, **options)

    return again


# What comes out


def test_output_types_agree(pipeline):
    tensors = pipeline(CAPTIONS, seeds=[1, 2, 3], output_type="pt")
    arrays = pipeline(CAPTIONS, seeds=[1, 2, 3], output_type="np")
    pictures = pipeline(CAPTIONS, seeds=[1, 2, 3])
    assert tensors.images.shape == (3, 3, 32, 32)
    assert tensors.base_images.shape == (3, 3, 16, 16)
    assert 0 <= tensors.images.min() < tensors.images.max() <= 1
    np.testing.assert_array_equal(arrays.images, tensors.images.permute(0, 2, 3, 1).numpy())
    assert all(isinstance(picture, PIL.Image.Image) for picture in pictures.images + pictures.base_images)
    found = np.stack([np.asarray(picture) for picture in pictures.images])
    np.testing.assert_array_equal(found, np.round(arrays.images * 255).astype(np.uint8))


def test_one_caption_may_be_a_plain_text(pipeline):
    assert len(pipeline("a pond", seeds=[0]).images) == 1


def test_stop_at_base_gives_the_base_images_of_the_whole_run(pipeline):
    whole = pipeline(CAPTIONS, seeds=[1, 2, 3], output_type="pt")
    base = pipeline(CAPTIONS, seeds=[1, 2, 3], output_type="pt", stop_at="base")
    assert torch.equal(base.images, whole.base_images)
    assert torch.equal(base.base_images, whole.base_images)


def test_a_pipeline_without_super_resolution_stops_at_base(tiny_text_encoder, pipeline):
    base_only = tiny_pipeline(tiny_text_encoder, sr_unet=None, sr_scheduler=None)
    assert torch.equal(images(base_only), images(pipeline, stop_at="base"))


def test_a_tuple_instead_of_an_output(pipeline):
    final, base = pipeline("a pond", seeds=[0], output_type="pt", return_dict=False)
    assert (final.shape[-1], base.shape[-1]) == (32, 16)


# The mathematics


def test_base_stage_is_guided_ddim(tiny_text_encoder):
    """Against the sampler of Song et al. 2021 (eta 0) written out, with guidance from two separate calls."""
    pipeline = tiny_pipeline(tiny_text_encoder, scheduler=make_scheduler("ddim"))
    text = pipeline.encode("a pond")
    unet, steps, scale = pipeline.unet, 5, 4.0
    timesteps = [1000 - 200 * step - 1 for step in range(steps)]
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    for step, timestep in enumerate(timesteps):
        log_snr = log_snr_at(pipeline.scheduler, timestep).reshape(1)
        with torch.no_grad():
            predictions = [
                unet(x, log_snr, unet.encode_text(text.embeddings, text.mask, torch.tensor([keep])))
                for keep in (True, False)
            ]
        v = guide(*predictions, scale)
        x0 = to_x0(v, x, log_snr, "v_prediction").clamp(-1, 1)
        alpha, sigma = alpha_sigma(log_snr)
        noise = (x - alpha * x0) / sigma
        if step + 1 == steps:
            x = x0
        else:
            x = add_noise(x0, noise, log_snr_at(pipeline.scheduler, timesteps[step + 1]).reshape(1))
    arguments = (pipeline, "a pond", [9])
    options = {"stop_at": "base", "num_inference_steps": steps, "guidance_scale": scale}
    assert_equal_but_for_rounding(
        (x + 1) / 2, images(*arguments, **options), nudged_images(*arguments, **options)
    )


def test_clipping_keeps_the_estimate_of_the_clean_image_in_range(tiny_text_encoder):
    def extremes(clip_x0: bool) -> float:
        pipeline = tiny_pipeline(tiny_text_encoder, clip_x0=clip_x0, scheduler=make_scheduler("ddim"))
        seen = []

        def watch(pipeline, step, timestep, state):
            seen.append(state["sample"])

        options = {"guidance_scale": 30.0, "num_inference_steps": 2, "stop_at": "base"}
        pipeline("a pond", seeds=[0], callback_on_step_end=watch, **options)
        # The last step of DDIM returns the estimate itself.
        return float(seen[-1].abs().max())

    assert extremes(clip_x0=True) == pytest.approx(1, abs=1e-5)
    assert extremes(clip_x0=False) > 1.01


def test_super_resolution_starts_from_the_base_image_noised_at_its_level(pipeline, monkeypatch):
    spy = Spy(pipeline.sr_unet, monkeypatch)
    base = pipeline("a pond", seeds=[4], output_type="pt").base_images * 2 - 1
    # The stream of a seed: first noise of the base, noise on the low-resolution image, first noise of SR.
    stream = torch.Generator().manual_seed(4)
    _, on_low_res, first = (torch.randn(1, 3, size, size, generator=stream) for size in (16, 32, 32))
    level = torch.tensor([pipeline.config.low_res_log_snr])
    expected = add_noise(resize_low_res(base, 32, "bilinear"), on_low_res, level)
    for call in spy.calls:
        torch.testing.assert_close(call["low_res"], expected)
        torch.testing.assert_close(call["low_res_log_snr"], level)
    torch.testing.assert_close(spy.calls[0]["sample"], first)


def test_both_guidance_branches_go_in_one_call_and_each_text_once_a_stage(pipeline, monkeypatch):
    base, sr = Spy(pipeline.unet, monkeypatch), Spy(pipeline.sr_unet, monkeypatch)
    images(pipeline, guidance_scale=2.0, sr_guidance_scale=1.0)
    assert base.batches() == [6] * 4
    assert base.texts == [3, 3]
    assert sr.batches() == [3] * 3
    assert sr.texts == [3]


def test_guidance_changes_pictures_and_its_kinds_differ(pipeline, tiny_text_encoder):
    projected = tiny_pipeline(tiny_text_encoder, projected_guidance=True)
    rescaled = tiny_pipeline(tiny_text_encoder, guidance_rescale=0.7)
    plain, strong = images(pipeline, guidance_scale=1.0), images(pipeline, guidance_scale=4.0)
    assert (plain - strong).abs().max() > 0.01
    assert (images(projected, guidance_scale=4.0) - strong).abs().max() > 1e-4
    assert (images(rescaled, guidance_scale=4.0) - strong).abs().max() > 1e-4
    torch.testing.assert_close(images(rescaled, guidance_scale=1.0), plain)
    rescaled.register_to_config(guidance_rescale=1.5)
    with pytest.raises(UsageError, match=r"guidance_rescale 1\.5 is out of range"):
        images(rescaled, guidance_scale=4.0)


def test_guidance_outside_its_interval_costs_nothing(tiny_text_encoder, monkeypatch):
    pipeline = tiny_pipeline(tiny_text_encoder, guidance_interval=(-2.0, 2.0))
    spy = Spy(pipeline.unet, monkeypatch)
    images(pipeline, num_inference_steps=10, stop_at="base", guidance_scale=3.0)
    guided = [abs(float(call["log_snr"][0])) <= 2 for call in spy.calls]
    assert any(guided)
    assert not all(guided)
    assert spy.batches() == [6 if inside else 3 for inside in guided]


def test_epsilon_predictions_are_clipped_and_guided_alike():
    """The conversions of the pipeline agree with those of ``diffusion`` for both kinds of network."""
    generator = torch.Generator().manual_seed(0)
    prediction, x_t = (torch.randn(2, 3, 8, 8, generator=generator).double() for _ in range(2))
    log_snr = torch.tensor([-2.0, 1.0]).double()
    for kind in ("epsilon", "v_prediction"):
        clipped = loop.convert(prediction, x_t, log_snr, kind, kind, clip_x0=True)
        expected = to_x0(prediction, x_t, log_snr, kind).clamp(-1, 1)
        torch.testing.assert_close(to_x0(clipped, x_t, log_snr, kind), expected)
        alpha, sigma = alpha_sigma(log_snr)
        torch.testing.assert_close(alpha * expected + sigma * to_epsilon(clipped, x_t, log_snr, kind), x_t)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpm++", "heun", "euler-a", "rsdiff"])
def test_prediction_types_make_the_same_pictures(tiny_text_encoder, name):
    """The networks' weights are the same, and so is what they say of the clean image."""
    made, bounds = {}, {}
    for kind in ("v_prediction", "epsilon", "sample"):
        scheduler = make_scheduler(name, kind)
        pipeline = tiny_pipeline(
            tiny_text_encoder,
            unet=tiny_unet(0, prediction_type=kind),
            sr_unet=tiny_unet(
                1, sample_size=32, low_res=True, self_attention=False, prediction_type=kind, sigma_data=0.4
            ),
            scheduler=scheduler,
            sr_scheduler=scheduler,
        )
        made[kind] = images(pipeline, guidance_scale=3.0)
        assert scheduler.config.prediction_type == kind
        # RSDiff's schedule begins where alpha is 4e-8: a clean image is not to be had from epsilon there.
        if (name, kind) != ("rsdiff", "epsilon"):
            bounds[kind] = bound_of_rounding(made[kind], nudged_images(pipeline, guidance_scale=3.0))
    assert made["v_prediction"].std() > 0.05
    for kind in bounds:
        assert largest(made[kind] - made["v_prediction"]) <= max(bounds.values())


# RSDiff's networks


@pytest.mark.slow
def test_rsdiff_networks_are_sampled_by_every_scheduler(tiny_text_encoder):
    pipeline = rsdiff_pipeline(tiny_text_encoder)
    made = {}
    for name in SOLVERS:
        pipeline.scheduler = swap_scheduler(pipeline.scheduler, name)
        pipeline.sr_scheduler = swap_scheduler(pipeline.sr_scheduler, name)
        steps = {"num_inference_steps": 10, "sr_num_inference_steps": 10}
        made[name] = images(pipeline, "a pond", [1], guidance_scale=3.0, **steps)
        assert made[name].isfinite().all()
        assert made[name].std() > 0.05
    # Euler's method in sigma is DDIM (Song et al. 2021, section 4.3).
    torch.testing.assert_close(made["euler"], made["ddim"], atol=0.01, rtol=0)
    assert (made["rsdiff"] - made["ddim"]).abs().max() > 0.1


def test_a_model_does_not_tell_where_it_lay(tiny_model, tmp_path):
    load_pipeline(tiny_model, device="cpu").save_pretrained(tmp_path / "again")
    load_pipeline(tmp_path / "again", device="cpu").save_pretrained(tmp_path / "again")
    descriptions = list((tmp_path / "again").rglob("*.json"))
    assert len(descriptions) == 5
    for path in descriptions:
        assert "_name_or_path" not in path.read_text()
        assert "_class_name" in json.loads(path.read_text())


@pytest.mark.slow
def test_rsdiff_pipeline_survives_saving_and_its_images_do_not_depend_on_their_batch(
    tiny_text_encoder, tmp_path
):
    pipeline = rsdiff_pipeline(tiny_text_encoder)
    expected = images(pipeline)
    pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model", device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is type(again.sr_scheduler) is RSDiffScheduler
    assert again.config.clip_x0 == "dynamic"
    bound = bound_of_rounding(expected, nudged_images(pipeline))
    alone = torch.cat([images(again, [CAPTIONS[row]], [row + 1]) for row in range(3)])
    for found in (images(again), alone):
        assert largest(found - expected) <= bound


@pytest.mark.slow
def test_dynamic_thresholding_serves_every_solver_and_is_left_to_rsdiffs_own(tiny_text_encoder):
    images_of = {}
    for clip_x0 in (True, False, "dynamic"):
        pipeline = rsdiff_pipeline(tiny_text_encoder)
        pipeline.register_to_config(clip_x0=clip_x0)
        own = images(pipeline, guidance_scale=8.0)
        pipeline.scheduler = swap_scheduler(pipeline.scheduler, "ddim")
        images_of[clip_x0] = images(pipeline, guidance_scale=8.0, stop_at="base"), own
    assert torch.equal(images_of[True][1], images_of["dynamic"][1])
    assert torch.equal(images_of[False][1], images_of["dynamic"][1])
    assert (images_of[True][0] - images_of["dynamic"][0]).abs().max() > 0.05
    prediction, x_t = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    log_snr = torch.tensor([-4.0, 1.0]).double()
    clipped = loop.convert(prediction, x_t, log_snr, "epsilon", "epsilon", clip_x0="dynamic")
    expected = dynamic_threshold(to_x0(prediction, x_t, log_snr, "epsilon"))
    torch.testing.assert_close(to_x0(clipped, x_t, log_snr, "epsilon"), expected)
    with pytest.raises(UsageError, match="unknown clip_x0 'static'"):
        CascadePipeline(pipeline.unet, pipeline.scheduler, clip_x0="static")


# What an image depends on


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_an_image_does_not_depend_on_its_batch_whatever_the_scheduler(tiny_text_encoder, name):
    schedulers = {"scheduler": make_scheduler(name), "sr_scheduler": make_scheduler(name)}
    pipeline = tiny_pipeline(tiny_text_encoder, **schedulers)
    together = images(pipeline)
    assert torch.isfinite(together).all()
    bound = bound_of_rounding(together, nudged_images(pipeline))
    for row in range(3):
        assert largest(images(pipeline, [CAPTIONS[row]], [row + 1])[0] - together[row]) <= bound
    assert largest(images(pipeline, CAPTIONS[::-1], [3, 2, 1]).flip(0) - together) <= bound


def test_seed_and_caption_decide(pipeline):
    first, other = images(pipeline, ["a pond", "a pond"], [1, 2])
    again = images(pipeline, ["a pond"], [1])[0]
    desert = images(pipeline, ["desert"], [1])[0]
    assert_equal_but_for_rounding(again[None], first[None], nudged_images(pipeline, ["a pond"], [1]))
    assert (first - other).abs().max() > 0.05
    assert (first - desert).abs().max() > 0.001


def test_generators_are_seeds_in_another_form(pipeline):
    expected = images(pipeline, CAPTIONS, [5, 6, 7])

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    found = pipeline(CAPTIONS, generator=[generator(seed) for seed in (5, 6, 7)], output_type="pt").images
    assert torch.equal(found, expected)
    single = pipeline(CAPTIONS[0], generator=generator(5), output_type="pt").images
    assert torch.equal(single, images(pipeline, CAPTIONS[0], [5]))
    several = [pipeline(CAPTIONS, generator=generator(5), output_type="pt").images for _ in range(2)]
    assert torch.equal(*several)
    assert (several[0][0] - several[0][1]).abs().max() > 0.05


def test_without_a_seed_torchs_own_decides(pipeline):
    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return pipeline("a pond", output_type="pt").images

    assert torch.equal(made(3), made(3))
    assert not torch.equal(made(3), made(4))


def test_embeddings_may_be_given_instead_of_captions(pipeline):
    found = pipeline(prompt_embeds=pipeline.encode(CAPTIONS), seeds=[1, 2, 3], output_type="pt").images
    assert_equal_but_for_rounding(found, images(pipeline), nudged_images(pipeline))


def test_one_scheduler_object_may_serve_both_stages(tiny_text_encoder, pipeline):
    shared = make_scheduler()
    sharing = tiny_pipeline(tiny_text_encoder, scheduler=shared, sr_scheduler=shared)
    assert torch.equal(images(sharing), images(pipeline))


# Use as any diffusers pipeline


def test_schedulers_are_swapped_as_in_any_pipeline(pipeline, tiny_text_encoder):
    pipeline.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.sr_scheduler = swap_scheduler(pipeline.sr_scheduler, "unipc")
    made = {"scheduler": make_scheduler("unipc"), "sr_scheduler": make_scheduler("unipc")}
    assert torch.equal(images(pipeline), images(tiny_pipeline(tiny_text_encoder, **made)))
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UsageError, match="FlowMatchEulerDiscreteScheduler is not on a variance-preserving"):
        images(pipeline)


def test_callback_sees_every_step_and_may_change_it(pipeline):
    seen = []

    def black(pipe, step, timestep, state):
        assert pipe is pipeline
        seen.append((state["stage"], step, tuple(state["sample"].shape)))
        return {"sample": torch.full_like(state["sample"], -1.0)}

    result = pipeline("a pond", seeds=[0], output_type="pt", callback_on_step_end=black)
    assert seen == [("base", step, (1, 3, 16, 16)) for step in range(4)] + [
        ("sr", step, (1, 3, 32, 32)) for step in range(3)
    ]
    assert not result.images.any()
    assert not result.base_images.any()


def test_progress_bar_counts_the_network_calls_of_both_stages(pipeline, capfd):
    pipeline.set_progress_bar_config()
    pipeline("a pond", seeds=[0])
    assert "7/7" in capfd.readouterr().err


def test_lower_precision_stays_near(pipeline):
    expected = images(pipeline, guidance_scale=1.5)
    pipeline.precision = "bfloat16"
    assert pipeline.compute_dtype == torch.bfloat16
    cast = images(pipeline, guidance_scale=1.5)
    assert cast.dtype == torch.float32
    assert 0 < (cast - expected).abs().max() < 0.1
    pipeline.precision = "float32"
    pipeline.to(torch.bfloat16)
    assert pipeline.unet.dtype == pipeline.compute_dtype == torch.bfloat16
    assert 0 < (images(pipeline, guidance_scale=1.5) - expected).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": ["a pond", "  "]}, "caption 2 of 2 is empty"),
        ({"prompt": None}, "give either captions"),
        ({"prompt": []}, "no captions"),
        ({"seeds": [1, 2]}, "2 seeds for 1 images"),
        ({"seeds": [-1]}, "seed -1 is out of range"),
        ({"seeds": [2**63]}, "out of range"),
        ({"seeds": [1], "generator": torch.Generator()}, "not both"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 images"),
        ({"num_inference_steps": 0}, "0 sampling steps"),
        ({"sr_num_inference_steps": -1}, "-1 sampling steps"),
        ({"guidance_scale": -1.0}, "negative"),
        ({"stop_at": "sr"}, "stop_at 'sr'"),
        ({"output_type": "jpg"}, "unknown output type 'jpg'"),
    ],
)
def test_impossible_requests_are_refused(pipeline, options, message):
    with pytest.raises(UsageError, match=message):
        pipeline(**{"prompt": "a pond", **options})


def test_numbers_that_are_not_finite_are_not_shown_as_a_picture(pipeline):
    pipeline.unet.out.bias.data[0] = float("nan")
    with pytest.raises(SatcascadeError, match="base stage of unsaved produced numbers that are not finite"):
        images(pipeline)


# The text encoder


def test_text_encoder_is_loaded_on_first_use_and_not_saved(monkeypatch, tiny_model, tiny_text_encoder):
    loaded = []
    load = pipeline_module.load_text_encoder

    def counting(*args):
        loaded.append(args)
        return load(*args)

    monkeypatch.setattr(pipeline_module, "load_text_encoder", counting)
    fresh = CascadePipeline.from_pretrained(tiny_model)
    assert not loaded
    images(fresh)
    images(fresh)
    assert len(loaded) == 1
    assert not any("encoder" in path.name for path in tiny_model.rglob("*"))
    assert fresh.config.text_encoder == tiny_text_encoder


def test_an_encoder_of_another_width_is_refused(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder, unet=tiny_unet(0, text_dim=24))
    with pytest.raises(SatcascadeError, match="gives 16 numbers a token, this model takes 24"):
        pipeline("a pond")


def test_an_encoder_other_than_the_one_trained_with_is_warned_of(tiny_text_encoder, pipeline):
    changed = tiny_pipeline(tiny_text_encoder, text_encoder_fingerprint="0123456789abcdef")
    with pytest.warns(TextEncoderWarning, match="not the one this model was trained with"):
        changed.encode("a pond")
    same = tiny_pipeline(tiny_text_encoder, text_encoder_fingerprint=pipeline.text_encoder.fingerprint)
    same.encode("a pond")


# Saving and loading


def test_a_saved_pipeline_is_the_same_pipeline(tmp_path, tiny_text_encoder):
    pipeline = tiny_pipeline(
        tiny_text_encoder,
        sr_scheduler=make_scheduler("ddim", shift=-1.0),
        guidance_interval=(-3.0, 5.0),
        low_res_log_snr=1.5,
        base_steps=5,
    )
    pipeline.save_pretrained(tmp_path / "model")
    again = CascadePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(images(again), images(pipeline))
    found, expected = (
        {key: value for key, value in loaded.config.items() if not key.startswith("_")}
        for loaded in (again, pipeline)
    )
    assert found == expected
    again.save_pretrained(tmp_path / "copy")
    for part in ("unet", "sr_unet"):
        weights = Path(part) / "diffusion_pytorch_model.safetensors"
        assert (tmp_path / "model" / weights).read_bytes() == (tmp_path / "copy" / weights).read_bytes()


def test_diffusers_own_loader_knows_the_pipeline(tiny_model, pipeline):
    loaded = DiffusionPipeline.from_pretrained(str(tiny_model))
    assert type(loaded) is CascadePipeline
    assert torch.equal(images(loaded), images(pipeline))
    assert loaded.name == "tiny"


def test_a_base_only_pipeline_is_saved_and_loaded(tmp_path, tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder, sr_unet=None, sr_scheduler=None)
    pipeline.save_pretrained(tmp_path / "model")
    again = CascadePipeline.from_pretrained(tmp_path / "model")
    assert again.sr_unet is None
    assert torch.equal(images(again), images(pipeline))


def test_weights_stored_in_half_precision_are_computed_in_float32(tmp_path, pipeline, tiny_text_encoder):
    tiny_pipeline(tiny_text_encoder).to(torch.float16).save_pretrained(tmp_path / "half")
    half = CascadePipeline.from_pretrained(tmp_path / "half")
    assert half.unet.dtype == torch.float32
    torch.testing.assert_close(images(half), images(pipeline), atol=0.02, rtol=0)


def test_weights_hash_is_that_of_the_weights(tiny_model, tmp_path, tiny_text_encoder):
    loaded = CascadePipeline.from_pretrained(tiny_model)
    copied = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert CascadePipeline.from_pretrained(copied).weights_hash == loaded.weights_hash
    other = tiny_pipeline(tiny_text_encoder, unet=tiny_unet(7))
    assert other.weights_hash != tiny_pipeline(tiny_text_encoder).weights_hash
    other.save_pretrained(tmp_path / "other")
    assert CascadePipeline.from_pretrained(tmp_path / "other").weights_hash != loaded.weights_hash


def test_load_pipeline_sets_device_precision_and_sampler(tiny_model):
    pipeline = load_pipeline(tiny_model, device="cpu", precision="bfloat16", scheduler="ddim")
    assert pipeline.compute_dtype == torch.bfloat16
    assert type(pipeline.scheduler) is type(pipeline.sr_scheduler) is diffusers.DDIMScheduler
    assert pipeline.device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "no device 'cuda:99' on this machine: it has"),
        ({"device": "nonsense"}, "no device 'nonsense'"),
        ({"precision": "int3"}, "unknown precision 'int3'"),
        ({"scheduler": "magic"}, "unknown scheduler 'magic'"),
    ],
)
def test_load_pipeline_refuses(tiny_model, options, message):
    with pytest.raises(UsageError, match=message):
        load_pipeline(tiny_model, **options)


def copy_of(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def test_truncated_weights_are_named(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    weights = model / "sr_unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SatcascadeError, match=r"weights file .*sr_unet.*safetensors is damaged"):
        CascadePipeline.from_pretrained(model)


def test_missing_weights_are_named(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SatcascadeError, match=r"model .* cannot be loaded: .*unet"):
        CascadePipeline.from_pretrained(model)
    shutil.rmtree(model / "sr_unet")
    with pytest.raises(SatcascadeError, match="holds no weights"):
        CascadePipeline.from_pretrained(model)


def test_weights_of_another_network_are_refused(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps(config | {"widths": [16, 48]}))
    with pytest.raises(SatcascadeError, match="cannot be loaded"):
        CascadePipeline.from_pretrained(model)


@pytest.mark.parametrize("change", ["missing", "too many"])
def test_weights_that_lack_or_add_a_parameter_are_refused(change, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_model, tmp_path)
    (path,) = (folder / "unet").glob("*.safetensors")
    weights = load_file(path)
    if change == "missing":
        weights.pop("stem.weight")
    else:
        weights["stem.extra"] = torch.zeros(2)
    save_file(weights, path)
    with pytest.raises(SatcascadeError, match=r"do not fit its config\.json \(stem\.(weight|extra) is"):
        CascadePipeline.from_pretrained(folder)


def test_a_damaged_index_is_named(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    (model / "model_index.json").write_text('{"_class_name": ')
    with pytest.raises(SatcascadeError, match=r"model_index.json is damaged"):
        CascadePipeline.from_pretrained(model)
    (model / "model_index.json").unlink()
    with pytest.raises(SatcascadeError, match="is no saved pipeline"):
        CascadePipeline.from_pretrained(model)


def test_missing_folder_and_unreachable_hub(tmp_path):
    with pytest.raises(UsageError, match="unknown model"):
        CascadePipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(SatcascadeError, match="no folder 'someone/cascade', and the hub did not give"):
        CascadePipeline.from_pretrained("someone/cascade", cache_dir=tmp_path, local_files_only=True)


def test_a_model_fetched_from_the_hub_before_needs_no_network(tiny_model, tmp_path, pipeline):
    repository = tmp_path / "models--someone--cascade"
    shutil.copytree(tiny_model, repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    loaded = CascadePipeline.from_pretrained("someone/cascade", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(images(loaded), images(pipeline))
    assert loaded.name == "someone/cascade"
    assert loaded.weights_hash == CascadePipeline.from_pretrained(tiny_model).weights_hash


def test_builtin_weights_come_from_the_package(tiny_model, monkeypatch, pipeline, tmp_path):
    monkeypatch.setattr(zoo, "BUILTIN", tmp_path)
    with pytest.raises(SatcascadeError, match="no built-in weights"):
        load_pipeline("builtin", device="cpu")
    monkeypatch.setattr(zoo, "BUILTIN", tiny_model)
    for name in ("builtin", "latent"):
        loaded = load_pipeline(name, device="cpu")
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(images(loaded), images(pipeline))
        assert loaded.name == "latent"


def test_a_full_disk_leaves_no_half_model(small_disk, pipeline):
    fill(small_disk, leaving=100_000)
    with pytest.raises(SatcascadeError, match="no space left"):
        pipeline.save_pretrained(small_disk / "model")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    (small_disk / "ballast").unlink()
    pipeline.save_pretrained(small_disk / "model")
    assert torch.equal(images(CascadePipeline.from_pretrained(small_disk / "model")), images(pipeline))
