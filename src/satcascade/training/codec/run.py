"""A training run of the autoencoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from satcascade.config.codec import CodecSettings, load_codec_settings
from satcascade.data.latents import StoredLatents, encode_latents
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.hardware.devices import pick_device
from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.training.codec.pictures import teacher_pictures
from satcascade.training.codec.quality import evenly
from satcascade.training.codec.run_file import open_codec_run
from satcascade.training.codec.targets import TeacherTargets
from satcascade.training.codec.teacher import Teacher, TeacherCodec, load_teacher
from satcascade.training.codec.trainer import VAE, CodecTrainer
from satcascade.training.run import stop_signals


def train_codec(
    data: Path,
    out: Path,
    *,
    preset: str = "tiny",
    overrides: Sequence[str] = (),
    split: str = "train",
    teacher: Path | None = None,
    encoder: Path | None = None,
    device: str = "auto",
    minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train an autoencoder; called again on the same folder, resume where it stopped.

    Without a teacher the encoder is that of the images' principal components, in closed form. With one, it
    learns to give the teacher's latents, which are stored beside the prepared set first. SIGINT and SIGTERM
    end a run after the current step, with a checkpoint.

    Args:
        data: folder written by ``satcascade prepare``.
        out: the run's folder.
        preset: name or YAML file, see :func:`satcascade.config.codec.load_codec_settings`.
        overrides: ``decoder.steps=1000``.
        split: the rows to train on.
        teacher: folder of its weights (:mod:`satcascade.training.codec.teacher`).
        encoder: folder of an autoencoder whose encoder is kept, for a better decoder of the same latents;
            with the teacher that it imitates, for a decoder of the teacher's latents too.
        device: ``auto``, ``cpu``, ``cuda``.
        minutes: stop with a checkpoint after that many.
        quiet: show no progress.

    Returns:
        The folder of the autoencoder, ``RUN/vae``.

    Raises:
        UsageError: unknown settings, missing split, an encoder that imitates another teacher, or ``out``
            belongs to a run with other settings.
        SatcascadeError: damaged data, teacher or checkpoint, full disk, or a loss that is not finite.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    out = Path(out)
    settings = load_codec_settings(preset, overrides)
    dataset = PreparedDataset.open(data)
    rows = dataset.indices(split)
    where = pick_device(device)
    given = None if encoder is None else LatentCodec.load(encoder)
    taught_by = None if teacher is None else load_teacher(teacher, where)
    open_codec_run(
        out,
        settings,
        split,
        dataset,
        None if taught_by is None else taught_by.fingerprint,
        None if given is None else given.fingerprint,
    )
    targets = None
    if taught_by is not None:
        vae = None if given is None else given.vae
        targets = _teacher_targets(settings, out, taught_by, dataset, rows, vae, quiet)
    trainer = CodecTrainer(
        settings, dataset, rows, out, where, targets, None if given is None else given.vae, quiet
    )
    with trainer, stop_signals() as stopped:
        while not trainer.done and not stopped and (deadline is None or time.monotonic() < deadline):
            trainer.advance()
        trainer.save()
    return out / VAE


def _teacher_targets(
    settings: CodecSettings,
    out: Path,
    teacher: Teacher,
    dataset: PreparedDataset,
    rows: npt.NDArray[np.int64],
    encoder: TinyAutoencoder | None,
    quiet: bool,
) -> TeacherTargets:
    """The teacher's latents, and its pictures if they count, stored beside the set where they are not yet."""
    views, measured = settings.encoder.views, evenly(rows, settings.encoder.images)
    if encoder is not None and encoder.config.imitates is None:
        raise UsageError("the encoder given imitates no teacher: leave the teacher out")
    codec = TeacherCodec.kept(out, teacher, settings.model.encoder_reduction, dataset, measured, encoder)
    if encoder is not None and encoder.config.imitates != codec.fingerprint:
        raise UsageError(
            f"the encoder given imitates {encoder.config.imitates}, not {codec.fingerprint}: give the "
            "teacher of its training"
        )
    size = dataset.image_size
    encode_latents(dataset, codec, size, views, device=teacher.device, progress=not quiet)
    latents = StoredLatents.open(dataset, codec, size, views)
    pictures = teacher_pictures(codec, latents, not quiet) if settings.decoder.teacher_pictures else {}
    return TeacherTargets(codec, latents, views, pictures)
