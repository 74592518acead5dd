"""The folder that a run lives in: what describes it, and what can be read back from it.

``run.json`` tells apart what a run *is* (``identity``: stage, network, data, and the settings that its
steps depend on), which must not change when it is resumed, from what merely belongs to it.
"""

from __future__ import annotations

import math
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from satcascade.config.preset import Preset, StageName
from satcascade.config.training import FREE_SECTIONS
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError, one_line
from satcascade.formats.training_run import RUN_FILE, VAE
from satcascade.io.files import atomic_folder
from satcascade.io.folders import DescribedFolder
from satcascade.io.json import damaged, read_json
from satcascade.models.codec import Codec, LatentCodec, PixelCodec, TinyAutoencoder
from satcascade.models.denoiser import Denoiser
from satcascade.models.registry import build_model
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.training.checkpoints import CheckpointFolder, read_weights
from satcascade.training.post_hoc_averages import averaged

_PACKAGES = ("satcascade", "torch", "diffusers", "transformers", "accelerate")


def open_run(
    out: Path,
    stage: StageName,
    settings: Preset,
    split: str,
    dataset: PreparedDataset,
    init_from: Path | str | None,
    codec: Codec,
) -> None:
    """Describe a run in its folder, or check that the folder's description is the same.

    Raises:
        UsageError: the folder holds another run (the first difference is named) or other files.
    """
    origin = None if init_from is None else Path(init_from).resolve().name
    identity = _identity(stage, settings, split, dataset.hash, origin, codec.fingerprint)
    folder = DescribedFolder(out, RUN_FILE, "run")

    def stored(description: dict[str, Any]) -> dict[str, Any]:
        # From the settings, so that one that a later version added is no difference at its default.
        known = {key: description["identity"].get(key) for key in ("stage", "split", "data", "init_from")}
        return _identity(
            known["stage"],
            Preset.model_validate(description["settings"]),
            known["split"],
            known["data"],
            known["init_from"],
            # Runs from before there were latents are of pixels.
            description["identity"].get("codec") or PixelCodec.fingerprint,
        )

    folder.check(identity, stored)
    description = {
        "identity": identity,
        "settings": settings.model_dump(mode="json"),
        "source": dataset.manifest["source"],
        "encoder": dataset.manifest["encoder"],
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "git": _git_state(),
    }
    folder.write(description)
    if isinstance(codec, LatentCodec) and not (out / VAE).exists():
        # So that a run is whole without the folder that its autoencoder came from.
        with atomic_folder(out / VAE) as aside:
            codec.vae.save_pretrained(str(aside))


def _git_state() -> dict[str, Any] | None:
    """Commit of the working folder, and whether tracked files have changed since; None outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _identity(
    stage: StageName, settings: Preset, split: str, data: str, init_from: str | None, codec: str
) -> dict[str, Any]:
    chosen = settings.stage(stage).model_dump(mode="json")
    return {
        "stage": stage,
        "preset": settings.name,
        "text_encoder": settings.text_encoder,
        "split": split,
        "data": data,
        "init_from": init_from,
        "codec": codec,
        "model": chosen["model"],
        "training": {key: value for key, value in chosen["training"].items() if key not in FREE_SECTIONS},
    }


@dataclass(frozen=True)
class TrainedStage:
    """What a run has made of a stage.

    Attributes:
        settings: the run's preset, overrides applied.
        encoder_fingerprint: of the text encoder whose embeddings it was trained on.
        model: the network, with the averaged weights.
        vae: the autoencoder whose latents it diffuses, where the run keeps it; None where that is pixels, or
            latents of a codec that is no autoencoder of ours.
        codec_fingerprint: of the codec whose latents it diffuses; None where that is pixels.
    """

    settings: Preset
    encoder_fingerprint: str
    model: Denoiser
    vae: TinyAutoencoder | None = None
    codec_fingerprint: str | None = None


@dataclass(frozen=True)
class CheckpointName:
    """Averaged weights of a run, as a user names them.

    Attributes:
        run: the run's folder.
        step: which checkpoint, milestone or snapshot; None where the name gives none.
        length: relative length of an average made of snapshots; None is the average of the checkpoint.
    """

    run: Path
    step: int | None = None
    length: float | None = None


def named_checkpoint(name: str | Path) -> CheckpointName:
    """What a name stands for.

    That is ``RUN``, ``RUN@STEP``, or ``RUN@best`` for what validation found best; after a step ``:LENGTH``
    asks for the average of that relative length (see :mod:`satcascade.training.post_hoc_averages`).

    Raises:
        UsageError: there is no such run or checkpoint.
        SatcascadeError: what describes the run is damaged.
    """
    text = str(name)
    run, at, which = text.rpartition("@")
    if not at or Path(text).is_dir():
        read_description(Path(text))
        return CheckpointName(Path(text))
    which, colon, given = which.partition(":")
    if (which != "best" and not which.isdecimal()) or (colon and not _is_number(given)):
        raise UsageError(
            f"'{text}' is no checkpoint: give RUN@STEP, such as {run}@1000, or {run}@best; {run}@1000:0.1 is "
            "an average of another length"
        )
    path = Path(run)
    read_description(path)
    folder = CheckpointFolder(path)
    step = folder.best() if which == "best" else int(which)
    if step is None:
        raise UsageError(f"{path} has no best checkpoint: train it with training.validation.every")
    if colon:
        return CheckpointName(path, step, float(given))
    steps = folder.averages()
    if step not in steps:
        there = f": it has {', '.join(map(str, steps))}" if steps else ""
        raise UsageError(f"{path} has no checkpoint of step {step}{there}")
    return CheckpointName(path, step)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def trained_stage(
    run: Path, stage: StageName, step: int | None = None, length: float | None = None
) -> TrainedStage:
    """The network of a run, with the averaged weights of a checkpoint.

    Args:
        run: the run's folder.
        stage: what the run must have trained.
        step: which checkpoint or milestone; by default the last checkpoint.
        length: make the average of that relative length out of the run's snapshots, up to that of ``step``
            (by default the last).

    Raises:
        UsageError: the folder is no run of that stage, or has no (such) checkpoint.
        SatcascadeError: the description or the checkpoint is damaged.
    """
    run = Path(run)
    description = read_description(run)
    trained = description["identity"]["stage"]
    if trained != stage:
        raise UsageError(f"{run} is a run of stage '{trained}', not '{stage}'")
    weights = _average(run, step) if length is None else averaged(run, length, step)
    settings = Preset.model_validate(description["settings"])
    model = build_model(settings.stage(stage).model)
    model.load_state_dict(weights)
    vae = LatentCodec.load(run / VAE).vae if (run / VAE).is_dir() else None
    codec = description["identity"].get("codec")
    return TrainedStage(
        settings,
        description["encoder"]["fingerprint"],
        model.eval(),
        vae,
        None if codec == PixelCodec.fingerprint else codec,
    )


def _average(run: Path, step: int | None) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint or milestone, by default of the last checkpoint."""
    checkpoints = CheckpointFolder(run)
    steps, averages = checkpoints.steps(), checkpoints.averages()
    if not steps and step is None:
        raise UsageError(f"{run} has no checkpoint yet")
    step = steps[-1] if step is None else step
    if step not in averages:
        raise UsageError(f"{run} has no checkpoint of step {step}: it has {', '.join(map(str, averages))}")
    return read_weights(averages[step], "ema")


