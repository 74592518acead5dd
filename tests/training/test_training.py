"""Training: what a step sees, what a run leaves behind, and what survives a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from satcascade.config.preset import Preset, load_preset
from satcascade.config.training import Training
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import dihedral, jittered
from satcascade.diffusion.process import cosine_log_snr
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.denoiser import resize_low_res
from satcascade.models.registry import build_model
from satcascade.seeds import derived_seed
from satcascade.training.assemble import assemble
from satcascade.training.averages import WeightAverage
from satcascade.training.batches import BatchSource
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.device_data import DeviceData
from satcascade.training.optimizers import learning_rate, make_optimizers, orthogonalize
from satcascade.training.run import train
from satcascade.training.run_folder import initial_weights, trained_stage
from satcascade.training.stage_trainer import StageTrainer
from tiny_training import assert_same, in_a_process, run, weights


def on_cpu(data: PreparedDataset, split: str = "train") -> DeviceData:
    return DeviceData(data, split, torch.device("cpu"))


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_loss_falls_and_run_folder_describes_itself(stage, tiny_preset, prepared_synthetic, tmp_path):
    last = run(
        tiny_preset,
        prepared_synthetic,
        tmp_path / "run",
        "training.steps=60",
        "training.decay_steps=0",
        stage=stage,
    )
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    losses = [row["loss"] for row in rows]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    description = json.loads((tmp_path / "run/run.json").read_text())
    assert description["identity"]["data"] == prepared_synthetic.hash
    assert description["versions"]["torch"] == torch.__version__
    Preset.model_validate(description["settings"])
    assert last.name == "step-0000060"
    assert CheckpointFolder(tmp_path / "run").steps() == [56, 60]
    assert list((tmp_path / "run/tensorboard").iterdir())
    grids = sorted((tmp_path / "run/samples").iterdir())
    assert [grid.name for grid in grids] == ["step-0000030.png", "step-0000060.png"]
    early, late = (np.asarray(Image.open(grid)) for grid in grids)
    # Four validation captions; super-resolution shows what went in and the real image too.
    assert late.shape == ((32, 128, 3) if stage == "base" else (192, 256, 3))
    assert (early != late).mean() > 0.1


def test_sigterm_leaves_a_checkpoint_of_the_step_it_came_in(tiny_preset, prepared_synthetic, tmp_path):
    overrides = ("training.steps=100000", "training.checkpoint_every=0")
    process = in_a_process(tiny_preset, prepared_synthetic, tmp_path / "run", *overrides)
    metrics = tmp_path / "run/metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.err
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 0, process.err
    rows = metrics.read_text().splitlines()
    assert CheckpointFolder(tmp_path / "run").steps() == [len(rows)]


def test_run_can_be_lengthened_but_not_otherwise_changed(tiny_preset, prepared_synthetic, tmp_path):
    plateau = ("training.decay_steps=0",)
    run(tiny_preset, prepared_synthetic, tmp_path / "a", "training.steps=6", *plateau)
    longer = run(tiny_preset, prepared_synthetic, tmp_path / "a", "training.steps=10", *plateau)
    assert_same(longer, run(tiny_preset, prepared_synthetic, tmp_path / "b", "training.steps=10", *plateau))
    with pytest.raises(UsageError, match=r"training\.batch_size was 6, now 4"):
        run(tiny_preset, prepared_synthetic, tmp_path / "a", "training.batch_size=4")
    with pytest.raises(UsageError, match=r"now sr|low_res was False, now True"):
        run(tiny_preset, prepared_synthetic, tmp_path / "a", stage="sr")


def test_bad_input_is_refused_before_anything_is_written(tiny_preset, prepared_synthetic, tmp_path):
    out = tmp_path / "run"
    cases = {
        "training.batch_size=0": r"base\.training\.batch_size",
        "training.steps=-1": r"base\.training\.schedule\.steps",
        "training.colour=red": r"base\.training\.colour: unknown key",
        "training.batch_size": "not of the form",
        "text_encoder.name=x": "not a section",
        "training.crop=999": "training.augmentation.crop of 999 px is larger",
    }
    for override, message in cases.items():
        with pytest.raises(UsageError, match=message):
            run(tiny_preset, prepared_synthetic, out, override)
    with pytest.raises(UsageError, match=r"unknown preset 'nope': choose one of compact"):
        run("nope", prepared_synthetic, out)
    with pytest.raises(UsageError, match=r"no split 'dev'"):
        train(["base"], preset=tiny_preset, data=prepared_synthetic.path, out=out, split="dev", device="cpu")
    with pytest.raises(UsageError, match="needs 'minilm'"):
        run("compact", prepared_synthetic, out)
    assert not out.exists()
    out.mkdir()
    (out / "holiday.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        run(tiny_preset, prepared_synthetic, out)
    assert [path.name for path in out.iterdir()] == ["holiday.txt"]


def test_two_runs_become_a_pipeline_that_samples(tiny_preset, prepared_synthetic, tmp_path):
    from satcascade.pipelines.cascade import CascadePipeline

    run(tiny_preset, prepared_synthetic, tmp_path / "base")
    run(tiny_preset, prepared_synthetic, tmp_path / "sr", stage="sr")
    made = assemble(tmp_path / "base", tmp_path / "sr", tmp_path / "model")
    ema = load_file(tmp_path / "base/checkpoints/step-0000012/ema.safetensors")
    assert torch.equal(made.unet.state_dict()["stem.weight"], ema["stem.weight"])
    loaded = CascadePipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    images = [pipe("a pond", seeds=[1], output_type="np").images for pipe in (made, loaded)]
    assert images[0].shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(*images)
    with pytest.raises(UsageError, match="stage 'sr', not 'base'"):
        assemble(tmp_path / "sr", tmp_path / "sr", tmp_path / "other")


@pytest.fixture(scope="module")
def tiny_rsdiff_preset(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """RSDiff's own training settings on small networks."""
    settings = load_preset("rsdiff1.5").model_dump(mode="json")
    small = {"width": 8, "width_multipliers": [1, 2], "blocks": 1, "self_attention": [False, True]}
    small |= {"cross_attention": [False, True], "heads": 2, "head_dim": 4, "cond_dim": 8}
    small |= {"text_dim": 16, "max_text_len": 16, "text_latents": 4}
    settings |= {"name": "tiny-rsdiff", "text_encoder": tiny_text_encoder}
    for stage, size in (("base", 16), ("sr", 32)):
        settings[stage]["model"] |= small | {"sample_size": size}
        settings[stage]["training"] |= {"batch_size": 2, "precision": "float32", "learning_rate": 0.003}
    path = tmp_path_factory.mktemp("preset") / "tiny-rsdiff.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def train_both(preset: str, data: PreparedDataset, out: Path, *overrides: str, **options: Any) -> list[Path]:
    stages, common = ("base", "sr"), {"device": "cpu", "quiet": True}
    return train(stages, preset=preset, data=data.path, out=out, overrides=overrides, **common, **options)


