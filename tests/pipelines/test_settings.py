"""Settings of the stages by their names: what a call takes, and what it stands for."""

from __future__ import annotations

import pytest
import torch

from satcascade.config.stage_settings import StageSettings, check_stages
from satcascade.diffusion.schedulers import solver_name, swap_scheduler
from satcascade.errors import UsageError
from tiny_cascade import tiny_pipeline

STAGES = {"base": StageSettings(3, 2.0), "sr": StageSettings(2, 1.5)}


def test_settings_by_stage_are_the_arguments_of_diffusers(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    by_stage = pipeline("a pond", seeds=[0], output_type="pt", settings=STAGES).images
    by_argument = pipeline(
        "a pond",
        seeds=[0],
        output_type="pt",
        num_inference_steps=3,
        guidance_scale=2.0,
        sr_num_inference_steps=2,
        sr_guidance_scale=1.5,
    ).images
    assert torch.equal(by_stage, by_argument)


def test_a_scheduler_by_stage_is_that_of_the_pipeline_for_one_call(tiny_text_encoder):
    pipeline, swapped = tiny_pipeline(tiny_text_encoder), tiny_pipeline(tiny_text_encoder)
    swapped.sr_scheduler = swap_scheduler(swapped.sr_scheduler, "ddim")
    settings = {"sr": StageSettings(scheduler="ddim")}
    found = pipeline("a pond", seeds=[0], output_type="pt", settings=settings).images
    assert torch.equal(found, swapped("a pond", seeds=[0], output_type="pt").images)
    assert solver_name(pipeline.sr_scheduler) == "dpm++"
    assert [solver_name(stage.scheduler) for stage in pipeline.prepare(settings)] == ["dpm++", "ddim"]


def test_what_settings_leave_out_is_the_models_own(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    _, steps, guidance = pipeline.sampler("base", StageSettings(guidance=5.0))
    assert (steps, guidance.scale) == (4, 5.0)
    assert [len(stage.steps) for stage in pipeline.prepare({})] == [4, 3]
    assert [stage.name for stage in pipeline.prepare({}, stop_at="base")] == ["base"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (StageSettings(steps=0), "base steps: 0 is not possible"),
        (StageSettings(guidance=float("inf")), "guidance: inf is not possible"),
        (StageSettings(scheduler="magic"), "unknown scheduler 'magic'"),
    ],
)
def test_settings_of_no_model_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        check_stages({"base": settings})


def test_numbers_and_settings_together_are_refused(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    with pytest.raises(UsageError, match="not both"):
        pipeline("a pond", settings=STAGES, num_inference_steps=2)
