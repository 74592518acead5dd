"""Validation as a stage trains: what is measured, what is kept of a run, when it ends, and after a kill."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from satcascade.cli import main
from satcascade.config.preset import Preset, load_preset
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.compact_unet import CompactUNet
from satcascade.models.registry import build_model
from satcascade.training import validation as module
from satcascade.training.checkpoints import CheckpointFolder, DamagedCheckpointWarning
from satcascade.training.run import train
from satcascade.training.run_folder import CheckpointName, named_checkpoint, trained_stage
from satcascade.training.summary import summarize
from satcascade.training.validation import FixedLoss, SampleQuality, Validation
from tiny_training import in_a_process, in_two_processes

# So small a rate changes no weight, and so neither their averages nor the loss.
STILL = "training.learning_rate=1e-30"


@pytest.fixture(scope="module")
def preset(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cascade of 16 and 64 px with dropout."""
    model = {
        "patch_size": 4,
        "widths": [16],
        "blocks": [1],
        "attention": [True],
        "head_dim": 16,
        "cond_dim": 16,
        "text_dim": 16,
        "dropout": 0.2,
    }
    training = {"steps": 12, "batch_size": 6, "checkpoint_every": 0, "log_every": 2, "sample_every": 0}
    training |= {"learning_rate": 0.003, "precision": "float32", "keep_checkpoints": 1}
    noise = {"crop": 16, "low_res_noise": {"low": 0.0, "high": 8.0}}
    stages = {
        "base": {"model": model | {"sample_size": 16}, "training": training},
        "sr": {"model": model | {"sample_size": 64, "low_res": True}, "training": training | noise},
        "sampling": {"base": {"steps": 2, "guidance_scale": 2.0}, "sr": {"steps": 2}, "low_res_log_snr": 3.0},
    }
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "text_encoder": tiny_text_encoder, **stages}))
    return str(path)


