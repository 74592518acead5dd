"""Editing images with every family of models: what stays, what changes, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch

from satcascade.config.stage_settings import StageSettings
from satcascade.diffusion.process import alpha_sigma
from satcascade.diffusion.schedulers import swap_scheduler
from satcascade.errors import UsageError
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.pipelines.edit import FullMaskWarning
from satcascade.sampling.mask import mask_at
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline
from tiny_rsdiff import rsdiff_pipeline

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

CAPTIONS = ["a pond in the forest", "desert"]
FAMILIES: dict[str, Callable[..., CascadePipeline]] = {
    "pixels": tiny_pipeline,
    "latents": tiny_latent_pipeline,
    "rsdiff": rsdiff_pipeline,
}


@pytest.fixture(params=FAMILIES)
def pipeline(request: pytest.FixtureRequest, tiny_text_encoder: str) -> CascadePipeline:
    return FAMILIES[request.param](tiny_text_encoder)


def pictures(count: int = 2, size: int = 32) -> torch.Tensor:
    """Images (count, 3, size, size) of whole levels, in [0, 1]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (count, 3, size, size), generator=generator) / 255


def box(top: int, left: int, height: int, width: int, size: int = 32) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., top : top + height, left : left + width] = True
    return mask


def as_pil(image: torch.Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray((image * 255).round().byte().movedim(0, -1).numpy())


def edited(pipeline: CascadePipeline, prompt=CAPTIONS, seeds=(1, 2), **options) -> torch.Tensor:
    return pipeline(prompt, seeds=seeds, output_type="pt", **{"image": pictures(), **options}).images


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a quarter of a level of 255: batches may round otherwise."""
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def through_the_codec(pipeline: CascadePipeline, images: torch.Tensor) -> torch.Tensor:
    codec = pipeline.codec(pipeline.stage_names[-1])
    return (codec.decode(codec.encode(images * 2 - 1)) + 1) / 2


# Image to image


def test_strength_0_returns_the_image_and_1_ignores_it(pipeline):
    torch.testing.assert_close(edited(pipeline, strength=0), through_the_codec(pipeline, pictures()))
    new = pipeline(CAPTIONS, seeds=[1, 2], output_type="pt").images
    assert torch.equal(edited(pipeline, strength=1), new)


def test_more_strength_leaves_less(pipeline):
    steps = {"num_inference_steps": 10, "sr_num_inference_steps": 10}
    before = through_the_codec(pipeline, pictures())
    changes = [
        float((edited(pipeline, strength=strength, **steps) - before).square().mean())
        for strength in (0, 0.2, 0.6, 1)
    ]
    assert changes[0] < 1e-9 < changes[1] < min(changes[2:])
    assert torch.equal(edited(pipeline, **steps), edited(pipeline, strength=0.8, **steps))


# A part of an image


def test_outside_of_the_mask_are_the_images_own_bytes_and_inside_a_new_part(pipeline):
    image, mask = as_pil(pictures()[0]), box(6, 9, 13, 17)
    (made,) = pipeline(
        CAPTIONS[0], image=image, mask_image=as_pil(mask[0].float().repeat(3, 1, 1)), seeds=[1]
    ).images
    before, after, inside = np.asarray(image), np.asarray(made), mask[0, 0].numpy()
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).mean() > 0.9


def test_every_picture_keeps_the_rest_of_its_own_image(pipeline):
    masks = torch.cat([box(0, 0, 16, 32), box(10, 3, 9, 5)])
    made = edited(pipeline, mask_image=masks, num_images_per_prompt=2, seeds=[1, 2, 3, 4])
    rest = ~masks.repeat_interleave(2, dim=0).expand_as(made)
    expected = pictures().repeat_interleave(2, dim=0)
    assert torch.equal((made * 255).round()[rest], (expected * 255).round()[rest])
    assert (made[0] - made[1])[masks[0].expand(3, -1, -1)].abs().max() > 0.05


def test_the_known_part_follows_its_own_path_at_every_noise_level(tiny_text_encoder):
    """After each step of DDIM it is alpha x_0 + sigma eps, with one and the same eps."""
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    pipeline.scheduler = swap_scheduler(pipeline.scheduler, "ddim")
    (stage,) = pipeline.prepare({"base": StageSettings(8)})
    seen: list[torch.Tensor] = []

    def watch(pipe, step, timestep, state):
        seen.append(state["latents"])

    mask = box(8, 8, 12, 12)
    edited(pipeline, mask_image=mask, strength=0.75, num_inference_steps=8, callback_on_step_end=watch)
    known = stage.codec.encode(pictures() * 2 - 1)
    stays = ~mask_at(mask, 8).expand_as(known)
    noises = []
    for step, x in zip(stage.steps[3:], seen[:-1], strict=True):
        alpha, sigma = alpha_sigma(torch.tensor([step.log_snr]))
        noises.append(((x - alpha * known) / sigma)[stays])
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=0)
    assert float(noises[0].std()) == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(seen[-1][stays], known[stays], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheduler", ["dpm++", "ddpm", "euler", "heun"])
def test_the_known_part_is_there_at_the_end_and_the_rest_is_new(pipeline, scheduler):
    for name in pipeline.stage_names:
        place = "scheduler" if name == "base" else "sr_scheduler"
        setattr(pipeline, place, swap_scheduler(getattr(pipeline, place), scheduler))
    mask, codec = box(8, 8, 12, 12), pipeline.codec(pipeline.stage_names[-1])
    known = codec.encode(pictures() * 2 - 1)
    remade = mask_at(mask, known.shape[-1]).expand_as(known)
    for resampling in (1, 2):
        made = pipeline(
            CAPTIONS,
            image=pictures(),
            mask_image=mask,
            seeds=[1, 2],
            output_type="latent",
            resampling=resampling,
        ).images
        torch.testing.assert_close(made[~remade], known[~remade], atol=1e-5, rtol=0)
        assert (made[remade] - known[remade]).abs().mean() > 0.1


def test_what_is_made_depends_on_what_is_around_it(pipeline):
    mask = box(8, 8, 16, 16)
    made = edited(pipeline, mask_image=mask, feather=0)
    other = edited(pipeline, mask_image=mask, feather=0, image=1 - pictures())
    inside = mask.expand_as(made)
    assert (made - other)[inside].abs().max() > 1e-3


def test_jumps_change_what_is_made_and_every_call_of_the_network_is_counted(pipeline, capfd):
    mask = box(8, 8, 16, 16)
    plain, jumping = (edited(pipeline, mask_image=mask, resampling=count) for count in (1, 3))
    assert (plain - jumping)[mask.expand_as(plain)].abs().max() > 0.01
    seen = []
    pipeline.set_progress_bar_config()
    capfd.readouterr()
    edited(
        pipeline,
        mask_image=mask,
        resampling=3,
        callback_on_step_end=lambda pipe, step, timestep, state: seen.append((state["stage"], step)),
    )
    base = [("base", step) for step in range(4)] * 3
    assert seen == base + ([("sr", step) for step in range(3)] * 3 if pipeline.sr_unet else [])
    assert f"{len(seen)}/{len(seen)}" in capfd.readouterr().err


def test_a_soft_edge_is_between_what_is_made_and_what_was_there(pipeline):
    mask = box(8, 8, 16, 16)
    hard, soft = (edited(pipeline, mask_image=mask, feather=width, stop_at=None) for width in (0, 4))
    rim = (mask & ~box(9, 9, 14, 14)).expand_as(hard)
    middle = box(14, 14, 4, 4).expand_as(hard)
    if pipeline.sr_unet is None:
        assert_alike(soft[middle], hard[middle])
        assert_alike(soft[rim], 0.8 * pictures()[rim] + 0.2 * hard[rim])
    assert (soft - pictures())[rim].abs().mean() < 0.5 * (hard - pictures())[rim].abs().mean()


def test_colours_meet_at_the_edge_of_what_is_made(pipeline):
    """Of latents, which lose the image's own pixels; pixels are what they are."""
    masks = torch.cat([box(8, 8, 16, 16), box(0, 16, 32, 16)])
    plain, met = (edited(pipeline, mask_image=masks, feather=0, seamless=on) for on in (False, True))
    stays = ~masks.expand_as(met)
    assert torch.equal((met * 255).round()[stays], (pictures() * 255).round()[stays])
    # The left edges of both boxes.
    steps = [
        torch.stack([(made[0, :, 8:24, 8] - made[0, :, 8:24, 7]).abs().mean(),
                     (made[1, :, :, 16] - made[1, :, :, 15]).abs().mean()])
        for made in (plain, met)
    ]  # fmt: skip
    if pipeline.config.vae_fingerprint is None:
        assert_alike(met, plain)
    else:
        assert (steps[1] < 0.9 * steps[0]).all()
    far = box(14, 14, 4, 4).expand(1, 3, 32, 32)
    assert (met - plain)[:1][far].abs().max() < 0.1


# What an edit depends on


@pytest.mark.parametrize("options", [{"strength": 0.6}, {"mask_image": box(8, 8, 16, 16), "resampling": 2}])
def test_an_edit_does_not_depend_on_its_batch(pipeline, options):
    together = edited(pipeline, **options)
    alone = [edited(pipeline, CAPTIONS[row], [row + 1], image=pictures()[row], **options) for row in (0, 1)]
    assert_alike(torch.cat(alone), together)
    assert (together - edited(pipeline, seeds=[3, 4], **options)).abs().max() > 0.05


def test_images_and_masks_are_taken_in_every_form(pipeline):
    mask = box(8, 8, 12, 12)
    white = as_pil(mask[0].float().repeat(3, 1, 1))
    expected = edited(pipeline, mask_image=mask)
    arrays = (pictures() * 255).round().byte().movedim(1, -1).numpy()
    forms = [
        ([as_pil(image) for image in pictures()], white),
        (arrays, mask[0, 0].numpy()),
        (arrays.astype(np.float32) / 255, mask.float().numpy()),
        ([PIL.Image.fromarray(array) for array in arrays], [white.convert("1")] * 2),
        (list(pictures()), mask[0, 0].float() * 0.6),
    ]  # fmt: skip
    for image, given in forms:
        assert_alike(edited(pipeline, image=image, mask_image=given), expected)


def test_the_base_stage_alone_edits_at_its_own_size(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    image, mask = pictures(size=16), box(4, 4, 8, 8, 16)
    made = edited(pipeline, image=image, mask_image=mask, stop_at="base")
    assert made.shape == (2, 3, 16, 16)
    assert torch.equal(
        (made * 255).round()[~mask.expand_as(made)], (image * 255).round()[~mask.expand_as(made)]
    )
    with pytest.raises(UsageError, match="the image is 32 x 32 px, this model edits 16 x 16"):
        edited(pipeline, stop_at="base")


def test_lower_precision_edits_too(pipeline):
    expected = edited(pipeline, strength=0.4, guidance_scale=1.0)
    pipeline.precision = "bfloat16"
    assert 0 < (edited(pipeline, strength=0.4, guidance_scale=1.0) - expected).abs().max() < 0.25


# Refusals


def with_alpha(image: torch.Tensor, alpha: int) -> PIL.Image.Image:
    picture = as_pil(image)
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5}, "strength 1.5 is out of range: give 0"),
        ({"strength": float("nan")}, "strength nan is out of range"),
        ({"mask_image": box(0, 0, 4, 4, 16)}, "the mask is 16 x 16 px, this model edits 32 x 32"),
        ({"image": pictures(size=48)}, r"the image is 48 x 48 px, this model edits 32 x 32: crop or resize"),
        ({"image": pictures(1)[:, :, :20]}, "the image is 32 x 20 px"),
        ({"mask_image": box(0, 0, 0, 0)}, "the mask is black everywhere"),
        ({"image": with_alpha(pictures()[0], 100)}, "the image has transparent pixels"),
        ({"image": PIL.Image.new("L", (32, 32))}, "the image has one band"),
        ({"image": PIL.Image.new("I;16", (32, 32))}, "the image has more than 8 bits a channel"),
        ({"image": pictures() * 2 - 1}, r"values out of \[0, 1\]"),
        ({"image": torch.full((1, 3, 32, 32), float("nan"))}, r"values out of \[0, 1\]"),
        ({"image": pictures()[:, 0]}, "the image has shape"),
        ({"image": "tile.png"}, "the image is of type str"),
        ({"image": []}, "no images to edit"),
        ({"mask_image": "mask.png"}, "the mask is of type str"),
        ({"mask_image": pictures()}, "the mask has shape"),
        ({"image": pictures(3)}, "3 images for 2 captions"),
        ({"mask_image": torch.ones(3, 1, 32, 32)}, "3 masks for 2 captions"),
        ({"resampling": 2}, "resampling is for a part of an image"),
        ({"feather": 2}, "feather is for a part of an image"),
        ({"resampling": 0, "mask_image": box(0, 0, 9, 9)}, "resampling 0 is not possible"),
        ({"feather": -1, "mask_image": box(0, 0, 9, 9)}, "feather -1 is not possible"),
        ({"image": None, "strength": 0.5}, "strength says how an image is edited: give one with image"),
        ({"image": None, "mask_image": box(0, 0, 9, 9)}, "mask_image says how an image is edited"),
        ({"image": None, "resampling": 2}, "resampling says how an image is edited"),
        ({"base_images": pictures(size=16)}, "base_images to enlarge, or an image to edit, not both"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::satcascade.pipelines.edit.FullMaskWarning")
def test_impossible_edits_are_refused_in_one_line(tiny_text_encoder, options, message):
    with pytest.raises(UsageError, match=message) as refused:
        edited(tiny_pipeline(tiny_text_encoder), **options)
    assert "\n" not in str(refused.value)


def test_a_full_mask_is_warned_of_and_an_opaque_alpha_channel_is_none(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    with pytest.warns(FullMaskWarning, match="white everywhere: nothing of the image stays"):
        made = edited(pipeline, mask_image=torch.ones(32, 32), feather=0)
    assert_alike(made, pipeline(CAPTIONS, seeds=[1, 2], output_type="pt").images)
    opaque = [with_alpha(image, 255) for image in pictures()]
    assert_alike(edited(pipeline, image=opaque, strength=0.5), edited(pipeline, strength=0.5))
