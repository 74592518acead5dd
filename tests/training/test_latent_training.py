"""Training a stage that diffuses latents, stored or computed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from satcascade.data.latents import StoredLatents, encode_latents
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.codec import LatentCodec
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.training.assemble import assemble
from satcascade.training.batches import BatchSource
from satcascade.training.codec.teacher import TeacherCodec, load_teacher
from satcascade.training.device_data import DeviceData
from tiny_autoencoder import random_teacher
from tiny_codec import saved_codec, tiny_codec
from tiny_training import assert_same, in_a_process, run

SIDE, POSITIONS = 32, 8


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_codec(tmp_path_factory.mktemp("codec") / "vae")


@pytest.fixture(scope="module")
def data(
    prepared_synthetic: PreparedDataset, vae: str, tmp_path_factory: pytest.TempPathFactory
) -> PreparedDataset:
    """The prepared set with its latents."""
    path = tmp_path_factory.mktemp("latent") / "data"
    shutil.copytree(prepared_synthetic.path, path)
    dataset = PreparedDataset.open(path)
    encode_latents(dataset, LatentCodec.load(Path(vae)), SIDE, progress=False)
    return dataset


@pytest.fixture(scope="module")
def preset(tiny_preset: str, vae: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny preset with a base stage of latents."""
    content = yaml.safe_load(Path(tiny_preset).read_text())
    content["codec"] = vae
    content["base"]["model"] |= {"sample_size": POSITIONS, "in_channels": 4, "patch_size": 2}
    content["base"]["model"]["sigma_data"] = 1.0
    content["base"]["training"]["sample_every"] = 0
    path = tmp_path_factory.mktemp("preset") / "latent.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def source(data: PreparedDataset, settings: object, stored: bool) -> BatchSource:
    codec = tiny_codec()
    latents = StoredLatents.open(data, codec, SIDE, range(8)) if stored else None
    loaded = DeviceData(data, "train", torch.device("cpu"), latents=latents)
    return BatchSource(loaded, settings, SIDE, None, codec=codec)  # type: ignore[arg-type]


def test_stored_and_computed_latents_train_alike(data: PreparedDataset, preset: str) -> None:
    from satcascade.config.preset import load_preset

    training = load_preset(preset).base.training
    stored, computed = (source(data, training, kind)(3) for kind in (True, False))
    assert stored.images.shape == (training.batch_size, 4, POSITIONS, POSITIONS)
    # Stored as float16: eleven bits.
    torch.testing.assert_close(stored.images, computed.images, rtol=2**-11, atol=1e-6)
    assert torch.equal(stored.noise, computed.noise)
    assert torch.equal(stored.text.embeddings, computed.text.embeddings)


def test_crops_of_latents_are_cut_at_positions(data: PreparedDataset, preset: str) -> None:
    from satcascade.config.preset import load_preset

    training = load_preset(preset, ["base.training.crop=16"]).base.training
    batch = source(data, training, stored=True)(0)
    assert batch.images.shape[-1] == batch.noise.shape[-1] == 4
    with pytest.raises(UsageError, match="give a multiple"):
        source(data, training.replace({"augmentation.crop": 18}), stored=True)