def run(preset: str, data: PreparedDataset, out: Path, *overrides: str, origin: str | None = None) -> Path:
    common: dict[str, Any] = {"device": "cpu", "quiet": True}
    train(["base"], preset=preset, data=data.path, out=out, overrides=overrides, init_from=origin, **common)
    return out


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def equal(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def with_training(settings: Preset, stage: str, **changes: Any) -> Preset:
    part = settings.stage(stage)
    training = part.training.replace(changes)
    return settings.model_copy(update={stage: part.model_copy(update={"training": training})})


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_loss_is_the_same_whatever_a_run_draws(stage, preset, prepared_synthetic):
    settings = load_preset(preset)
    torch.manual_seed(0)
    model = build_model(settings.stage(stage).model)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    model.train()
    found = set()
    state = torch.get_rng_state()
    other = {"seed": 5, "batch_size": 3, "symmetries": False, "caption_dropout": 1.0, "all_captions": False}
    for changes in ({}, other, {"crop": None, "compile": True}):
        loss = FixedLoss(with_training(settings, stage, **changes).stage(stage), prepared_synthetic)
        assert loss.images == 4
        found |= {loss(model, torch.float32) for _ in range(2)}
    assert len(found) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    with torch.no_grad():
        list(model.parameters())[-1].add_(0.5)
    assert loss(model, torch.float32) not in found
    fewer = with_training(settings, stage, validation_images=3).stage(stage)
    assert FixedLoss(fewer, prepared_synthetic).images == 3


def test_validating_changes_nothing_of_a_run(preset, prepared_synthetic, tmp_path):
    plain = run(preset, prepared_synthetic, tmp_path / "plain")
    watched = run(preset, prepared_synthetic, tmp_path / "watched", "training.validate_every=5")
    assert (plain / "metrics.jsonl").read_bytes() == (watched / "metrics.jsonl").read_bytes()
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step-0000012/{name}.safetensors"
        assert equal(plain / file, watched / file)
    assert [row["step"] for row in rows(watched)] == [5, 10, 12]
    # It is free: the same folder is resumed with it and without.
    run(preset, prepared_synthetic, plain, "training.steps=14", "training.validate_every=7")
    assert [row["step"] for row in rows(plain)] == [14]


def test_loss_that_is_recorded_is_that_of_the_averaged_weights(preset, prepared_synthetic, tmp_path):
    out = run(preset, prepared_synthetic, tmp_path / "run", "training.validate_every=6")
    settings = load_preset(preset)
    for row in rows(out):
        if row["step"] in CheckpointFolder(out).averages():
            model = trained_stage(out, "base", row["step"]).model
            again = FixedLoss(settings.base, prepared_synthetic)(model, torch.float32)
            assert again == pytest.approx(row["loss"], rel=1e-6)
    assert rows(out)[-1]["step"] in CheckpointFolder(out).averages()


@pytest.mark.slow
def test_killed_run_has_the_validations_of_an_uninterrupted_one(preset, prepared_synthetic, tmp_path):
    overrides = [
        "training.steps=60",
        "training.checkpoint_every=9",
        "training.validate_every=4",
        "training.milestone_epochs=2",
        "training.learning_rate=0.02",
    ]
    whole = run(preset, prepared_synthetic, tmp_path / "whole", *overrides)
    killed = tmp_path / "killed"
    process = in_a_process(preset, prepared_synthetic, killed, *overrides)
    written = killed / "validation.jsonl"
    while not written.exists() or len(written.read_text().splitlines()) < 4:
        assert process.poll() is None, process.err
        time.sleep(0.002)
    process.kill()
    assert len(written.read_text().splitlines()) < 15
    # Half a line, as a machine that went down may leave it, of a step that no checkpoint has.
    with written.open("a") as file:
        file.write('{"step": 59, "lo')
    run(preset, prepared_synthetic, killed, *overrides)
    for name in ("validation.jsonl", "best.json", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    weights = [
        sorted(path.relative_to(out) for path in out.rglob("*.safetensors")) for out in (whole, killed)
    ]
    assert weights[0] == weights[1]
    assert all(equal(whole / path, killed / path) for path in weights[0])


def test_a_run_that_falls_back_finds_its_best_again(preset, prepared_synthetic, tmp_path):
    every = ("training.validate_every=4", "training.checkpoint_every=4", "training.keep_checkpoints=2")
    whole = run(preset, prepared_synthetic, tmp_path / "whole", *every, "training.steps=16")
    out = run(preset, prepared_synthetic, tmp_path / "run", *every)
    assert CheckpointFolder(out).best() == 12
    file = out / "checkpoints/step-0000012/model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(DamagedCheckpointWarning, match="resumes from step 8"):
        run(preset, prepared_synthetic, out, *every, "training.steps=16")
    for name in ("validation.jsonl", "best.json", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    assert CheckpointFolder(whole).steps() == CheckpointFolder(out).steps() == [12, 16]
    started = run(
        preset, prepared_synthetic, tmp_path / "from", "training.steps=1", STILL, origin=f"{out}@12"
    )
    assert equal(
        started / "checkpoints/step-0000001/ema.safetensors", out / "checkpoints/step-0000012/ema.safetensors"
    )


def test_a_run_ends_when_patience_does_and_keeps_its_best(preset, prepared_synthetic, tmp_path, capsys):
    settings = [STILL, "training.validate_every=2", "training.patience=3", "training.steps=40"]
    out = run(preset, prepared_synthetic, tmp_path / "run", *settings)
    stopped = (
        f"{out}: stopped at step 8: no better loss in 3 validations, the best is "
        f"{rows(out)[0]['loss']:.4g} at step 2 (a larger training.validation.patience resumes)\n"
    )
    assert capsys.readouterr().err == stopped
    assert [row["step"] for row in rows(out)] == [2, 4, 6, 8]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 8
    # One checkpoint is kept, and the best beside it.
    assert CheckpointFolder(out).steps() == [2, 8]
    best = {"step": 2, "measure": "loss", "value": rows(out)[0]["loss"]}
    assert json.loads((out / "best.json").read_text()) == best
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    run(preset, prepared_synthetic, out, *settings)
    assert capsys.readouterr().err == stopped
    del before[out / "run.json"]
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    run(preset, prepared_synthetic, out, *settings, "training.patience=4")
    assert [row["step"] for row in rows(out)] == [2, 4, 6, 8, 10]
    assert CheckpointFolder(out).steps() == [2, 10]
    # Without validations, too, the best stays.
    run(preset, prepared_synthetic, out, STILL, "training.steps=14")
    assert CheckpointFolder(out).steps() == [2, 14]


def test_the_best_is_the_least_of_what_compares(preset, prepared_synthetic, tmp_path):
    def validation(**changes: Any) -> Validation:
        settings = with_training(load_preset(preset), "base", validate_every=1, patience=2, **changes)
        return Validation(settings, "base", prepared_synthetic, tmp_path)

    one = validation()
    for step, loss in enumerate([0.5, 0.3, float("nan"), 0.3, 0.1], 1):
        one.add({"step": step, "loss": loss, "images": 4})
        assert one.stalled == (step == 4)
    assert one.best == {"step": 5, "loss": 0.1, "images": 4}
    resumed = validation()
    resumed.resume(4)
    assert resumed.best == {"step": 2, "loss": 0.3, "images": 4}
    # Losses of other images say nothing about these.
    fewer = validation(validation_images=2)
    fewer.resume(5)
    assert fewer.best is None
    assert not fewer.stalled


def test_milestones_hold_the_averages_of_their_step_and_stay(preset, prepared_synthetic, tmp_path):
    # 32 training images, 6 a step: one and a half epochs are 48 images.
    every = ("training.checkpoint_every=1", "training.keep_checkpoints=50")
    out = run(preset, prepared_synthetic, tmp_path / "run", *every, "training.milestone_epochs=1.5")
    assert [path.name for path in (out / "milestones").iterdir()] == ["step-0000008"]
    assert equal(
        out / "milestones/step-0000008/ema.safetensors", out / "checkpoints/step-0000008/ema.safetensors"
    )
    run(preset, prepared_synthetic, out, "training.steps=16", "training.milestone_epochs=1.5")
    assert sorted(path.name for path in (out / "milestones").iterdir()) == ["step-0000008", "step-0000016"]
    assert CheckpointFolder(out).steps() == [16]
    state = trained_stage(out, "base", 8).model.state_dict()
    ema = load_file(out / "milestones/step-0000008/ema.safetensors")
    assert all(torch.equal(state[name], ema[name]) for name in ema)


def test_checkpoints_go_by_name(preset, prepared_synthetic, tmp_path, capsys):
    every = ("training.validate_every=4", "training.keep_checkpoints=5", "training.steps=8")
    out = run(preset, prepared_synthetic, tmp_path / "run", *every)
    CheckpointFolder(out).set_best(4, "loss", 0.1)
    assert named_checkpoint(out) == CheckpointName(out)
    assert named_checkpoint(f"{out}@8") == CheckpointName(out, 8)
    assert named_checkpoint(f"{out}@best") == CheckpointName(out, 4)
    sr = tmp_path / "sr"
    train(["sr"], preset=preset, data=prepared_synthetic.path, out=sr, overrides=["training.steps=1"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["assemble", f"{out}@best", str(sr), str(tmp_path / "model")])
    assert ended.value.code == 0
    taken = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    assert equal(taken, out / "checkpoints/step-0000004/ema.safetensors")
    assert not equal(taken, out / "checkpoints/step-0000008/ema.safetensors")
    (out / "best.json").write_text("{")
    with pytest.raises(SatcascadeError, match=r"best\.json is damaged \(.*\): delete it"):
        named_checkpoint(f"{out}@best")
    (out / "best.json").unlink()
    for name, message in (
        ("7", "has no checkpoint of step 7: it has 4, 8"),
        ("best", "no best checkpoint: train it with training.validation.every"),
        ("first", "give RUN@STEP, such as .*@1000, or .*@best"),
    ):
        with pytest.raises(UsageError, match=message):
            named_checkpoint(f"{out}@{name}")
    with pytest.raises(SystemExit) as ended:
        main(["assemble", f"{out}@7", str(sr), str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "has no checkpoint of step 7" in capsys.readouterr().err


def test_features_are_computed_on_the_device_of_the_run(preset, prepared_synthetic, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(module, "load_features", lambda **options: asked.append(options["device"]))
    SampleQuality(load_preset(preset), "sr", prepared_synthetic, 4)
    accelerator = SimpleNamespace(device=torch.device("meta"))
    SampleQuality(load_preset(preset), "sr", prepared_synthetic, 4, accelerator)
    assert asked == ["cpu", torch.device("meta")]


@pytest.mark.slow
def test_pictures_are_measured_as_images_of_their_captions(preset, prepared_synthetic, monkeypatch):
    """Real images in the place of pictures: no distance from themselves, and scenes as told."""
    real: list[torch.Tensor] = []

    def given(settings, stage, model, dtype, text, images, seeds, codec):
        real.append((images + 1) / 2)
        return real[-1]

    monkeypatch.setattr(module, "draw", given)
    quality = SampleQuality(load_preset(preset), "sr", prepared_synthetic, 4)
    quality.open()
    found = quality(torch.nn.Identity(), torch.float32)
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert found["scene_accuracy"] == 1.0
    monkeypatch.setattr(module, "draw", lambda *arguments: given(*arguments) * 0.2)
    assert quality(torch.nn.Identity(), torch.float32)["frechet_distance"] > 10


def test_pictures_are_drawn_with_few_steps_and_choose_the_best(
    preset, prepared_synthetic, tmp_path, monkeypatch
):
    slow = ("sampling.base.scheduler=ddpm", "sampling.base.steps=1000", "training.steps=4")
    settings = ("training.validate_every=2", "training.validate_samples=4")
    plain = run(preset, prepared_synthetic, tmp_path / "plain", *slow)
    calls: list[int] = []
    forward = CompactUNet.forward
    monkeypatch.setattr(
        CompactUNet, "forward", lambda *given, **more: calls.append(1) or forward(*given, **more)
    )
    out = run(preset, prepared_synthetic, tmp_path / "run", *slow, *settings)
    # Four steps, and two validations of one batch and twenty steps of sampling.
    assert len(calls) == 4 + 2 * (1 + 20)
    for row in rows(out):
        assert row["samples"] == 4
        assert row["frechet_distance"] > 0
        assert 0 <= row["scene_accuracy"] <= 1
    best = json.loads((out / "best.json").read_text())
    assert best["measure"] == "frechet_distance"
    assert best["value"] == min(row["frechet_distance"] for row in rows(out))
    (told,) = (summary.rows() for summary in summarize([out]))
    last = rows(out)[-1]["loss"]
    assert told["validation"] == f"loss {last:.4g} at step 4; best at step {best['step']}"
    file = "checkpoints/step-0000004/model.safetensors"
    assert equal(plain / file, out / file)


def test_what_cannot_be_validated_is_refused_before_anything_is_written(
    preset, prepared_synthetic, tmp_path, monkeypatch
):
    out, every = tmp_path / "run", "training.validate_every=2"
    for overrides, message in (
        (
            ["training.patience=2"],
            r"validation: .*patience needs validations: set validation.every too",
        ),
        (["training.validate_samples=4"], "samples needs validations"),
        ([every, "training.validate_samples=5"], "give 4 or more and at most the 4 images of split 'val'"),
        ([every, "training.validate_samples=3"], "give 4 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            run(preset, prepared_synthetic, out, *overrides)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SatcascadeError, match=r"not installed: run 'pip install"):
        run(preset, prepared_synthetic, out, every, "training.validate_samples=4")
    bare = shutil.copytree(prepared_synthetic.path, tmp_path / "bare")
    records = (bare / "records.jsonl").read_text().replace('"split": "val"', '"split": "dev"')
    (bare / "records.jsonl").write_text(records)
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["splits"]["dev"] = manifest["splits"].pop("val")
    (bare / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"no split 'val' in .*bare to validate on"):
        run(preset, PreparedDataset.open(bare), out, every)
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_validate_together(preset, prepared_synthetic, tmp_path):
    """Each takes its share, both end when patience does, and one of them writes what one alone would."""
    settings = [STILL, "training.validate_every=2", "training.patience=2", "training.steps=40"]
    settings += ["training.validation_images=4", "training.validate_samples=4"]
    processes = in_two_processes(preset, prepared_synthetic, tmp_path / "two", *settings)
    said = "".join(process.err for process in processes)
    assert said.count("stopped at step 6: no better Frechet distance in 2 validations") == 1
    one = run(preset, prepared_synthetic, tmp_path / "one", *settings)
    assert rows(tmp_path / "two") == rows(one)
    assert CheckpointFolder(tmp_path / "two").steps() == [2, 6]