@pytest.mark.slow
def test_joint_training_of_rsdiff_gives_the_runs_of_both_stages(
    tiny_rsdiff_preset, prepared_synthetic, tmp_path
):
    settings = ("training.steps=16", "training.sample_every=0")
    last = train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "joint", *settings)
    for stage, checkpoint in zip(("base", "sr"), last, strict=True):
        alone = run(tiny_rsdiff_preset, prepared_synthetic, tmp_path / stage, *settings, stage=stage)
        assert_same(alone, checkpoint)
        rows = (tmp_path / "joint" / stage / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(row)["loss"] for row in rows]
        assert sum(losses[-6:]) < 0.95 * sum(losses[:6])
    pipeline = assemble(tmp_path / "joint/base", tmp_path / "joint/sr", tmp_path / "model")
    assert type(pipeline.unet).__name__ == type(pipeline.sr_unet).__name__ == "RSDiffUNet"
    assert pipeline.config.projected_guidance


@pytest.mark.parametrize(("base", "sr"), [(3, 1), (1, 3)])
def test_stages_of_a_joint_run_may_take_different_numbers_of_steps(
    base, sr, tiny_rsdiff_preset, prepared_synthetic, tmp_path
):
    settings = ("training.sample_every=0", f"base.training.steps={base}", f"sr.training.steps={sr}")
    last = train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "run", *settings)
    assert [checkpoint.name for checkpoint in last] == [f"step-{steps:07}" for steps in (base, sr)]


