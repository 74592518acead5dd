"""Scenes: of any number of windows at once, wrapped, in regions, grown, interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from rounding import assert_equal_but_for_rounding, nudged_weights
from satcascade.config.stage_settings import StageSettings
from satcascade.diffusion.solvers import SOLVERS
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.codec import PIXELS, LatentCodec
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.condition import Condition
from satcascade.sampling.loop import denoise
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import Scene, SceneSettings
from satcascade.sampling.strips import decoded_strips, encoded, picture_of
from satcascade.sampling.windows import Blocks
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline, tiny_unet, tiny_vae

CAPTION = "a pond in the forest"
STEPS = {"base": StageSettings(3), "sr": StageSettings(2)}


@pytest.fixture(params=["pixels", "latents", "latents twice"])
def pipeline(request, tiny_text_encoder) -> CascadePipeline:
    """Cascades of 32 px pictures, and of 64 px where both stages diffuse latents."""
    if request.param == "pixels":
        return tiny_pipeline(tiny_text_encoder)
    if request.param == "latents":
        return tiny_latent_pipeline(tiny_text_encoder)
    sr = tiny_unet(1, sample_size=16, low_res=True, self_attention=False, in_channels=6, patch_size=2)
    return tiny_latent_pipeline(tiny_text_encoder, sr_unet=sr)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def scene(pipeline, prompt=CAPTION, size=(72, 104), seed=5, settings=STEPS, **options) -> np.ndarray:
    chosen = {name: settings[name] for name in pipeline.stage_names}
    return levels(pipeline.scene(prompt, size, seed=seed, settings=chosen, **options))


def test_a_scene_has_its_size_and_follows_its_seed(pipeline):
    made = scene(pipeline, size=(70, 101))
    assert made.shape == (70, 101, 3)
    assert made.std() > 5
    assert np.array_equal(made, scene(pipeline, size=(70, 101)))
    assert np.abs(made - scene(pipeline, size=(70, 101), seed=6)).mean() > 1


def test_a_scene_does_not_depend_on_windows_at_once(pipeline):
    for options in ({}, {"wrap": True, "size": (64, 128)}, {"overlap": 0.25}):
        alone, together = (scene(pipeline, batch_size=size, **options) for size in (1, 7))
        assert np.abs(alone - together).max() <= 1


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"rsdiff"}))
def test_every_solver_makes_scenes(tiny_text_encoder, solver):
    pipeline = tiny_pipeline(tiny_text_encoder)
    settings = {"base": StageSettings(3, scheduler=solver), "sr": StageSettings(2, scheduler=solver)}
    alone, together = (scene(pipeline, size=(48, 64), settings=settings, batch_size=size) for size in (1, 5))
    assert np.abs(alone - together).max() <= 1
    assert alone.std() > 5


def test_a_solver_that_bounds_whole_pictures_is_refused(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    settings = {"base": StageSettings(3, scheduler="rsdiff"), "sr": StageSettings(2)}
    with pytest.raises(UsageError, match=r"RSDiffScheduler bounds each picture .* such as dpm\+\+"):
        scene(pipeline, settings=settings)


def test_a_scene_of_one_window_is_an_image_of_that_noise(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder, sr_unet=None, sr_scheduler=None)
    made = scene(pipeline, size=(16, 16))
    (stage,) = pipeline.prepare({"base": StageSettings(3)})
    blocks = Blocks(16, 16, 8, 5)
    noise = blocks.join(blocks.noise(3, "base/first", torch.device("cpu")))[None]
    with torch.inference_mode():
        condition = Condition.of(stage, pipeline.encode(CAPTION), None)
        image = denoise(stage, condition, noise, [torch.Generator()], lambda _, x: x)
    expected = ((image[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).int().numpy()
    assert np.abs(made - expected).max() <= 1


def test_what_lies_beyond_the_windows_reach_does_not_count(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder, sr_unet=None, sr_scheduler=None)
    settings = {"base": StageSettings(1)}
    # One step: a window's prediction reaches no further than the window, here of 16.
    small, large = (scene(pipeline, size=(16, width), settings=settings) for width in (32, 48))
    assert np.array_equal(small[:, :16], large[:, :16])
    assert not np.array_equal(small[:, 24:], large[:, 24:32])


def test_a_tile_may_be_rolled(tiny_text_encoder, monkeypatch):
    """A tile that wraps has no edges: from noise that is rolled comes the picture, rolled."""
    pipeline = tiny_pipeline(tiny_text_encoder)
    made = scene(pipeline, size=(64, 64), wrap=True)
    noise = Blocks.noise

    def rolled(self, channels, name, device):
        shift = self.side // 2 * 2
        return self.split(torch.roll(self.join(noise(self, channels, name, device)), shift, dims=2))

    monkeypatch.setattr(Blocks, "noise", rolled)
    # Windows stand half a window apart, and the noise goes half a window to the right.
    assert np.abs(np.roll(made, 16, axis=1) - scene(pipeline, size=(64, 64), wrap=True)).max() <= 1


def test_without_wrap_it_may_not(tiny_text_encoder, monkeypatch):
    pipeline = tiny_pipeline(tiny_text_encoder)
    made = scene(pipeline, size=(64, 64))
    noise = Blocks.noise
    monkeypatch.setattr(
        Blocks,
        "noise",
        lambda self, channels, name, device: self.split(
            torch.roll(self.join(noise(self, channels, name, device)), self.side, dims=2)
        ),
    )
    assert np.abs(np.roll(made, 16, axis=1) - scene(pipeline, size=(64, 64))).max() > 8


@pytest.mark.parametrize("size", [(64, 65), (31, 64), (16, 64)])
def test_a_size_that_does_not_wrap_is_refused(tiny_text_encoder, size):
    with pytest.raises(UsageError, match=r"cannot wrap: both sides must be multiples of 2 and at least 32"):
        scene(tiny_pipeline(tiny_text_encoder), size=size, wrap=True)


@pytest.mark.parametrize("size", [(1, 1), (20, 40)])
def test_a_scene_smaller_than_a_window_is_cut_out_of_one(tiny_text_encoder, size):
    pipeline = tiny_pipeline(tiny_text_encoder)
    whole = scene(pipeline, size=(32, max(size[1], 32)))
    assert np.array_equal(scene(pipeline, size=size), whole[: size[0], : size[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 64)}, "0 px is not possible|x0 px is not possible"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"overlap": 1.0}, "overlap 1.0 is not possible"),
        ({"batch_size": 0}, "batch size: 0 is not possible"),
        ({"prompt": " "}, "empty"),
        ({"size": None}, "needs a size"),
    ],
)
def test_impossible_scenes_are_refused(tiny_text_encoder, options, message):
    with pytest.raises(UsageError, match=message):
        scene(tiny_pipeline(tiny_text_encoder), **options)


def test_weights_that_are_damaged_are_named(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    pipeline.unet.stem.weight.data.fill_(torch.nan)
    with pytest.raises(SatcascadeError, match="the base stage produced numbers that are not finite"):
        scene(pipeline)


# Regions


def test_each_region_follows_its_caption(pipeline):
    left, right = "desert", "houses and trees of the town"
    size = (64, 256)
    both = scene(pipeline, Regions.of_boxes(right, [((0, 0, 128, 64), left)], *size), size)
    alone = {caption: scene(pipeline, caption, size) for caption in (left, right)}
    # At the far ends only windows of one caption have a say.
    for caption, columns in ((left, slice(0, 24)), (right, slice(232, 256))):
        other = right if caption == left else left
        near, far = (np.abs(both - alone[each])[:, columns].mean() for each in (caption, other))
        assert near < 0.5 * far


def test_one_caption_in_many_regions_is_that_caption(pipeline):
    regions = Regions.of_boxes(CAPTION, [((8, 8, 16, 16), CAPTION)], 72, 104)
    assert np.array_equal(scene(pipeline, regions, size=None), scene(pipeline))


def test_captions_that_occur_nowhere_change_nothing(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    regions = Regions((CAPTION, "desert"), np.zeros((72, 104), np.int64))
    assert np.abs(scene(pipeline, regions) - scene(pipeline)).max() <= 1


# Growing


def grown(pipeline, image, **options) -> np.ndarray:
    chosen = {name: STEPS[name] for name in pipeline.stage_names}
    return levels(pipeline.extend(image, CAPTION, settings=chosen, **options))


def test_a_picture_grows_and_keeps_its_pixels(pipeline):
    given = np.random.default_rng(0).integers(0, 256, (48, 45, 3), np.uint8)
    made = grown(pipeline, Image.fromarray(given), left=21, top=3, right=30, bottom=40)
    assert made.shape == (48 + 43, 45 + 51, 3)
    assert np.array_equal(made[3:51, 21:66], given)
    assert made[:, :18].std() > 5


def test_what_grows_depends_on_what_is_there(pipeline):
    dark, bright = (
        grown(pipeline, Image.new("RGB", (64, 64), colour), right=32) for colour in ("black", "white")
    )
    assert np.abs(dark - bright)[:, 64:72].mean() > 1


def test_the_known_part_is_at_the_noise_level_of_each_step(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder, sr_unet=None, sr_scheduler=None)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    states = []
    pipeline.extend(
        Image.fromarray(pixels), CAPTION, right=16, settings={"base": StageSettings(4)}, seed=3,
        on_state=lambda state: states.append(state()),
    )  # fmt: skip
    (stage,) = pipeline.prepare({"base": StageSettings(4)})
    blocks = Blocks(16, 32, 8, 3)
    noise = blocks.join(blocks.noise(3, "base/first", torch.device("cpu")))[:, :, :16]
    x0 = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    for state, step in zip(states, stage.steps[1:], strict=False):
        level = torch.tensor(step.log_snr)
        expected = torch.sigmoid(level).sqrt() * x0 + torch.sigmoid(-level).sqrt() * noise
        torch.testing.assert_close(blocks.join(state.x)[:, :, :16], expected, atol=0.02, rtol=0)


def test_the_picture_is_met_on_the_new_side_alone(pipeline):
    given = np.random.default_rng(0).integers(90, 166, (64, 61, 3), np.uint8)
    plain, met = (
        grown(pipeline, Image.fromarray(given), right=70, bottom=5, seamless=seamless)
        for seamless in (False, True)
    )
    for made in (plain, met):
        assert np.array_equal(made[:64, :61], given)
    # Pixels of a model of pixels are what they were before it: nothing is to be met.
    latents = pipeline.config.vae_fingerprint is not None
    changed = np.abs(plain - met)
    assert (changed[:64, 61:63].mean() > 1) == latents
    if len(pipeline.stage_names) == 1:
        # The reach is 2 pixels here: far from the join nothing changes.
        assert changed[:, 80:].max() <= 1
    if latents:
        plain_step, met_step = (np.abs(made[:64, 61] - made[:64, 60]).mean() for made in (plain, met))
        assert met_step < 0.8 * plain_step


def test_all_sides_of_a_small_picture_are_met(tiny_text_encoder):
    pipeline = tiny_latent_pipeline(tiny_text_encoder)
    given = np.full((9, 1, 3), 128, np.uint8)
    made = grown(pipeline, Image.fromarray(given), left=20, right=11, top=3, bottom=2)
    assert np.array_equal(made[3:12, 20:21], given)


def test_jumps_change_what_grows_and_each_call_is_counted(pipeline):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    states = []
    plain = grown(pipeline, image, right=32)
    jumping = grown(pipeline, image, right=32, resampling=2, on_state=lambda state: states.append(state()))
    assert np.abs(plain - jumping)[:, 64:].mean() > 1
    assert np.array_equal(jumping[:, :64], np.asarray(image))
    steps = {name: STEPS[name].steps for name in pipeline.stage_names}
    expected = [(name, call) for name, count in steps.items() for call in range(1, 2 * count + 1)]
    assert [(state.stage, state.done) for state in states] == expected


@pytest.mark.parametrize("options", [{"resampling": 0}, {"resampling": -2}])
def test_impossible_jumps_are_refused(tiny_text_encoder, options):
    with pytest.raises(UsageError, match=r"resampling .* is not possible: give 1 or more"):
        grown(tiny_pipeline(tiny_text_encoder), Image.new("RGB", (32, 32)), left=8, **options)


@pytest.mark.parametrize("sides", [{}, {"left": -1}, {"left": 8, "top": -8}])
def test_nothing_to_extend_is_refused(tiny_text_encoder, sides):
    with pytest.raises(UsageError, match="nothing to extend"):
        grown(tiny_pipeline(tiny_text_encoder), Image.new("RGB", (32, 32)), **sides)


# Interrupted


@pytest.mark.slow
@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"rsdiff"}))
def test_a_scene_goes_on_from_any_step(tiny_text_encoder, solver):
    settings = {"base": StageSettings(4, scheduler=solver), "sr": StageSettings(2, scheduler=solver)}
    pipeline = tiny_pipeline(tiny_text_encoder)
    states = []
    made = scene(pipeline, size=(48, 64), settings=settings, on_state=lambda state: states.append(state()))
    assert {state.stage for state in states} == {"base", "sr"}
    for state in states:
        # What is no tensor can be written as JSON.
        assert json.loads(json.dumps(state.solver)) == state.solver
        assert np.array_equal(made, scene(pipeline, size=(48, 64), settings=settings, state=state))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dpm++", "ddpm", "heun"])
def test_a_picture_that_grows_with_jumps_goes_on_from_any_step(tiny_text_encoder, solver):
    """Five steps are two stretches, each taken twice: states lie before, at and after jumps back."""
    settings = {"base": StageSettings(5, scheduler=solver), "sr": StageSettings(2, scheduler=solver)}
    pipeline = tiny_pipeline(tiny_text_encoder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    states = []

    def extended(**options) -> np.ndarray:
        return levels(pipeline.extend(image, CAPTION, right=16, settings=settings, resampling=2, **options))

    made = extended(on_state=lambda state: states.append(state()))
    calls = {"base": 9, "sr": 3} if solver == "heun" else {"base": 5, "sr": 2}
    assert [state.done for state in states] == [
        *range(1, 2 * calls["base"] + 1),
        *range(1, 2 * calls["sr"] + 1),
    ]
    # Within a stretch, at its end, and within the same one taken again.
    for state in [*states[2:5], states[calls["base"]], *states[-5:]]:
        assert np.array_equal(made, extended(state=state))


def test_calls_are_counted_from_a_state_on(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    plan = Scene(pipeline.prepare(STEPS), (48, 64), SceneSettings())
    # Canvases of 24 x 32 and 48 x 64 positions: two by three windows each.
    assert plan.calls(None) == 6 * (3 + 2)
    states = []
    scene(pipeline, size=(48, 64), on_state=lambda state: states.append(state()))
    assert [plan.calls(None, state) for state in states] == [24, 18, 12, 6, 0]


# What is told on the way


def test_windows_are_counted_and_each_step_can_be_seen(pipeline):
    # Cut off at the right and at the bottom.
    size, counts, pictures = (70, 101), [], []
    made = scene(
        pipeline,
        size=size,
        on_windows=lambda done, total: counts.append((done, total)),
        on_picture=lambda decode: pictures.append(levels(decode())),
    )
    stages = pipeline.prepare({name: STEPS[name] for name in pipeline.stage_names})
    total = Scene(stages, size, SceneSettings()).calls(None)
    assert {each for _, each in counts} == {total}
    assert counts[-1] == (total, total)
    assert all(0 < later - earlier <= 4 for (earlier, _), (later, _) in pairwise(counts))
    assert len(pictures) == sum(len(stage.steps) for stage in stages)
    reduction = stages[-1].image_size // stages[0].image_size
    assert pictures[0].shape == (-(-70 // reduction), -(-101 // reduction), 3)
    assert pictures[0].std() > 5
    assert np.array_equal(pictures[-1], made)


# Codecs


def assert_codes_alike(codec: LatentCodec, found: torch.Tensor, run: Callable[[], torch.Tensor]) -> None:
    """``found`` is what ``run`` makes of the codec, but for rounding."""

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, codec.vae):
            return run()

    assert_equal_but_for_rounding(found, run(), again)


@pytest.mark.parametrize("shape", [(5, 9), (96, 96), (97, 190), (150, 110)])
def test_decoding_in_windows_is_decoding_the_whole(shape):
    codec = LatentCodec(tiny_vae(0))
    canvas = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert_codes_alike(codec, picture_of(codec, canvas), lambda: codec.decode(canvas[None])[0])
        strips = list(decoded_strips(codec, canvas))
    assert [top for top, _ in strips] == [0, *np.cumsum([strip.shape[1] for _, strip in strips])[:-1]]


def test_decoding_goes_round_the_edges():
    codec = LatentCodec(tiny_vae(0))
    canvas = torch.randn(6, 100, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made = picture_of(codec, canvas, wrap=True)
        plain = picture_of(codec, canvas)
        assert made.shape == (3, 400, 160)
        tiled = canvas.repeat(1, 3, 3)[None]
        assert_codes_alike(codec, made, lambda: codec.decode(tiled)[0, :, 400:800, 160:320])
    assert not torch.allclose(made, plain, atol=1e-3)


def test_encoding_in_windows_is_encoding_the_whole():
    codec = LatentCodec(tiny_vae(0))
    picture = torch.rand(3, 440, 400, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert_codes_alike(codec, encoded(codec, picture), lambda: codec.encode(picture[None])[0])
        assert torch.equal(encoded(PIXELS, picture[:, :50, :50]), picture[:, :50, :50])
