"""Training runs: of one stage, or of both side by side."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from satcascade.config.preset import Preset, StageName, load_preset
from satcascade.data.latents import StoredLatents
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import MIRRORED, SYMMETRIES
from satcascade.errors import UsageError
from satcascade.formats.training_run import VAE
from satcascade.hardware.precision import compute_dtype
from satcascade.models.codec import PIXELS, Codec, LatentCodec
from satcascade.training.codec.teacher import TeacherCodec
from satcascade.training.device_data import DeviceData
from satcascade.training.processes import any_of
from satcascade.training.stage_trainer import StageTrainer
from satcascade.zoo import BUILTIN


def train(
    stages: Sequence[StageName],
    *,
    preset: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    split: str = "train",
    init_from: Path | str | None = None,
    device: str | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Train a stage of a cascade, or both; called again on the same folder, resume where it stopped.

    A resumed run sees the same data, noise and dropout as an uninterrupted one and ends with the same
    weights (on the same machine). SIGINT and SIGTERM end it after the current step, with a checkpoint.

    Two stages take their steps in turn, on the same images and captions (with the same seed and batch
    size); each has a run folder of its own inside ``out``, named after it.

    Args:
        stages: ``base``, ``sr`` or both.
        preset: name or YAML file, see :func:`satcascade.config.preset.load_preset`.
        data: folder written by ``satcascade prepare``.
        out: the run's folder.
        overrides: ``training.batch_size=16``, relative to each stage, or from the preset's top.
        split: the rows to train on.
        init_from: a run of the same network, whose averaged weights (of its last checkpoint) this one starts
            from, or a saved cascade of such networks; only read when the run begins.
        device: ``cpu`` forces the CPU; otherwise accelerate chooses.
        minutes: stop with a checkpoint after that many.
        quiet: show no progress.

    Returns:
        The folder of each stage's last checkpoint.

    Raises:
        UsageError: unknown preset or key, missing split, or ``out`` belongs to a run with other settings.
        SatcascadeError: damaged data or checkpoint, full disk, or a loss that is not finite.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    settings = load_preset(preset, [setting for given in overrides for setting in _from_top(stages, given)])
    dataset = PreparedDataset.open(data)
    for stage in stages:
        _check_encoder(settings, stage, dataset)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(_common(settings, stages, "precision"), chosen)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if dtype is torch.bfloat16 else "no",
        # Features of real images, computed once for validation, let the other processes wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )
    codec = open_codec(settings.codec, accelerator.device)
    _check_channels(settings, stages, codec)
    on_device = DeviceData(
        dataset,
        split,
        accelerator.device,
        _common(settings, stages, "hardware.resident"),
        stored_latents(settings, stages, dataset, codec),
    )
    trainers = [
        StageTrainer(
            stage,
            settings,
            on_device,
            Path(out) if len(stages) == 1 else Path(out) / stage,
            accelerator,
            dtype,
            init_from,
            # Two bars would fight for the terminal.
            quiet or stage != stages[0],
            codec,
        )
        for stage in stages
    ]
    with ExitStack() as entered:
        for trainer in trainers:
            entered.enter_context(trainer)
        stopped = entered.enter_context(stop_signals())
        while not all(trainer.done for trainer in trainers):
            # A killed run may have saved the one stage and not the other, which then catches up.
            behind = min(trainer.step for trainer in trainers if not trainer.done)
            for trainer in trainers:
                if trainer.step == behind and not trainer.done:
                    trainer.advance()
            overdue = any(trainer.overdue for trainer in trainers)
            stop, save = any_of(accelerator, bool(stopped) or _over(deadline), overdue)
            if save:
                for trainer in trainers:
                    trainer.save()
            if stop:
                break
        for trainer in trainers:
            trainer.save()
    return [trainer.checkpoint for trainer in trainers]


def _check_encoder(settings: Preset, stage: StageName, dataset: PreparedDataset) -> None:
    encoder = dataset.manifest["encoder"]
    expected = settings.stage(stage).model.text_dim
    if encoder["name"] != settings.text_encoder or encoder["dim"] != expected:
        raise UsageError(
            f"{dataset.path} holds embeddings of '{encoder['name']}' ({encoder['dim']} wide), preset "
            f"'{settings.name}' needs '{settings.text_encoder}' ({expected} wide): prepare it again with "
            f"--encoder {settings.text_encoder}"
        )


def open_codec(name: str, device: torch.device | str) -> Codec:
    """The codec that a preset names, on a device.

    Args:
        name: ``pixels``, ``builtin``, the folder of an autoencoder, or ``teacher.json`` of a run that trained
            one.
        device: where it computes.

    Raises:
        UsageError: the package has none, or no such file.
        SatcascadeError: the folder holds no autoencoder, or a damaged one.
    """
    if name == "pixels":
        return PIXELS
    if name == "builtin" and not (BUILTIN / VAE).is_dir():
        raise UsageError(
            "this installation has no built-in autoencoder: train one with 'satcascade train codec' and name "
            "its folder, codec=RUN/vae"
        )
    if name.endswith(".json"):
        return TeacherCodec.load(Path(name), device)
    return LatentCodec.load(BUILTIN / VAE if name == "builtin" else Path(name)).to(device)


def stored_latents(
    settings: Preset, stages: Sequence[StageName], dataset: PreparedDataset, codec: Codec
) -> StoredLatents | None:
    """The latents that the base stage is trained on, where they are to be stored ones.

    Raises:
        UsageError: they have not been made.
        SatcascadeError: they are damaged.
    """
    stage = settings.base
    if codec.factor == 1 or stage.training.hardware.latents == "computed" or "base" not in stages:
        return None
    symmetries = {True: range(SYMMETRIES), "flip": (0, MIRRORED), False: (0,)}[
        stage.training.augmentation.symmetries
    ]
    image_size = stage.training.augmentation.image_size or stage.model.sample_size * codec.factor
    return StoredLatents.open(dataset, codec, image_size, symmetries)


def _check_channels(settings: Preset, stages: Sequence[StageName], codec: Codec) -> None:
    channels = settings.base.model.channels
    if "base" in stages and channels != codec.channels:
        raise UsageError(
            f"base.model.in_channels is {channels}, its codec has {codec.channels} channels: set it to that"
        )


def _common(settings: Preset, stages: Sequence[StageName], name: str) -> Any:
    """A setting of training that all stages of a process share."""
    values = {attrgetter(name)(settings.stage(stage).training) for stage in stages}
    if len(values) > 1:
        raise UsageError(f"base.training.{name} and sr.training.{name} differ: set both to the same")
    return values.pop()


def _from_top(stages: Sequence[StageName], override: str) -> list[str]:
    relative = override.startswith(("model.", "training."))
    return [f"{stage}.{override}" for stage in stages] if relative else [override]


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    received: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, lambda number, _: received.append(number)) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
