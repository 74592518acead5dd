"""The measure of seams: it finds those that are there, and none where there are none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from satcascade.config.stage_settings import StageSettings
from satcascade.sampling.scene import Scene, SceneSettings
from tiny_cascade import tiny_pipeline

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scenes.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not beside the tests")


@pytest.fixture(scope="module")
def scenes():
    spec = importlib.util.spec_from_file_location("benchmark_scenes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_noise_has_no_seams_and_a_step_is_one(scenes):
    noise = np.random.default_rng(0).integers(100, 120, (256, 256, 3)).astype(np.uint8)
    places = [{64, 128, 192}, {64, 128, 192}]
    assert abs(scenes.ratio(noise, places) - 1) < 0.05
    stepped = noise.copy()
    stepped[:, 64:128] += 10
    assert scenes.ratio(stepped, places) > 1.2
    assert abs(scenes.ratio(stepped, [{32}, {32}]) - 1) < 0.1


def test_a_grid_is_not_taken_for_a_seam(scenes):
    rng = np.random.default_rng(1)
    # Every patch of 8 pixels has a brightness of its own.
    patches = rng.integers(100, 120, (32, 32, 3)).repeat(8, axis=0).repeat(8, axis=1)
    picture = (patches + rng.integers(0, 4, patches.shape)).astype(np.uint8)
    places = [{64, 128, 192}, {64, 128, 192}]
    assert scenes.ratio(picture, places) > 2
    assert abs(scenes.ratio(picture, places, 8) - 1) < 0.1
    picture[:, 64:128] += 12
    assert scenes.ratio(picture, places, 8) > 1.2


def test_borders_of_both_stages_are_found(scenes, tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    stages = pipeline.prepare({"base": StageSettings(1), "sr": StageSettings(1)})
    # Windows of 32 px of the picture, half a window apart, in both stages.
    plan = Scene(stages, (64, 96), SceneSettings())
    assert scenes.borders(plan, 0) == {16, 32, 48}
    assert scenes.borders(plan, 1) == {16, 32, 48, 64, 80}
    wrapped = Scene(stages, (64, 64), SceneSettings(wrap=True, overlap=0.0))
    assert scenes.borders(wrapped, 0) == {32}
    # Patches of 4 pixels of a base image of half the side.
    assert scenes.grid(plan) == 8
