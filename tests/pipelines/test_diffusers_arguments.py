"""Arguments that callers of diffusers know: what they mean here, in each family of models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.callbacks import PipelineCallback

from satcascade.errors import UsageError
from satcascade.pipelines.cascade import CascadePipeline
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


def images(pipeline: CascadePipeline, prompt=CAPTIONS, seeds=(1, 2), **options) -> torch.Tensor:
    return pipeline(prompt, seeds=seeds, output_type="pt", **options).images


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a quarter of a level of 255: batches may round otherwise."""
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


# Images of each caption


def test_images_of_a_caption_follow_each_other_each_with_its_seed(pipeline):
    found = images(pipeline, seeds=[1, 2, 3, 4], num_images_per_prompt=2)
    repeated = [caption for caption in CAPTIONS for _ in range(2)]
    assert torch.equal(found, images(pipeline, repeated, [1, 2, 3, 4]))
    embedded = pipeline(
        prompt_embeds=pipeline.encode(CAPTIONS), seeds=[1, 2, 3, 4], num_images_per_prompt=2, output_type="pt"
    )
    assert torch.equal(embedded.images, found)
    assert_alike(images(pipeline, "desert", [4]), found[3:])


def test_generators_are_one_an_image_too(pipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 4)]
    found = pipeline(CAPTIONS, generator=generators, num_images_per_prompt=2, output_type="pt").images
    assert torch.equal(found, images(pipeline, seeds=[1, 2, 3, 4], num_images_per_prompt=2))
    with pytest.raises(UsageError, match="2 seeds for 4 images"):
        images(pipeline, seeds=[1, 2], num_images_per_prompt=2)


# What guidance leads away from


def test_a_negative_prompt_takes_the_place_of_the_null_caption(pipeline):
    """Guidance away from the caption itself is none, whatever its scale."""
    plain = images(pipeline, guidance_scale=1.0)
    assert_alike(images(pipeline, guidance_scale=5.0, negative_prompt=CAPTIONS), plain)
    away = images(pipeline, guidance_scale=5.0, negative_prompt="houses")
    assert (away - images(pipeline, guidance_scale=5.0)).abs().max() > 1e-3
    assert_alike(images(pipeline, "desert", [2], guidance_scale=5.0, negative_prompt="houses"), away[1:])


def test_an_empty_negative_prompt_is_the_null_caption(pipeline):
    null = images(pipeline, guidance_scale=5.0)
    assert torch.equal(images(pipeline, guidance_scale=5.0, negative_prompt=""), null)
    mixed = images(pipeline, guidance_scale=5.0, negative_prompt=["", "a long row of houses and trees"])
    assert_alike(mixed[0], null[0])
    assert (mixed[1] - null[1]).abs().max() > 1e-3


def test_without_guidance_a_negative_prompt_says_nothing(pipeline):
    both = {"guidance_scale": 1.0, "sr_guidance_scale": 1.0}
    assert torch.equal(images(pipeline, **both, negative_prompt="houses"), images(pipeline, **both))


def test_negative_prompts_go_with_the_images_of_their_captions(pipeline):
    options = {"guidance_scale": 5.0, "negative_prompt": ["houses", ""], "num_images_per_prompt": 2}
    found = images(pipeline, seeds=[1, 2, 3, 4], **options)
    assert_alike(found[:2], images(pipeline, [CAPTIONS[0]] * 2, [1, 2], **options | {
        "negative_prompt": "houses", "num_images_per_prompt": 1
    }))  # fmt: skip
    assert_alike(found[2:], images(pipeline, [CAPTIONS[1]] * 2, [3, 4], guidance_scale=5.0))


# Sizes


def test_the_size_of_the_model_may_be_asked_for_and_no_other(pipeline):
    assert torch.equal(images(pipeline, height=32, width=32), images(pipeline))
    for size in ({"height": 64}, {"width": 16}, {"height": 32, "width": 512}):
        with pytest.raises(UsageError, match=r"this model makes 32 x 32 px, not .*: leave height and width"):
            images(pipeline, **size)


def test_the_size_is_that_of_the_stage_that_is_the_last(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    assert images(pipeline, stop_at="base", height=16).shape[-1] == 16
    with pytest.raises(UsageError, match="makes 16 x 16 px, not 16 x 32"):
        images(pipeline, stop_at="base", height=32)


# What the last stage diffused


def test_latent_output_decodes_to_the_images(pipeline):
    latents = pipeline(CAPTIONS, seeds=[1, 2], output_type="latent").images
    codec = pipeline.codec(pipeline.stage_names[-1])
    assert latents.shape == (2, codec.channels, 32 // codec.factor, 32 // codec.factor)
    assert torch.equal((codec.decode(latents) + 1) / 2, images(pipeline))
    if codec.bounded:
        assert -1 <= latents.min() < 0 < latents.max() <= 1


# Callbacks


def test_callbacks_are_shown_the_names_they_ask_for_and_may_change_either(pipeline):
    seen = []

    def black(name: str):
        def change(pipe, step, timestep, state):
            seen.append(set(state))
            state[name] = torch.full_like(state[name], -1.0)
            return state

        return change

    options = {"callback_on_step_end_tensor_inputs": ["latents"]}
    blacks = [
        images(pipeline, callback_on_step_end=black("latents"), **options),
        images(pipeline, callback_on_step_end=black("latents")),
        images(pipeline, callback_on_step_end=black("sample")),
    ]
    calls = len(seen) // 3
    assert seen == [{"stage", "latents"}] * calls + [{"stage", "latents", "sample"}] * 2 * calls
    assert torch.equal(blacks[0], blacks[1])
    assert torch.equal(blacks[0], blacks[2])
    assert (blacks[0] - images(pipeline)).abs().max() > 0.1


def test_callback_objects_of_diffusers_say_themselves_what_they_are_shown(pipeline):
    class Watch(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012 (diffusers' own are plain lists)

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            assert "sample" not in callback_kwargs
            seen.append(step_index)
            return callback_kwargs

    seen: list[int] = []
    assert torch.equal(images(pipeline, callback_on_step_end=Watch()), images(pipeline))
    assert seen[:3] == [0, 1, 2]


def test_a_name_that_callbacks_are_not_shown_is_refused(pipeline):
    with pytest.raises(UsageError, match="not shown 'prompt_embeds': choose from latents, sample"):
        images(
            pipeline,
            callback_on_step_end=lambda *_: None,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ["a beach", None]}, "caption 2 of 2 is None: give a text"),
        ({"prompt": [3, "a beach"]}, "caption 1 of 2 is of type int: give a text"),
        ({"prompt": [["a beach"]]}, "caption 1 of 1 is of type list"),
        ({"prompt": 3}, "the caption is of type int: give a text, or a list of texts"),
        ({"negative_prompt": ["houses", None]}, "negative prompt 2 of 2 is None"),
        ({"negative_prompt": 1.5}, "the negative prompt is of type float"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 captions"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0 is not possible"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(tiny_text_encoder, options, message):
    with pytest.raises(UsageError, match=message) as refused:
        tiny_pipeline(tiny_text_encoder)(**{"prompt": "a beach", **options})
    assert "\n" not in str(refused.value)
