"""Averages of any length out of snapshots: what they weigh, that they are found again, and resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from satcascade.config.preset import load_preset
from satcascade.errors import UsageError
from satcascade.io.hashing import sha256_of_file
from satcascade.training.averages import PowerAverages
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.post_hoc_averages import averaged, exponent, weights_of
from satcascade.training.run_folder import CheckpointName, initial_weights, named_checkpoint, trained_stage
from tiny_training import assert_same, run

LENGTHS = st.floats(0.01, 0.28)


def profile(length: float, steps: int) -> np.ndarray:
    """What the average of a length weighs each of the steps with, by its definition."""
    power = exponent(length) + 1
    edges = (np.arange(steps + 1) / steps) ** power
    return np.diff(edges)


@given(LENGTHS)
def test_length_is_the_spread_of_the_weights(length):
    weights, places = profile(length, 20_000), np.linspace(0, 1, 20_000)
    mean = (weights * places).sum()
    assert (weights * (places - mean) ** 2).sum() ** 0.5 == pytest.approx(length, rel=1e-3)


@given(LENGTHS, st.integers(1, 60))
def test_running_averages_weigh_as_they_should(length, steps):
    model = torch.nn.Linear(1, 1, bias=False)
    trajectory = torch.randn(steps, generator=torch.Generator().manual_seed(steps))
    averages = PowerAverages(model, [length])
    for step, value in enumerate(trajectory, start=1):
        torch.nn.init.constant_(model.weight, float(value))
        averages.update(model, step)
    expected = float((torch.from_numpy(profile(length, steps)) * trajectory).sum())
    # Of every step at the most a rounding of the weight, of its share and of their sum, none of which grows.
    bound = 3 * steps * torch.finfo(torch.float32).eps * float(trajectory.abs().max())
    assert float(averages.tensors[f"{length:g}/weight"]) == pytest.approx(expected, abs=bound)


@given(st.floats(0.04, 0.2), st.sampled_from([64, 128]))
def test_other_lengths_are_found_again(length, steps):
    """From two averages, taken every eight steps, of weights that drift and jump about."""
    rng = np.random.default_rng(0)
    trajectory = np.cumsum(rng.normal(size=steps)) * 0.1 + rng.normal(size=steps)
    taken = [(each, at) for at in range(8, steps + 1, 8) for each in (0.05, 0.1)]
    found = [profile(each, at) @ trajectory[:at] for each, at in taken]
    factors, missed = weights_of(
        [exponent(each) for each, _ in taken], [at for _, at in taken], exponent(length), steps
    )
    assert missed < 0.01
    assert factors.sum() == pytest.approx(1, abs=1e-9)
    assert factors @ found == pytest.approx(profile(length, steps) @ trajectory, abs=0.1)


def test_factors_do_not_blow_up_the_rounding_of_snapshots():
    taken = [(each, at) for at in range(1, 65) for each in (0.05, 0.1, 0.2)]
    factors, missed = weights_of(
        [exponent(each) for each, _ in taken], [at for _, at in taken], exponent(0.02), 64
    )
    assert missed < 0.001
    assert np.abs(factors).sum() < 50


def test_what_snapshots_cannot_make_is_measured():
    few = weights_of([exponent(0.05)], [100], exponent(0.2), 100)[1]
    more = weights_of([exponent(0.05)] * 4, [25, 50, 75, 100], exponent(0.2), 100)[1]
    assert few > 0.3
    assert more < few
    assert weights_of([exponent(0.05)], [100], exponent(0.05), 100)[1] < 1e-9


@pytest.mark.parametrize("length", [0.0, -1.0, 0.005, 0.29, 5.0])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(UsageError, match=r"not possible: give 0\.01 to 0\.28"):
        exponent(length)
    with pytest.raises(UsageError, match=r"averages\.lengths"):
        load_preset("compact", [f"base.training.ema_lengths=[{length}]"])


SETTINGS = ("training.ema_lengths=[0.05, 0.1, 0.2]", "training.ema_snapshot_every=2", "training.steps=12")


@pytest.fixture(scope="module")
def finished(tiny_preset, prepared_synthetic, tmp_path_factory):
    out = tmp_path_factory.mktemp("post-hoc") / "run"
    run(tiny_preset, prepared_synthetic, out, *SETTINGS)
    return out


@pytest.mark.slow
def test_resumed_run_has_the_same_averages_and_snapshots(finished, tiny_preset, prepared_synthetic, tmp_path):
    out = tmp_path / "resumed"
    for steps in (5, 12):
        last = run(
            tiny_preset,
            prepared_synthetic,
            out,
            *SETTINGS,
            f"training.steps={steps}",
            "training.decay_steps=0",
        )
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", *SETTINGS, "training.decay_steps=0")
    assert_same(whole, last)
    ours, theirs = (CheckpointFolder(folder).load(12).power for folder in (out, tmp_path / "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # One more: the resumed run ended at step 5 once.
    assert list(CheckpointFolder(finished).snapshots()) == [2, 4, 6, 8, 10, 12]
    assert list(CheckpointFolder(out).snapshots()) == [2, 4, 5, 6, 8, 10, 12]


def test_average_of_a_tracked_length_is_the_tracked_one(finished):
    tracked = CheckpointFolder(finished).load(12).power
    for length in (0.05, 0.2):
        for name, value in averaged(finished, length).items():
            torch.testing.assert_close(value, tracked[f"{length:g}/{name}"], atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_average_in_between_is_near_the_one_tracked_beside(tiny_preset, prepared_synthetic, tmp_path):
    """0.1 out of snapshots of 0.05 and 0.2, against the 0.1 that was tracked: far nearer than either."""
    longer = (*SETTINGS, "training.steps=48", "training.ema_snapshot_every=4", "training.decay_steps=0")
    last = run(tiny_preset, prepared_synthetic, tmp_path / "run", *longer)
    folder = CheckpointFolder(tmp_path / "run")
    tracked = folder.load(int(last.name[-7:])).power
    for snapshot in folder.snapshots().values():
        power = load_file(snapshot / "power.safetensors")
        save_file(
            {name: value for name, value in power.items() if not name.startswith("0.1/")},
            snapshot / "power.safetensors",
        )
        state = json.loads((snapshot / "state.json").read_text())
        state["sha256"]["power"] = sha256_of_file(snapshot / "power.safetensors")
        (snapshot / "state.json").write_text(json.dumps(state))

    def distance(weights: dict[str, torch.Tensor]) -> float:
        return (
            sum(float((value - tracked[f"0.1/{name}"]).square().sum()) for name, value in weights.items())
            ** 0.5
        )

    found = distance(averaged(tmp_path / "run", 0.1))
    for length in (0.05, 0.2):
        assert found < 0.1 * distance(averaged(tmp_path / "run", length))


def test_lengths_are_part_of_a_checkpoint_s_name(finished):
    assert named_checkpoint(f"{finished}@8:0.1") == CheckpointName(finished, 8, 0.1)
    made = trained_stage(finished, "base", 8, 0.1).model
    expected = averaged(finished, 0.1, 8)
    assert all(torch.equal(value, expected[name]) for name, value in made.named_parameters())
    taken = initial_weights(f"{finished}@8:0.1", "base", made)
    assert all(torch.equal(taken[name], value) for name, value in expected.items())
    for name, message in (
        ("@8:long", "is no checkpoint: give RUN@STEP"),
        ("@8:", "is no checkpoint"),
    ):
        with pytest.raises(UsageError, match=message):
            named_checkpoint(f"{finished}{name}")
    with pytest.raises(UsageError, match="has no snapshot of step 7: it has 2, 4, 6, 8, 10, 12"):
        trained_stage(finished, "base", 7, 0.1)
    with pytest.raises(UsageError, match=r"not possible: give 0\.01 to 0\.28"):
        trained_stage(finished, "base", 8, 0.5)
    with pytest.raises(UsageError, match=r"do not reach an average of length 0\.011 at step 12"):
        trained_stage(finished, "base", 12, 0.011)


def test_run_without_snapshots_says_so(tiny_preset, prepared_synthetic, tmp_path):
    last = run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=2")
    assert not (last / "power.safetensors").exists()
    with pytest.raises(UsageError, match=r"no snapshots .* train it with training\.averages\.lengths"):
        trained_stage(tmp_path / "run", "base", 2, 0.1)