@pytest.mark.slow
def test_a_joint_run_goes_on_where_one_stage_is_behind(tiny_rsdiff_preset, prepared_synthetic, tmp_path):
    settings = ("training.sample_every=0", "training.checkpoint_every=2")
    whole = train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "a", *settings, "training.steps=6")
    train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "b", *settings, "training.steps=4")
    # A kill between the two checkpoints of step 4.
    shutil.rmtree(tmp_path / "b/sr/checkpoints/step-0000004")
    resumed = train_both(
        tiny_rsdiff_preset, prepared_synthetic, tmp_path / "b", *settings, "training.steps=6"
    )
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other)


def test_a_run_starts_from_a_saved_cascade_or_from_runs(tiny_rsdiff_preset, prepared_synthetic, tmp_path):
    settings = ("training.steps=2", "training.sample_every=0")
    train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "joint", *settings)
    assemble(tmp_path / "joint/base", tmp_path / "joint/sr", tmp_path / "model")
    started = [
        train_both(
            tiny_rsdiff_preset,
            prepared_synthetic,
            tmp_path / "from" / origin,
            *settings,
            init_from=tmp_path / origin,
        )
        for origin in ("joint", "model")
    ]
    for one, other in zip(*started, strict=True):
        assert_same(one, other)
    fresh = weights(tmp_path / "joint/sr/checkpoints/step-0000002")["model.stem.convs.0.weight"]
    assert not torch.equal(weights(started[0][1])["model.stem.convs.0.weight"], fresh)
    for origin, message in (("builtin", "another one"), (str(tmp_path), "no saved pipeline")):
        with pytest.raises(SatcascadeError, match=message):
            train_both(tiny_rsdiff_preset, prepared_synthetic, tmp_path / "x", *settings, init_from=origin)
    assert not (tmp_path / "x").exists()


def test_weights_of_another_prediction_are_no_start(tiny_preset, prepared_synthetic, tmp_path):
    run(tiny_preset, prepared_synthetic, tmp_path / "v", "training.steps=1")
    with pytest.raises(UsageError, match=r"another prediction_type \(v_prediction, here epsilon\): set base"):
        train(
            ["base"],
            preset=tiny_preset,
            data=prepared_synthetic.path,
            out=tmp_path / "epsilon",
            overrides=["model.prediction_type=epsilon"],
            init_from=tmp_path / "v",
            device="cpu",
            quiet=True,
        )
    assert not (tmp_path / "epsilon").exists()


def test_a_trained_network_can_be_given_a_detail_level(tiny_preset, prepared_synthetic, tmp_path):
    run(tiny_preset, prepared_synthetic, tmp_path / "plain", "training.steps=2")
    preset = load_preset(tiny_preset)
    detailed = preset.base.model.model_copy(update={"detail_width": 8})
    torch.manual_seed(0)
    model = build_model(detailed)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    taken = initial_weights(tmp_path / "plain", "base", model)
    plain = trained_stage(tmp_path / "plain", "base").model.state_dict()
    assert taken.keys() == own.keys()
    assert taken.keys() > plain.keys()
    for name, value in taken.items():
        assert torch.equal(value, plain.get(name, own[name]))
    # The other way round, something that was trained would be lost.
    settings = ("training.steps=2", "model.detail_width=8")
    last = run(tiny_preset, prepared_synthetic, tmp_path / "detailed", *settings)
    assert weights(last)["model.detail.out.weight"].any()
    with pytest.raises(UsageError, match=r"another one \(detail\.grow\.bias is \(8,\), here missing\)"):
        initial_weights(tmp_path / "detailed", "base", build_model(preset.base.model))


