"""What a run survives: kills, damage, full disks and memory, other processes, losses that diverge."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from satcascade.cli import main
from satcascade.data.prepare import prepare
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.training.checkpoints import CheckpointFolder, DamagedCheckpointWarning, read_weights
from satcascade.training.loss import DenoisingLoss
from satcascade.training.run_folder import read_description, trained_stage
from synthetic import make_synthetic_rsicd
from tiny_training import assert_alike, assert_same, in_a_process, in_two_processes, run, run_nudged

# The same training in few steps: rounding has no time to grow.
ALIKE = ("training.decay_steps=0", "training.optimizer=adamw", "training.batch_size=5", "model.dropout=0.0")


def random_moments(rng: random.Random, out: Path) -> list[Callable[[], None]]:
    """Ten waits: from the start of a process, from its first new checkpoint, and for one half-written."""
    checkpoints = out / "checkpoints"

    def after_start() -> None:
        time.sleep(rng.uniform(0, 0.5))

    def in_training() -> None:
        before = CheckpointFolder(out).steps()[-1:]
        while CheckpointFolder(out).steps()[-1:] == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))

    def while_writing() -> None:
        left = set(checkpoints.glob(".step-*"))
        while not set(checkpoints.glob(".step-*")) - left:
            pass
        time.sleep(rng.uniform(0, 0.002))

    moments = [after_start] * 3 + [in_training] * 3 + [while_writing] * 4
    rng.shuffle(moments)
    return moments


def assert_whole(out: Path) -> None:
    """Whatever has its final name can be read."""
    folder = CheckpointFolder(out)
    for step in folder.steps():
        assert folder.load(step).step == step
    for average in folder.averages().values():
        read_weights(average, "ema")
    best = folder.best()
    assert best is None or best in folder.steps()
    if (out / "run.json").exists():
        read_description(out)
    for picture in out.glob("samples/*.png"):
        with Image.open(picture) as image:
            image.load()


@pytest.mark.slow
def test_run_killed_ten_times_ends_as_the_uninterrupted_one(tiny_preset, prepared_synthetic, tmp_path):
    settings = ["training.steps=60", "training.checkpoint_every=1", "training.sample_every=12"]
    settings += ["training.keep_checkpoints=3", "training.validate_every=9", "training.milestone_epochs=4"]
    out = tmp_path / "killed"
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", *settings)
    killed_writing = 0
    for wait in random_moments(random.Random(6), out):
        process = in_a_process(tiny_preset, prepared_synthetic, out, *settings)
        wait()
        assert process.poll() is None, process.err
        process.kill()
        assert_whole(out)
        killed_writing += bool(list(out.glob("checkpoints/.step-*")))
    assert killed_writing
    assert 0 < CheckpointFolder(out).steps()[-1] < 60
    assert_same(whole, run(tiny_preset, prepared_synthetic, out, *settings))
    for name in ("metrics.jsonl", "validation.jsonl", "best.json", "samples/step-0000012.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in out.rglob(".*")] == [".lock"]


def damage(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    content = path.read_bytes()
    if name == "model.safetensors":
        path.write_bytes(content[:-100])
    elif name == "ema.safetensors":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif name == "optimizer.safetensors":
        path.unlink()
    else:
        path.write_bytes(b"\0" * len(content))


@pytest.mark.slow
def test_run_goes_on_from_the_checkpoint_before_damaged_ones(tiny_preset, prepared_synthetic, tmp_path):
    longer = ("training.decay_steps=0", "training.keep_checkpoints=3")
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", "training.steps=10", *longer)
    for names in (["state.json"], ["optimizer.safetensors"], ["ema.safetensors", "model.safetensors"]):
        out = tmp_path / names[0]
        run(tiny_preset, prepared_synthetic, out, "training.steps=6", "training.checkpoint_every=2", *longer)
        folder = CheckpointFolder(out)
        assert folder.steps() == [2, 4, 6]
        for step, name in zip((6, 4), names, strict=False):
            damage(folder.folder(step), name)
        intact = 6 - 2 * len(names)
        with pytest.warns(
            DamagedCheckpointWarning, match=rf"step-000000{intact + 2} .*resumes from step {intact}$"
        ) as told:
            last = run(tiny_preset, prepared_synthetic, out, "training.steps=10", *longer)
        assert sum(warning.category is DamagedCheckpointWarning for warning in told) == len(names)
        assert_same(whole, last)
        assert (out / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
        assert_whole(out)


def test_damage_is_told_in_a_line(tiny_preset, prepared_synthetic, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["training.steps=4", "training.checkpoint_every=2", "training.decay_steps=0"]
    run(tiny_preset, prepared_synthetic, out, *settings)
    command = ["train", "base", f"--preset={tiny_preset}", f"--data={prepared_synthetic.path}"]
    command += [f"--out={out}", "--device=cpu", "--quiet", *(f"--set={setting}" for setting in settings)]
    last, before = (CheckpointFolder(out).folder(step) for step in (4, 2))

    def told() -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(command)
        return ended.value.code, capsys.readouterr().err

    damage(last, "model.safetensors")
    problem = f"checkpoint {last} is damaged (model.safetensors)"
    assert told() == (0, f"warning: {problem}: the run resumes from step 2\n")
    damage(last, "model.safetensors")
    damage(before, "state.json")
    status, text = told()
    assert status == 1
    assert text == f"error: {problem}, and so is every other one: delete {last.parent} to begin again\n"
    # What only reads takes no other checkpoint than the one that is meant.
    damage(last, "ema.safetensors")
    with pytest.raises(SatcascadeError, match=r"damaged .*: name another one as RUN@STEP"):
        trained_stage(out, "base")


def test_full_disk_during_a_checkpoint_keeps_the_earlier_ones(tiny_preset, prepared_synthetic, small_disk):
    out = small_disk / "run"
    plateau = ("training.decay_steps=0", "training.keep_checkpoints=5")
    first = run(tiny_preset, prepared_synthetic, out, "training.steps=4", *plateau)
    size = sum(path.stat().st_size for path in first.iterdir())
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(b"x" * (free - size // 2))
    with pytest.raises(SatcascadeError, match="no space left on the device"):
        run(tiny_preset, prepared_synthetic, out, "training.steps=8", *plateau)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-0000004"]
    (small_disk / "ballast").unlink()
    assert run(tiny_preset, prepared_synthetic, out, "training.steps=8", *plateau).name == "step-0000008"


def test_diverging_loss_stops_the_run_and_keeps_the_good_checkpoint(
    tiny_preset, prepared_synthetic, tmp_path
):
    folder = CheckpointFolder(tmp_path / "run")
    run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=4", "training.decay_steps=0")
    good = folder.load(4)
    # What a cosmic ray or an overflow would do to the weights that the run resumes with.
    name = next(iter(good.model))
    good.model[name].fill_(float("nan"))
    folder.save(type(good)(5, good.model, good.ema, good.optimizer))
    with pytest.raises(
        SatcascadeError, match=r"not finite at step 6; the last good checkpoint is .*step-0000005"
    ):
        run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.decay_steps=0")
    assert folder.steps() == [4, 5]


def test_full_memory_names_what_to_try(tiny_preset, prepared_synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(DenoisingLoss, "forward", lambda _, batch: torch.empty(10**6 * 10**9))
    same = r"training\.hardware\.accumulate=2 \(the same results\), or "
    with pytest.raises(
        SatcascadeError, match=rf"out of memory with 6 images a batch: try {same}training\.batch_size=3$"
    ):
        run(tiny_preset, prepared_synthetic, tmp_path / "run")
    with pytest.raises(SatcascadeError, match=r"try training\.batch_size=3$"):
        run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.accumulate=6")


def test_changed_data_are_refused(tiny_preset, prepared_synthetic, tiny_text_encoder, tmp_path):
    plateau = ("training.decay_steps=0", "training.steps=2")
    run(tiny_preset, prepared_synthetic, tmp_path / "run", *plateau)
    # The same captions and splits, one image another.
    source = make_synthetic_rsicd(tmp_path / "source", images=40)
    shutil.copy(source / "RSICD_images/desert_1.jpg", source / "RSICD_images/pond_0.jpg")
    prepare(source, tmp_path / "other", image_size=64, encoder=tiny_text_encoder, progress=False)
    other = PreparedDataset.open(tmp_path / "other")
    with pytest.raises(UsageError, match=f"data was {prepared_synthetic.hash}, now {other.hash}"):
        run(tiny_preset, other, tmp_path / "run", *plateau, "training.steps=4")
    assert CheckpointFolder(tmp_path / "run").steps() == [2]


def test_number_of_processes_may_change_when_a_run_goes_on(tiny_preset, prepared_synthetic, tmp_path):
    """The same batches, shared out unequally: the same curve and weights up to rounding, written once."""
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "one", "training.steps=9", *ALIKE)
    changing = tmp_path / "changing"
    run(tiny_preset, prepared_synthetic, changing, "training.steps=3", *ALIKE)
    settings = ("training.steps=6", "training.accumulate=2", *ALIKE)
    in_two_processes(tiny_preset, prepared_synthetic, changing, *settings)
    last = run(tiny_preset, prepared_synthetic, changing, "training.steps=9", *ALIKE)
    nudged = run_nudged(tiny_preset, prepared_synthetic, tmp_path / "nudged", "training.steps=9", *ALIKE)
    assert_alike(whole, last, nudged)


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_accumulated_gradients_are_those_of_the_batch(stage, tiny_preset, prepared_synthetic, tmp_path):
    settings = (*ALIKE, "training.steps=6")
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "whole", *settings, stage=stage)
    # A run may be resumed with another number, also one that does not divide the batch.
    for steps, parts in ((3, 5), (6, 3)):
        changed = (*settings, f"training.steps={steps}", f"training.accumulate={parts}")
        last = run(tiny_preset, prepared_synthetic, tmp_path / "parts", *changed, stage=stage)
    nudged = run_nudged(tiny_preset, prepared_synthetic, tmp_path / "nudged", *settings, stage=stage)
    assert_alike(whole, last, nudged)
    with pytest.raises(UsageError, match="batch of 5 images cannot be shared by 1 processes in 6 parts each"):
        run(tiny_preset, prepared_synthetic, tmp_path / "x", *settings, "training.accumulate=6", stage=stage)
