"""What describes a run of the autoencoder, and tells it from another one."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from satcascade.config.codec import CodecSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.files import written_whole
from satcascade.training.run_folder import PACKAGES, RUN_FILE, first_difference, git_state

# Settings that do not change the steps already done.
_FREE = ("log_every", "checkpoint_every", "checkpoint_minutes")
_FREE_OF_DECODER = ("steps", "decay_steps")


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
        SatcascadeError: the description is damaged.
    """
    path = out / RUN_FILE
    identity = {
        "stage": "codec",
        "split": split,
        "data": dataset.hash,
        "teacher": teacher,
        "encoder": encoder,
        "settings": _kept(settings),
    }
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before: dict[str, Any] = {key: content["identity"].get(key) for key in identity}
            if before["stage"] != "codec":
                raise UsageError(f"{out} is a run of stage '{before['stage']}': choose another folder")
            # From the settings, so that one that a later version added is no difference at its default.
            before["settings"] = _kept(CodecSettings.model_validate(content["settings"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SatcascadeError(f"{path} is damaged: train into another folder") from error
        difference = first_difference(before, identity)
        if difference:
            raise UsageError(
                f"{out} belongs to a run with other settings ({difference}): choose another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run: choose another folder")
    description = {
        "identity": identity,
        "settings": settings.model_dump(mode="json"),
        "source": dataset.manifest["source"],
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "git": git_state(),
    }
    with written_whole(path) as aside:
        aside.write_text(json.dumps(description, indent=1), encoding="utf-8")


def _kept(settings: CodecSettings) -> dict[str, Any]:
    """The settings that the steps done depend on."""
    content = settings.model_dump(mode="json")
    decoder = {key: value for key, value in content["decoder"].items() if key not in _FREE_OF_DECODER}
    return {key: value for key, value in content.items() if key not in _FREE} | {"decoder": decoder}