def test_layers_from_and_to_pixels_are_not_orthogonalised(tiny_preset):
    stage = load_preset(tiny_preset, ["base.model.detail_width=8"]).base
    model = build_model(stage.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adamw, muon = make_optimizers(model, stage.training)
    owned = [
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (adamw, muon)
    ]
    assert not owned[0] & owned[1]
    assert owned[0] | owned[1] == set(names.values())
    at_the_rim = ("stem", "filters", "out", "detail.stem", "detail.out")
    assert {f"{layer}.weight" for layer in at_the_rim} < owned[0]
    assert {"down.0.0.block.conv1.weight", "detail.stages.0.block.conv1.weight"} < owned[1]


def test_rsdiffs_training_batches_are_drawn_as_specified(tiny_rsdiff_preset, prepared_synthetic):
    training = load_preset(tiny_rsdiff_preset).sr.training.replace({"batch_size": 64})
    source = BatchSource(on_cpu(prepared_synthetic), training, 32, "nearest")
    batches = [source(step) for step in range(8)]
    log_snr = torch.cat([batch.log_snr for batch in batches])
    # The median of uniform times is 1/2; both ends of the cosine schedule are reached.
    assert log_snr.median().item() == pytest.approx(cosine_log_snr(torch.tensor(0.5)).item(), abs=0.05)
    assert log_snr.max() > 7
    assert log_snr.min() < -9
    levels = [batch.low_res_log_snr.unique() for batch in batches]
    assert all(len(level) == 1 for level in levels)
    assert len(torch.cat(levels).unique()) == 8
    batch = batches[0]
    # Halved and doubled by nearest neighbours: each input pixel stands four times, and is one of the image.
    assert torch.equal(batch.low_res[..., ::2, ::2], batch.low_res[..., 1::2, 1::2])
    images = [
        torch.equal(low_res[:, ::2, ::2], image[:, ::2, ::2])
        for image, low_res in zip(batch.images, batch.low_res, strict=True)
    ]
    # Of a mirrored image the other neighbour is left.
    assert 0.2 < sum(images) / len(images) < 0.8


@given(st.integers(0, 30), st.integers(1, 4))
def test_processes_share_the_batch_of_one(tiny_training, prepared_synthetic, step, processes):
    data = on_cpu(prepared_synthetic)
    whole = BatchSource(data, tiny_training, 32, "bilinear")(step)
    for process in range(processes):
        part = BatchSource(data, tiny_training, 32, "bilinear", process, processes)(step)
        mine = slice(process, None, processes)
        for name in ("images", "noise", "log_snr", "keep", "low_res", "low_res_noise", "low_res_log_snr"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[mine])


@pytest.mark.parametrize("resize", [None, "bilinear"])
def test_colour_jitter_changes_colours_and_nothing_else(resize, tiny_training, prepared_synthetic):
    data = on_cpu(prepared_synthetic)
    plain = BatchSource(data, tiny_training, 32, resize)(3)
    source = BatchSource(data, tiny_training.replace({"augmentation.colour_jitter": 0.3}), 32, resize)
    batch = source(3)
    for name in ("noise", "log_snr", "keep", "low_res_noise", "low_res_log_snr"):
        before, after = getattr(plain, name), getattr(batch, name)
        assert after is None or torch.equal(before, after)
    changes = (batch.images - plain.images).abs().amax(dim=(1, 2, 3))
    # Each image otherwise.
    assert len(changes.unique()) == len(changes)
    assert batch.images.abs().max() <= 1
    assert torch.equal(source(3).images, batch.images)
    assert not torch.equal(source(4).images, batch.images)
    if resize is None:
        return
    # Both views are changed alike: the larger one, reduced, is still what the smaller one was made of.
    distance = (F.avg_pool2d(batch.images, 2) - F.avg_pool2d(batch.low_res, 2)).abs().mean()
    before = (F.avg_pool2d(plain.images, 2) - F.avg_pool2d(plain.low_res, 2)).abs().mean()
    assert distance < 2 * before
    part = BatchSource(data, source.training, 32, resize, 1, 3)(3)
    assert torch.equal(part.images, batch.images[1::3])
    assert torch.equal(part.low_res, batch.low_res[1::3])


@given(st.integers(0, 2**31), st.floats(-0.9, 0.9))
def test_jittered_colours(seed, strength):
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) - 0.5
    grey = images.mean(dim=1, keepdim=True)

    def changed(*change: float) -> torch.Tensor:
        return jittered(images, torch.tensor([change, [0.0, 0.0, 0.0]]))

    torch.testing.assert_close(changed(0, 0, 0), images)
    torch.testing.assert_close(changed(0, 0, strength)[0], (images[0] + strength).clamp(-1, 1))
    torch.testing.assert_close(changed(0, strength, 0)[0], (images[0] * (1 + strength)).clamp(-1, 1))
    saturated = changed(strength, 0, 0)
    torch.testing.assert_close(saturated[0], (grey + (images - grey) * (1 + strength))[0].clamp(-1, 1))
    torch.testing.assert_close(saturated[1], images[1])


