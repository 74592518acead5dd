"""What describes a run of the autoencoder, and tells it from another one."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from satcascade.config.codec import CodecSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.formats.training_run import RUN_FILE
from satcascade.io.folders import DescribedFolder

# Settings that do not change the steps already done.
_FREE = ("log_every", "checkpoint_every", "checkpoint_minutes")
_FREE_OF_DECODER = ("steps", "decay_steps")
_PACKAGES = ("satcascade", "torch", "diffusers")


def open_codec_run(
    out: Path,
    settings: CodecSettings,
    split: str,
    dataset: PreparedDataset,
    teacher: str | None,
    encoder: str | None,
) -> None:
    """Describe a run in its folder, or check that the folder's description is the same.

    Args:
        out: the run's folder.
        settings: of the run.
        split: the rows it trains on.
        dataset: the prepared set.
        teacher: fingerprint of the teacher, if there is one.
        encoder: fingerprint of the encoder that was given, if there is one.

    Raises:
        UsageError: the folder holds another run (the first difference is named) or other files.
        SatcascadeError: the description is damaged, or the disk is full.
    """
    origin = {"split": split, "data": dataset.hash, "teacher": teacher, "encoder": encoder}

    def stored(description: dict[str, Any]) -> dict[str, Any]:
        identity = description["identity"]
        # From the settings, so that one that a later version added is no difference at its default.
        settings = (
            CodecSettings.model_validate(description["settings"]) if identity["stage"] == "codec" else None
        )
        return {**identity, "settings": None if settings is None else _kept(settings)}

    identity = {"stage": "codec", **origin}
    folder = DescribedFolder(out, RUN_FILE, "training run")
    folder.check({**identity, "settings": _kept(settings)}, stored)
    folder.write(
        {
            "identity": identity,
            "settings": settings.model_dump(mode="json"),
            "source": dataset.manifest["source"],
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        }
    )


def _kept(settings: CodecSettings) -> dict[str, Any]:
    """The settings that the steps done depend on."""
    content = settings.model_dump(mode="json")
    decoder = {key: value for key, value in content["decoder"].items() if key not in _FREE_OF_DECODER}
    return {key: value for key, value in content.items() if key not in _FREE} | {"decoder": decoder}