def test_a_killed_run_resumes_exactly(data: PreparedDataset, preset: str, tmp_path: Path) -> None:
    expected = run(preset, data, tmp_path / "whole")
    process = in_a_process(preset, data, tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/step-0000004").exists():
        assert process.poll() is None, process.err
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert_same(run(preset, data, tmp_path / "run"), expected)


def test_validation_is_measured_on_latents(data: PreparedDataset, preset: str, tmp_path: Path) -> None:
    run(preset, data, tmp_path / "run", "training.validate_every=12", "training.validation_images=4")
    assert (tmp_path / "run/validation.jsonl").read_text().count("\n") == 1


def test_a_stage_on_a_teachers_latents_draws_as_it_trains(
    prepared_synthetic: PreparedDataset, preset: str, tmp_path: Path
) -> None:
    """By the teacher's own decoder: there may be no autoencoder yet."""
    teacher = load_teacher(random_teacher(tmp_path / "teacher"))
    TeacherCodec.kept(tmp_path, teacher, 2, prepared_synthetic, np.arange(4))
    codec = ["codec=" + str(tmp_path / "teacher.json"), "model.in_channels=32", "model.sample_size=4"]
    short = ["training.latents=computed", "training.steps=2", "training.decay_steps=0"]
    run(preset, prepared_synthetic, tmp_path / "run", *codec, *short, "training.sample_every=2")
    (grid,) = (tmp_path / "run/samples").iterdir()
    assert Image.open(grid).size == (64 * len(prepared_synthetic.indices("val")), 64)


def test_a_set_without_latents_is_refused(
    prepared_synthetic: PreparedDataset, preset: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has no latents of images of 32 px"):
        run(preset, prepared_synthetic, tmp_path / "run")
    run(preset, prepared_synthetic, tmp_path / "run", "training.latents=computed", "training.steps=1")


def test_a_run_of_another_codec_is_refused(data: PreparedDataset, preset: str, tmp_path: Path) -> None:
    run(preset, data, tmp_path / "run", "training.steps=4", "training.decay_steps=0")
    other = saved_codec(tmp_path / "vae", seed=1)
    encode_latents(data, LatentCodec.load(Path(other)), SIDE, progress=False)
    with pytest.raises(UsageError, match="codec was"):
        run(preset, data, tmp_path / "run", f"codec={other}")


def test_a_stage_of_other_channels_than_its_codec_is_refused(
    data: PreparedDataset, preset: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="in_channels is 3, its codec has 4"):
        run(preset, data, tmp_path / "run", "model.in_channels=3")


def test_a_folder_without_an_autoencoder_is_refused(
    data: PreparedDataset, preset: str, tmp_path: Path
) -> None:
    with pytest.raises(SatcascadeError, match="holds no whole autoencoder"):
        run(preset, data, tmp_path / "run", f"codec={tmp_path}")


def test_a_run_of_latents_becomes_a_pipeline_of_one_stage(
    data: PreparedDataset, preset: str, tmp_path: Path
) -> None:
    run(preset, data, tmp_path / "run", "training.sample_every=12")
    # The grid of pictures: eight of them, as large as the codec makes them.
    with Image.open(tmp_path / "run/samples/step-0000012.png") as grid:
        assert grid.height == SIDE
    # A better decoder of the same latents may take the place of the one that there was.
    better = tiny_codec().vae
    with torch.no_grad():
        next(iter(better.decoder.parameters())).mul_(1.5)
    for vae in (None, better):
        out = tmp_path / f"model-{vae is None}"
        made = assemble(tmp_path / "run", None, out, half=True, vae=vae)
        loaded = CascadePipeline.from_pretrained(out)
        assert loaded.sr_unet is None
        assert loaded.config.vae_fingerprint == tiny_codec().fingerprint
        images = [
            pipe("a pond", seeds=[3], output_type="pt", return_dict=False)[0] for pipe in (loaded, loaded)
        ]
        assert images[0].shape == (1, 3, SIDE, SIDE)
        assert torch.equal(*images)
        assert made.unet.dtype == torch.float16
    # So may one whose encoder imitates it.
    better.register_to_config(imitates=LatentCodec(better).fingerprint, latents_std=(1.0, 1.0, 1.0, 1.0))
    assert LatentCodec(better).fingerprint != tiny_codec().fingerprint
    assemble(tmp_path / "run", None, tmp_path / "imitated", vae=better)
    loaded = CascadePipeline.from_pretrained(tmp_path / "imitated")
    assert loaded.config.vae_fingerprint == tiny_codec().fingerprint
    shutil.rmtree(tmp_path / "run" / "vae")
    with pytest.raises(UsageError, match="keeps no autoencoder: give one that decodes them with --vae"):
        assemble(tmp_path / "run", None, tmp_path / "x")
    other = saved_codec(tmp_path / "other", seed=1)
    with pytest.raises(SatcascadeError, match="fingerprint"):
        assemble(tmp_path / "run", None, tmp_path / "x", vae=LatentCodec.load(Path(other)).vae)


def test_an_installation_without_its_autoencoder_is_told(
    data: PreparedDataset, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("satcascade.training.run.BUILTIN", tmp_path)
    with pytest.raises(UsageError, match="no built-in autoencoder: train one with 'satcascade train codec'"):
        run(preset, data, tmp_path / "run", "codec=builtin")