@pytest.fixture(scope="module")
def tiny_training(tiny_preset: str) -> Training:
    return load_preset(tiny_preset).sr.training.replace({"augmentation.crop": 16, "batch_size": 8})


class RefusesWaiting(TorchDispatchMode):
    """Fails where a value is read from the device: on a GPU everything before it would have to be done."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step reads a value from the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    if not torch.cuda.is_available():
        with RefusesWaiting():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "sr"])
@pytest.mark.parametrize("family", ["compact", "rsdiff"])
def test_a_step_does_not_wait_for_the_device(
    family, stage, tiny_preset, tiny_rsdiff_preset, prepared_synthetic, tmp_path, monkeypatch
):
    steps = []
    advance = StageTrainer.advance

    def watched(trainer: StageTrainer) -> None:
        # The first step also sets things up, the last is written down.
        with no_waiting() if trainer.step in (1, 2, 3) else nullcontext():
            advance(trainer)
        steps.append(trainer.step)

    monkeypatch.setattr(StageTrainer, "advance", watched)
    overrides = ("training.steps=5", "training.log_every=100", "training.checkpoint_every=0")
    preset = tiny_preset if family == "compact" else tiny_rsdiff_preset
    options = {"overrides": (*overrides, "training.decay_steps=0"), "quiet": True}
    train([stage], preset=preset, data=prepared_synthetic.path, out=tmp_path / "run", **options)
    assert steps == [1, 2, 3, 4, 5]


def eager_compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    return graph.forward


def no_compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    raise RuntimeError("g++ is not there")


@pytest.mark.slow
def test_a_run_may_go_on_compiled(tiny_preset, prepared_synthetic, tmp_path, monkeypatch):
    """The loss is one graph, and its compiler the only thing that may change results."""
    plateau = ("training.decay_steps=0", "model.dropout=0.0")
    whole = run(tiny_preset, prepared_synthetic, tmp_path / "a", "training.steps=6", *plateau, stage="sr")
    run(tiny_preset, prepared_synthetic, tmp_path / "b", "training.steps=3", *plateau, stage="sr")
    compiled = (*plateau, "training.steps=6", "training.compile=true")
    whole_graph = {"fullgraph": True, "backend": eager_compiler}
    monkeypatch.setattr(torch, "compile", partial(torch.compile, **whole_graph))
    later = run(tiny_preset, prepared_synthetic, tmp_path / "b", *compiled, stage="sr")
    # Captions are padded further for a compiled network. What padding alone changes is rounding, as six steps
    # of Muon amplify it: an independent measure of the same size, of which a norm is allowed three times.
    text = DeviceData.text
    monkeypatch.setattr(DeviceData, "text", lambda data, rows, choice, multiple: text(data, rows, choice, 32))
    padded = run(tiny_preset, prepared_synthetic, tmp_path / "d", "training.steps=6", *plateau, stage="sr")
    plain, ours, theirs = (
        torch.cat([value.double().flatten() for value in weights(folder).values()])
        for folder in (whole, later, padded)
    )
    assert float((ours - plain).norm()) < 3 * float((theirs - plain).norm())
    assert float((theirs - plain).norm()) < 1e-3 * float(plain.norm())
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=no_compiler))
    with pytest.raises(
        SatcascadeError, match=r"cannot be compiled here \(.*g\+\+ is not there.*\): set"
    ) as found:
        run(tiny_preset, prepared_synthetic, tmp_path / "c", *compiled, stage="sr")
    assert "\n" not in str(found.value)


def test_checkpoints_by_the_clock(tiny_preset, prepared_synthetic, tmp_path):
    every = ("training.checkpoint_every=0", "training.keep_checkpoints=20", "training.sample_every=0")
    run(tiny_preset, prepared_synthetic, tmp_path / "run", *every, "training.checkpoint_minutes=1e-9")
    assert CheckpointFolder(tmp_path / "run").steps() == list(range(1, 13))
    run(tiny_preset, prepared_synthetic, tmp_path / "other", *every, "training.checkpoint_minutes=100")
    assert CheckpointFolder(tmp_path / "other").steps() == [12]


def one_by_one(data: PreparedDataset, training: Training, size: int, resize: str | None, step: int) -> Any:
    """What a batch is, said image by image: the images, low-resolution inputs and captions."""
    chance = torch.Generator().manual_seed(derived_seed(training.seed, "step", step))
    count, side = training.batch_size, training.augmentation.crop or size
    caption, symmetry = torch.rand(count, generator=chance), torch.randint(8, (count,), generator=chance)
    corner = torch.rand(count, 2, generator=chance).tolist()
    rows = BatchSource(on_cpu(data), training, size, resize)._rows(step)
    views, captions = [], []
    for item, row in enumerate(rows):
        ids = data.records[row].caption_ids
        captions.append(ids[int(caption[item] * len(ids)) if training.augmentation.all_captions else 0])
        image = torch.from_numpy(data.images[row].copy()).permute(2, 0, 1).float() / 127.5 - 1
        image = torch.nn.functional.avg_pool2d(image, data.image_size // size)
        both = [image]
        if resize is not None:
            nearest = training.augmentation.low_res_reduce == "nearest"
            half = image[:, ::2, ::2] if nearest else torch.nn.functional.avg_pool2d(image, 2)
            both.append(resize_low_res(half[None], size, resize)[0])
        top, left = (int(part * (size - side + 1)) for part in corner[item])
        turn = {True: int(symmetry[item]), False: 0, "flip": 7 * (int(symmetry[item]) % 2)}
        both = [view[:, top : top + side, left : left + side] for view in both]
        views.append([dihedral(view, turn[training.augmentation.symmetries]) for view in both])
    return *(torch.stack(column) for column in zip(*views, strict=True)), data.text(captions)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("symmetries", [False, True, "flip"])
@pytest.mark.parametrize(
    ("size", "resize", "crop", "reduce"),
    [
        (32, None, None, "average"),
        (64, None, 40, "average"),
        (64, "bilinear", 33, "average"),
        (64, "nearest", None, "nearest"),
        (32, "bicubic", 16, "average"),
    ],
)
def test_batches_are_those_made_one_image_at_a_time(
    size, resize, crop, reduce, symmetries, resident, tiny_training, prepared_synthetic
):
    changes = {"symmetries": symmetries, "crop": crop, "low_res_reduce": reduce, "all_captions": crop != 16}
    training = tiny_training.replace(changes)
    data = DeviceData(prepared_synthetic, "train", torch.device("cpu"), resident)
    for step in (0, 5):
        batch = BatchSource(data, training, size, resize)(step)
        *views, text = one_by_one(prepared_synthetic, training, size, resize, step)
        assert torch.equal(batch.images, views[0])
        assert (batch.low_res is None) == (resize is None)
        assert batch.low_res is None or torch.equal(batch.low_res, views[1])
        assert torch.equal(batch.text.embeddings, text.embeddings)
        assert torch.equal(batch.text.mask, text.mask)


def test_captions_of_a_compiled_network_have_few_lengths(tiny_training, prepared_synthetic):
    compiled = tiny_training.replace({"hardware.compile": True})
    data = on_cpu(prepared_synthetic, "val")
    batches = [BatchSource(data, training, 32, "bilinear")(1) for training in (tiny_training, compiled)]
    length = batches[0].text.mask.shape[1]
    assert batches[1].text.mask.shape[1] == -(-length // 16) * 16
    assert torch.equal(batches[1].text.embeddings[:, :length], batches[0].text.embeddings)
    assert not batches[1].text.mask[:, length:].any()
    assert not batches[1].text.embeddings[:, length:].any()


def test_matrices_are_orthogonalized_together_as_each_alone():
    for shape in ((5, 3, 8), (5, 8, 3)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
        torch.testing.assert_close(orthogonalize(matrices), alone, rtol=0, atol=0.02)


def test_every_image_is_seen_once_an_epoch(tiny_training, prepared_synthetic):
    data = on_cpu(prepared_synthetic)
    source = BatchSource(data, tiny_training, 32, None)
    count = len(data.rows)
    seen = np.concatenate([source._rows(step) for step in range(count)])
    for epoch in range(8):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == sorted(data.rows)


def test_low_resolution_input_shows_the_same_place_as_the_image(tiny_training, prepared_synthetic):
    batch = BatchSource(on_cpu(prepared_synthetic), tiny_training, 64, "bilinear")(3)
    # The input is the image without its finest detail: it must be closer to its own image than to the others.
    distance = (batch.images[:, None] - batch.low_res[None]).square().mean((2, 3, 4))
    assert (distance.diagonal()[:, None] <= distance).float().mean() > 0.9


@given(st.integers(0, 7), st.integers(0, 7))
def test_symmetries_are_the_eight_of_the_square(a, b):
    image = torch.arange(3 * 4 * 4).view(3, 4, 4)
    assert torch.equal(dihedral(image, a), dihedral(image, b)) == (a == b)
    assert sorted(dihedral(image, a).flatten().tolist()) == sorted(image.flatten().tolist())


@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 100))
def test_orthogonalized_matrix_has_singular_values_near_one(rows, columns, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(s.clamp(min=0.1 * s[0])) @ v  # the iteration needs many rounds for tiny ones
    singular = torch.linalg.svdvals(orthogonalize(matrix[None])[0])
    assert singular.min() > 0.5
    assert singular.max() < 1.4


def test_weight_average_forgets_half_in_a_half_life():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, half_life=100)
    torch.nn.init.ones_(model.weight)
    for step in range(10):
        average.update(model, images_seen=10_000 + 10 * step, images=10)
    assert float(average.shadow["weight"]) == pytest.approx(0.5, abs=1e-6)
    with average.applied(model):
        assert model.weight.item() == pytest.approx(0.5, abs=1e-6)
    assert model.weight.item() == 1.0


def test_learning_rate_warms_up_holds_and_decays():
    rates = [learning_rate(step, 1.0, steps=100, warmup_steps=10, decay_steps=20) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_one_process_at_a_time_trains_in_a_folder(tiny_preset, prepared_synthetic, tmp_path):
    process = in_a_process(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=100000")
    metrics = tmp_path / "run/metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.err
        time.sleep(0.01)
    try:
        with pytest.raises(SatcascadeError, match="another process is training"):
            run(tiny_preset, prepared_synthetic, tmp_path / "run", "training.steps=100000")
    finally:
        process.kill()
