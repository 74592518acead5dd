"""``satcascade train codec``: exact when resumed, equivariant encoders, refusals in a line."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from satcascade.cli import main
from satcascade.config.codec import DecoderTraining, codec_names, load_codec_settings
from satcascade.data.latents import StoredLatents, encode_latents
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import SYMMETRIES, dihedral, to_float
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.codec.components import patch_components, set_decoder, set_encoder
from satcascade.training.codec.critic import Critic, adversarial_gradient, critic_loss
from satcascade.training.codec.crops import Crops, draw_crops
from satcascade.training.codec.features import FeatureTargets, feature_loss
from satcascade.training.codec.losses import decoder_loss, reconstruction_loss, texture_error
from satcascade.training.codec.pictures import teacher_pictures
from satcascade.training.codec.targets import TeacherTargets
from satcascade.training.codec.teacher import TeacherCodec, load_teacher
from satcascade.training.run import open_codec
from tiny_autoencoder import TAUGHT, in_a_process, random_teacher, settings_file, trained
from tiny_training import assert_same

# Too narrow to begin as the inverse of the encoder, so that there is something to learn in a few steps.
NARROW = ("model.decoder_block_out_channels=[12]", "decoder.learning_rate=0.01")


@pytest.fixture
def preset(tmp_path: Path) -> str:
    return settings_file(tmp_path)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_teacher(tmp_path_factory.mktemp("teachers") / "one")


def last(run: Path) -> Path:
    folder = CheckpointFolder(run)
    return folder.folder(folder.steps()[-1])


def killed_after(
    step: int, preset: str, data: PreparedDataset, out: Path, teacher: Path | None, *more: str
) -> None:
    """Start a run in a process and kill it when the checkpoint of a step is there."""
    process = in_a_process(preset, data, out, teacher, *more)
    while step not in CheckpointFolder(out).steps():
        assert process.poll() is None, process.err
        time.sleep(0.01)
    process.kill()


def images_of(data: PreparedDataset, count: int = 4) -> torch.Tensor:
    return to_float(torch.from_numpy(np.array(data.images[:count])), data.image_size)


def test_components_invert_and_turn_with_the_image(prepared_synthetic):
    data = prepared_synthetic
    components = patch_components(data.images, data.indices("train"), 4, 48)
    torch.testing.assert_close(components.basis.T @ components.basis, torch.eye(48, dtype=torch.float64))
    assert (components.deviations.diff() <= 1e-9).all()
    vae = TinyAutoencoder(4, 4, [48], [96], [0], [2], 48)
    for spectrum in (0.0, 0.5):
        set_encoder(vae, components, spectrum)
        set_decoder(vae, components, spectrum)
        codec, images = LatentCodec(vae), images_of(data)
        latents = codec.encode(images)
        # All 48 components of 4 x 4 patches: nothing is lost but by the decoder's tanh.
        assert (codec.decode(latents) - images).abs().max() < 0.02
        deviations = latents.std((0, 2, 3))
        assert deviations[0] > 2 * deviations[20] if spectrum else deviations.max() < 3 * deviations.min() + 1
        for symmetry in range(SYMMETRIES):
            turned = codec.encode(dihedral(images, symmetry).contiguous()).abs().mean((0, 2, 3)).sort().values
            expected = dihedral(latents, symmetry).abs().mean((0, 2, 3)).sort().values
            torch.testing.assert_close(turned, expected, rtol=1e-3, atol=1e-4)


def test_run_makes_a_codec_that_reconstructs_better(prepared_synthetic, preset, tmp_path):
    short, longer = (
        LatentCodec.load(
            trained(
                preset,
                prepared_synthetic,
                tmp_path / str(steps),
                f"decoder.steps={steps}",
                *NARROW,
            )
        )
        for steps in (1, 40)
    )
    assert short.fingerprint == longer.fingerprint
    images = images_of(prepared_synthetic)
    before, after = ((codec.decode(codec.encode(images)) - images).abs().mean() for codec in (short, longer))
    assert after < before
    rows = [json.loads(line) for line in (tmp_path / "40" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))
    # It is stored as float16 holds it, so that a smaller copy has the same latents.
    for parameter in longer.vae.encoder.parameters():
        assert torch.equal(parameter, parameter.half().float())


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_killed_run_ends_as_the_uninterrupted_one(prepared_synthetic, preset, teacher, tmp_path, taught):
    given = {"teacher": teacher if taught else None}
    more = (*TAUGHT, "checkpoint_every=1") if taught else ("checkpoint_every=1",)
    whole = trained(preset, prepared_synthetic, tmp_path / "whole", *more, **given)
    out = tmp_path / "killed"
    for step in (3, 8) if taught else (5,):
        killed_after(step, preset, prepared_synthetic, out, given["teacher"], *more)
    vae = trained(preset, prepared_synthetic, out, *more, **given)
    assert_same(last(tmp_path / "whole"), last(out))
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (whole / name).read_bytes() == (vae / name).read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_teacher_is_imitated_then_frozen(prepared_synthetic, preset, teacher, tmp_path):
    out = tmp_path / "run"
    trained(
        preset,
        prepared_synthetic,
        out,
        *TAUGHT,
        "encoder.steps=30",
        "encoder.learning_rate=0.003",
        teacher=teacher,
    )
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[25:30]) < np.mean(losses[:5])
    codec = LatentCodec.load(out / "vae")
    taught = TeacherCodec.kept(out, load_teacher(teacher), 2, prepared_synthetic, np.arange(0))
    assert codec.vae.config.imitates == taught.fingerprint
    assert codec.factor == taught.factor == 16
    # Both are normalised alike, so that a decoder can be given the latents of either.
    assert codec.vae.config.latents_mean == taught.mean.tolist()
    assert codec.vae.config.latents_std == taught.std.tolist()
    images = images_of(prepared_synthetic, 1)
    stored = StoredLatents.open(prepared_synthetic, taught, 64, (0, 7))
    for view, latents in stored.views.items():
        expected = taught.encode(dihedral(images, view).contiguous())
        torch.testing.assert_close(torch.tensor(latents[:1]).float(), expected, atol=2e-3, rtol=2e-3)


def test_teacher_has_unit_latents_and_enlarges(prepared_synthetic, teacher, tmp_path):
    loaded, rows = load_teacher(teacher), np.arange(16)
    codec = TeacherCodec.kept(tmp_path, loaded, 2, prepared_synthetic, rows)
    turned = [
        dihedral(image, number % SYMMETRIES) for number, image in enumerate(images_of(prepared_synthetic, 16))
    ]
    latents = codec.encode(torch.stack(turned))
    assert latents.shape == (16, 32, 4, 4)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3), correction=0), torch.ones(32), atol=1e-4, rtol=0)
    assert codec.decode(latents).shape == (16, 3, 64, 64)
    again = TeacherCodec.kept(tmp_path, loaded, 2, prepared_synthetic, rows[:1])
    assert again.fingerprint == codec.fingerprint
    assert TeacherCodec(loaded, 1, codec.mean, codec.std).fingerprint != codec.fingerprint
    opened = open_codec(str(tmp_path / "teacher.json"), "cpu")
    assert opened.fingerprint == codec.fingerprint
    assert torch.equal(
        opened.encode(images_of(prepared_synthetic)), codec.encode(images_of(prepared_synthetic))
    )
    (tmp_path / "teacher.json").write_text('{"mean": [1.0], "std": [1.0]}')
    with pytest.raises(SatcascadeError, match="has not 32 means and deviations"):
        TeacherCodec.kept(tmp_path, loaded, 2, prepared_synthetic, rows)


def test_pairs_show_the_same_place(prepared_synthetic, teacher, tmp_path):
    """A crop's latents are those of the crop's place in the turned image."""
    codec = TeacherCodec.kept(tmp_path, load_teacher(teacher), 2, prepared_synthetic, np.arange(4))
    views = {
        number: np.arange(3 * 32 * 16, dtype=np.float16).reshape(3, 32, 4, 4) + 0 * number
        for number in (0, 3)
    }
    pictures = {
        number: np.random.default_rng(number).integers(0, 255, (3, 32, 32, 3), np.uint8) for number in views
    }
    targets = TeacherTargets(codec, StoredLatents(tmp_path, (32, 4, 4), views), (0, 3), pictures)
    crops = Crops(np.array([0, 2]), torch.tensor([[16, 32], [0, 16]]), torch.tensor([0, 3]), 16)
    rows = np.array([0, 1, 2])
    taught = targets.of(prepared_synthetic, rows, crops, torch.device("cpu"))
    source = images_of(prepared_synthetic, 3)
    assert torch.equal(taught.images[0], source[0, :, 16:32, 32:48])
    assert torch.equal(taught.images[1], dihedral(source[2], 3)[:, :16, 16:32])
    assert np.array_equal(taught.latents[0], views[0][0, :, 1:2, 2:3])
    assert np.array_equal(taught.latents[1], views[3][2, :, :1, 1:2])
    # The teacher draws at half the size.
    assert taught.pictures is not None
    levels = ((taught.pictures + 1) * 127.5).round().byte().movedim(1, -1)
    assert np.array_equal(levels[0], pictures[0][0, 8:16, 16:24])
    assert np.array_equal(levels[1], pictures[3][2, :8, 8:16])


def test_teachers_pictures_are_made_once_and_resumed(prepared_synthetic, teacher, tmp_path, monkeypatch):
    codec = TeacherCodec.kept(tmp_path / "run", load_teacher(teacher), 2, prepared_synthetic, np.arange(4))
    encode_latents(prepared_synthetic, codec, 64, (0, 3), progress=False)
    latents = StoredLatents.open(prepared_synthetic, codec, 64, (0, 3))
    own, calls = TeacherCodec.decode_own, []

    def decode_own(self: TeacherCodec, normalised: torch.Tensor) -> torch.Tensor:
        calls.append(len(normalised))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(self, normalised)

    monkeypatch.setattr(TeacherCodec, "decode_own", decode_own)
    with pytest.raises(KeyboardInterrupt):
        teacher_pictures(codec, latents, progress=False)
    pictures = teacher_pictures(codec, latents, progress=False)
    # Two batches of the first view were there.
    assert calls == [8] * (3 + 3 + 5)
    assert teacher_pictures(codec, latents, progress=False).keys() == {0, 3}
    assert len(calls) == 11
    for view, found in pictures.items():
        assert found.shape == (len(prepared_synthetic), 32, 32, 3)
        expected = codec.decode_own(torch.tensor(latents.views[view][16:24]).float())
        assert np.array_equal(found[16:24], ((expected + 1) * 127.5).round().byte().movedim(1, -1))
    path = latents.path / "decoded-3.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SatcascadeError, match=r"decoded-3\.npy is damaged or cut short"):
        teacher_pictures(codec, latents, progress=False)


def test_loss_of_a_decoder_that_draws_what_the_teacher_does():
    settings = DecoderTraining(steps=1, learning_rate=1.0, teacher_pictures=2.0)
    real, taught = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    pictures = torch.nn.functional.avg_pool2d(taught, 2)
    alone = decoder_loss(taught, real, None, settings)
    assert torch.equal(decoder_loss(taught, real, pictures, settings), alone)
    grey = torch.zeros_like(pictures)
    beside = reconstruction_loss(pictures, grey, settings.gradient_weight)
    torch.testing.assert_close(decoder_loss(taught, real, grey, settings), alone + 2 * beside)


def test_blocks_follow_the_teachers_of_their_level(teacher):
    taught = load_teacher(teacher)
    vae = TinyAutoencoder(4, 4, [8, 8], [64, 64], [0, 0], [3, 2], 32)
    own, theirs = vae.decoder.layers, taught.decoder_layers
    # Without the branch that is normalised over the image the teacher's blocks are those of an autoencoder.
    for layer in theirs:
        if getattr(layer, "pool", None) is not None:
            layer.pool[-1].weight.zero_()
    features = FeatureTargets(vae, taught)
    latents = torch.randn(2, 32, 4, 4)

    def missed() -> float:
        with features.recorded() as outputs:
            vae.decode(latents)
        assert [output.shape[-1] for output in outputs] == [4, 4, 4, 8, 8]
        return float(feature_loss(outputs, features.of(latents)).detach())

    assert missed() > 0.5
    # Their places in the two networks; the last block is one more than the teacher has there.
    for place, other in ((0, 1), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)):
        own[place].load_state_dict(theirs[other].state_dict(), strict=False)
    assert missed() < 1e-8


def test_features_are_missed_by_a_share_of_their_variance():
    targets = [torch.randn(4, 8, 16, 16), 100 * torch.randn(4, 8, 8, 8)]
    means = [target.mean((0, 2, 3), keepdim=True).expand_as(target) for target in targets]
    assert feature_loss(targets, targets) == 0
    torch.testing.assert_close(feature_loss(means, targets), torch.tensor(1.0), rtol=0.01, atol=0)


def test_texture_counts_by_its_ratio_and_not_by_its_place():
    torch.manual_seed(0)
    texture = torch.rand(2, 3, 64, 64) - 0.5
    for amount in (2.0, 0.6):
        real = amount * texture
        assert texture_error(real, real) == 0
        # Half as much is the logarithm of 2 short, whether it is strong or faint, and blur too.
        assert 0.5 < texture_error(real / 2, real) < 0.7
        blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2)
        assert texture_error(blurred, real) > 0.6
    # The same texture elsewhere is as good.
    elsewhere = texture.roll((8, 8), (2, 3))
    assert texture_error(elsewhere, texture) < 0.15
    # Crops too small for a scale leave it out.
    assert texture_error(texture[..., :32, :32] / 2, texture[..., :32, :32]) > 0.5


def test_critic_tells_pictures_apart_and_pulls_at_them():
    torch.manual_seed(0)
    critic = Critic(latent_channels=4)
    optimizer = torch.optim.AdamW(critic.parameters(), 1e-3, betas=(0.5, 0.99))
    # Pictures of one mean: only a faint texture tells them apart.
    real, made = 0.1 * torch.randn(4, 3, 64, 64), torch.zeros(4, 3, 64, 64)
    latents = torch.randn(4, 4, 8, 8)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = critic_loss(critic, real, made, latents)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert losses[-1] < 0.2
    beside = torch.randn(4, 3, 64, 64)
    before = copy.deepcopy(critic.state_dict())
    gradient = adversarial_gradient(critic, made, latents, beside)
    torch.testing.assert_close(gradient.norm(), beside.norm())
    scores, after = (critic(picture, latents) for picture in (made, made - 0.1 * gradient))
    assert sum(map(torch.mean, after)) > sum(map(torch.mean, scores))
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())


def test_a_better_decoder_for_the_same_latents(prepared_synthetic, preset, tmp_path):
    first = trained(preset, prepared_synthetic, tmp_path / "first", "decoder.steps=1")
    second = trained(
        preset, prepared_synthetic, tmp_path / "second", "seed=1", "decoder.steps=9", encoder=first
    )
    one, two = LatentCodec.load(first), LatentCodec.load(second)
    assert one.fingerprint == two.fingerprint
    assert any(
        not torch.equal(a, b)
        for a, b in zip(one.vae.decoder.parameters(), two.vae.decoder.parameters(), strict=True)
    )
    with pytest.raises(UsageError, match="the encoder given has another shape"):
        trained(preset, prepared_synthetic, tmp_path / "third", "model.latent_channels=6", encoder=first)


@pytest.mark.slow
def test_a_decoder_of_the_teachers_latents_for_an_encoder_that_is_there(
    prepared_synthetic, preset, teacher, tmp_path
):
    first = trained(preset, prepared_synthetic, tmp_path / "first", *TAUGHT, teacher=teacher)
    # Of other images than the encoder's: its statistics are taken with it.
    shape = ("model.decoder_enlargement=2", "model.decoder_patch_size=8", "encoder.images=3")
    others = {}
    for name, share in (("theirs", 1.0), ("own", 0.0)):
        more = (*shape, "decoder.optimizer=muon", f"decoder.teacher_latents={share}", "decoder.steps=12")
        out = tmp_path / name
        made = trained(preset, prepared_synthetic, out, *TAUGHT, *more, teacher=teacher, encoder=first)
        others[name] = LatentCodec.load(made)
        losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        # No step is the encoder's.
        assert len(losses) == 12
    for codec in others.values():
        assert codec.fingerprint == LatentCodec.load(first).fingerprint
        assert codec.decode(codec.encode(images_of(prepared_synthetic))).shape[-1] == 64
    theirs, own = (codec.vae.decoder.state_dict() for codec in others.values())
    assert any(not torch.equal(theirs[name], own[name]) for name in own)


def test_other_runs_are_refused_with_the_difference(prepared_synthetic, preset, teacher, tmp_path):
    out = tmp_path / "run"
    trained(preset, prepared_synthetic, out)
    trained(preset, prepared_synthetic, out, "decoder.steps=9", "checkpoint_every=2")
    with pytest.raises(UsageError, match=r"other settings \(settings\.crop was 32, now 64\)"):
        trained(preset, prepared_synthetic, out, "crop=64")
    with pytest.raises(UsageError, match=r"\(teacher was None, now [0-9a-f]{16}\)"):
        trained(preset, prepared_synthetic, out, teacher=teacher)
    taught = tmp_path / "taught"
    trained(preset, prepared_synthetic, taught, *TAUGHT, teacher=teacher)
    other = random_teacher(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"\(teacher was [0-9a-f]{16}, now [0-9a-f]{16}\)"):
        trained(preset, prepared_synthetic, taught, *TAUGHT, teacher=other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is not empty and holds no training run"):
        trained(preset, prepared_synthetic, tmp_path / "full")


def test_settings_and_teachers_that_do_not_fit(prepared_synthetic, preset, teacher, tmp_path):
    def refused(
        message: str, *overrides: str, error: type[SatcascadeError] = UsageError, **given: Path
    ) -> None:
        with pytest.raises(error, match=message):
            trained(preset, prepared_synthetic, tmp_path / f"run {message}", *overrides, **given)

    refused("crops of 80 px are not possible with images of 64 px", "crop=80")
    refused("an encoder of principal components has", "model.num_encoder_blocks=[1]")
    refused("the encoder reduces by 8, the decoder enlarges by 4", "model.decoder_patch_size=4")
    refused("decoder.step: unknown key", "decoder.step=1")
    refused("noise_low .* is above noise_high", "decoder.noise_low=1")
    refused("these settings learn from a teacher", *TAUGHT)
    refused("crops of 16 px show no texture: set crop to 18 px or more", "crop=16")
    refused("needs blocks of 64 channels", *TAUGHT, "model.decoder_block_out_channels=[32]", teacher=teacher)
    refused("encoder.steps, which is 0", *TAUGHT, "encoder.steps=0", teacher=teacher)
    refused(
        "32 channels at 1/16 of the side, the settings 8", *TAUGHT, "model.latent_channels=8", teacher=teacher
    )
    refused("no teacher in", *TAUGHT, teacher=tmp_path)
    taught = trained(preset, prepared_synthetic, tmp_path / "taught", *TAUGHT, teacher=teacher)
    other = random_teacher(tmp_path / "other", seed=1)
    refused("the encoder given imitates [0-9a-f]{16}, not", *TAUGHT, teacher=other, encoder=taught)
    untaught = trained(preset, prepared_synthetic, tmp_path / "untaught", "decoder.steps=1")
    refused("the encoder given imitates no teacher", *TAUGHT, teacher=teacher, encoder=untaught)
    damaged = random_teacher(tmp_path / "damaged")
    weights = load_file(damaged / "decoder.safetensors")
    save_file(
        {key: value for key, value in weights.items() if key != "1.bias"}, damaged / "decoder.safetensors"
    )
    refused("no weights of TAEF2", *TAUGHT, error=SatcascadeError, teacher=damaged)
    with pytest.raises(UsageError, match="unknown codec settings 'none': choose one of taught, tiny"):
        load_codec_settings("none")


def test_teacher_is_checked_against_its_recording(teacher, tmp_path):
    folder = random_teacher(tmp_path / "recorded")
    image = torch.rand(1, 3, 16, 16)
    made = load_teacher(folder)
    latent = made.encode(image * 2 - 1)
    recorded = {"image": image, "latent": latent.contiguous()}
    recorded["decoded"] = ((made.decode(latent) + 1) / 2).contiguous()
    save_file(recorded, folder / "recording.safetensors")
    load_teacher(folder)
    save_file(recorded | {"latent": recorded["latent"] + 1}, folder / "recording.safetensors")
    with pytest.raises(SatcascadeError, match=r"does not give what recording\.safetensors holds"):
        load_teacher(folder)


def test_loss_that_is_not_finite_ends_the_run(prepared_synthetic, preset, tmp_path):
    out = tmp_path / "run"
    trained(preset, prepared_synthetic, out, "decoder.steps=3")
    folder = CheckpointFolder(out)
    good = folder.load(3)
    good.model["decoder.layers.0.weight"].fill_(float("nan"))
    folder.save(type(good)(4, good.model, good.ema, good.optimizer))
    with pytest.raises(
        SatcascadeError, match=r"not finite at step 5; the last good checkpoint is .*step-0000004"
    ):
        trained(preset, prepared_synthetic, out)


def test_crops_depend_on_seed_and_step_alone():
    settings = load_codec_settings("tiny")
    one, same, other = (draw_crops(settings, step, 50, 256) for step in (7, 7, 8))
    assert torch.equal(one.corners, same.corners)
    assert np.array_equal(one.places, same.places)
    assert not torch.equal(one.corners, other.corners)
    aligned = draw_crops(settings, 7, 50, 256, align=8, views=(0, 7))
    assert not (aligned.corners % 8).any()
    assert set(aligned.symmetries.tolist()) <= {0, 7}
    assert codec_names() == ["taught", "tiny"]


def test_command_trains_and_says_where(prepared_synthetic, preset, tmp_path, capsys):
    def told(*more: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["train", "codec", *more])
        return ended.value.code, *capsys.readouterr()

    run = tmp_path / "run"
    command = [f"--data={prepared_synthetic.path}", f"--out={run}", f"--preset={preset}", "--device=cpu"]
    status, out, progress = told(*command)
    assert (status, out) == (0, f"autoencoder in {run / 'vae'}\n")
    assert "step 8: PSNR of 4 validation images" in progress
    status, _, error = told(*command, "--set=crop=64", "--quiet")
    assert status == 2
    assert error == (
        f"error: {run} was made with other settings (settings.crop was 32, now 64): use the same, or use "
        "another folder\n"
    )
    status, out, _ = told("--help")
    assert status == 0
    assert "train codec [OPTIONS]" in out
