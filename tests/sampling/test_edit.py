"""The mathematics of edits: which steps are taken, noise levels, and what is known."""

from __future__ import annotations

import pytest
import torch

from satcascade.diffusion.guidance import Guidance
from satcascade.diffusion.process import add_noise, alpha_sigma
from satcascade.diffusion.schedulers import make_scheduler
from satcascade.diffusion.solvers import SOLVERS
from satcascade.models.codec import PIXELS
from satcascade.sampling.edit import count_calls, noised_back, part_of, start, stretches
from satcascade.sampling.stage import Sampler, SamplingStage, prepare_stage
from tiny_cascade import tiny_unet


def stage_of(name: str, steps: int) -> SamplingStage:
    return prepare_stage(
        "base",
        tiny_unet(0),
        PIXELS,
        Sampler(make_scheduler(name), steps, Guidance()),
        clip_x0=True,
        low_res_log_snr=3.0,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("steps", "strength", "taken"),
    [
        (20, 1.0, 20),
        (20, 0.0, 0),
        (20, 0.5, 10),
        (20, 0.29, 5),
        (100, 0.29, 29),
        (10, 0.01, 1),
        (7, 0.999, 6),
    ],
)
def test_strength_is_the_share_of_the_steps(steps, strength, taken):
    found = stretches(stage_of("ddim", steps), strength)
    assert found == ([range(steps - taken, steps)] if taken else [])


def test_solvers_of_two_calls_a_step_begin_with_a_whole_step():
    stage = stage_of("heun", 10)
    assert len(stage.steps) == 19
    assert stretches(stage, 0.5) == [range(10, 19)]
    assert stretches(stage, 1.0, 2) == [range(0, 8)] * 2 + [range(8, 16)] * 2 + [range(16, 19)] * 2


def test_jumps_take_every_stretch_again():
    stage = stage_of("dpm++", 10)
    found = stretches(stage, 0.9, 3)
    assert found == [range(1, 5)] * 3 + [range(5, 9)] * 3 + [range(9, 10)] * 3
    assert count_calls(stage, 0.9, 3) == 27
    assert count_calls(stage) == 10
    # RePaint's own: 10 of 250 steps.
    assert stretches(stage_of("ddpm", 250), 1.0, 2)[:3] == [range(0, 10)] * 2 + [range(10, 20)]


@pytest.mark.parametrize("name", SOLVERS)
def test_what_begins_on_the_way_has_the_noise_level_of_its_step(name):
    stage = stage_of(name, 10)
    known, noise = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    call = 6
    scheduler = part_of(stage, range(call, call + 1)).scheduler
    x_t = scheduler.scale_model_input(start(stage, known, noise, call), stage.steps[call].timestep)
    level = torch.full((2,), stage.steps[call].log_snr)
    torch.testing.assert_close(x_t, add_noise(known, noise, level), atol=1e-5, rtol=0)
    assert torch.equal(start(stage, known, noise, 0), noise * stage.scheduler.init_noise_sigma)


@pytest.mark.parametrize("name", ["dpm++", "euler", "heun", "rsdiff"])
@pytest.mark.parametrize("call", [6, None])
def test_a_jump_back_has_mean_and_deviation_of_the_forward_process(name, call):
    """Noised to s and then back to t is distributed as noised to t (Lugmayr et al. 2022, eq. 1)."""
    stage = stage_of(name, 10)
    call = len(stage.steps) if call is None else call
    generator = torch.Generator().manual_seed(0)
    noise, more = torch.randn(2, 1, 3, 256, 256, generator=generator)
    known = torch.full_like(noise, 0.5)
    x = known if call == len(stage.steps) else start(stage, known, noise, call)
    back = noised_back(stage, x, more, call, 2)
    scheduler = part_of(stage, range(2, 3)).scheduler
    x_t = scheduler.scale_model_input(back, stage.steps[2].timestep)
    alpha, sigma = (float(each) for each in alpha_sigma(torch.tensor([stage.steps[2].log_snr])))
    # 196,608 pixels: five deviations of their mean, and of their variance's.
    spread = 5 / 196608**0.5
    assert float(x_t.mean()) == pytest.approx(0.5 * alpha, abs=spread * sigma)
    assert float(x_t.std()) == pytest.approx(sigma, rel=spread)


def test_a_part_of_a_stage_leaves_its_scheduler_alone():
    stage = stage_of("unipc", 6)
    before = dict(vars(stage.scheduler))
    part = part_of(stage, range(2, 4))
    assert part.steps == stage.steps[2:4]
    x = torch.zeros(1, 3, 16, 16)
    for step in part.steps:
        x = part.scheduler.step(x, step.timestep, x, return_dict=False)[0]
    assert stage.scheduler.step_index is None
    assert all(value is before[name] for name, value in vars(stage.scheduler).items())