def trained_network(origin: Path | str, stage: StageName) -> Denoiser:
    """The network of a run or of a saved cascade.

    Args:
        origin: a run of the stage, or a folder of runs of both (the averaged weights of the last
            checkpoint are taken); ``RUN@STEP`` and what else :func:`named_checkpoint` knows; or a saved
            cascade, by folder or name.
        stage: which network.

    Raises:
        UsageError: there is no such run or cascade, or it has no network of that stage.
        SatcascadeError: it is damaged.
    """
    runs = [folder for folder in (Path(origin), Path(origin) / stage) if (folder / RUN_FILE).exists()]
    if runs:
        return trained_stage(runs[0], stage).model
    if "@" in str(origin) and not Path(origin).is_dir():
        named = named_checkpoint(origin)
        return trained_stage(named.run, stage, named.step, named.length).model
    cascade = CascadePipeline.from_pretrained(origin)
    network: Denoiser | None = cascade.unet if stage == "base" else cascade.sr_unet
    if network is None:
        raise UsageError(f"{origin} has no network of stage '{stage}' to start from")
    return network


def initial_weights(origin: Path | str, stage: StageName, model: Denoiser) -> dict[str, Tensor]:
    """Weights for a run to start from.

    A network may start from one that lacks some of its parts, see
    :meth:`satcascade.models.denoiser.Denoiser.starting_weights`.

    Args:
        origin: as :func:`trained_network` takes it.
        stage: which network.
        model: the network that is to take them.

    Raises:
        UsageError: there is no such run or cascade, or its network is another one.
        SatcascadeError: it is damaged.
    """
    network = trained_network(origin, stage)
    weights = model.starting_weights(network.state_dict())
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            theirs, ours = given.get(name, "missing"), expected.get(name, "missing")
            raise UsageError(
                f"the {stage} network of {origin} is another one ({name} is {theirs}, here {ours}): "
                "choose the preset and model settings that it was made with"
            )
    for key, meant in model.meaning.items():
        before = network.meaning.get(key)
        if before != meant:
            raise UsageError(
                f"the {stage} network of {origin} has another {key} ({before}, here {meant}): set "
                f"{stage}.model.{key} to what it was trained with"
            )
    return weights


def read_description(run: Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        UsageError: the folder holds no run.
        SatcascadeError: the file is damaged.
    """
    remedy = "train into another folder"
    missing = UsageError(f"{run} holds no training run (it has no {RUN_FILE})")
    description = read_json(run / RUN_FILE, remedy, missing)
    try:
        Preset.model_validate(description["settings"])
        description["identity"]["stage"], description["encoder"]["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(run / RUN_FILE, one_line(error), remedy) from error
    return description
