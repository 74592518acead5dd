"""A model folder to a repository on the hub: what goes there, and in one commit or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.formats.generated_folder import GRID
from satcascade.formats.report import METRICS
from satcascade.pipelines.folder import check_weights, model_folder
from satcascade.publishing.card import CARD, Measurements, model_card

_PICTURES = "pictures"
_SUFFIXES = {".json", ".safetensors"}
_PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class Upload:
    """What goes to a repository.

    Attributes:
        repository: ``owner/name`` on the hub.
        files: by their paths in the repository: the file on this disk, or the text that is written.
    """

    repository: str
    files: dict[str, Path | str]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by its path in the repository."""
        return {
            name: len(content.encode()) if isinstance(content, str) else content.stat().st_size
            for name, content in self.files.items()
        }


def plan_upload(
    model: str,
    repository: str,
    licence: str = "other",
    metrics: Path | None = None,
    pictures: Sequence[Path] = (),
) -> Upload:
    """What of a model would go to the hub; nothing is sent or written.

    Args:
        model: as :func:`satcascade.pipelines.names.check_model_name` takes it.
        repository: ``owner/name``.
        licence: for the card, where the folder has none.
        metrics: a report of ``satcascade evaluate``, or a file of numbers; by default that in the model's
            folder, if there is one.
        pictures: picture files, or generated folders, of which the contact sheet is taken.

    Raises:
        UsageError: there can be no such model or repository, or no such metrics or pictures.
        SatcascadeError: the model is damaged.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"'{repository}' is no name on the hub: give owner/name") from error
    if repository.count("/") != 1:
        raise UsageError(f"'{repository}' is no name on the hub: give owner/name")
    folder = model_folder(model).path
    check_weights(folder)
    files: dict[str, Path | str] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and path.suffix in _SUFFIXES and not hidden:
            files[inside.as_posix()] = path
    shown = {
        f"{_PICTURES}/{number}{path.suffix}": path for number, path in enumerate(map(_picture, pictures))
    }
    numbers = metrics or (folder / METRICS if (folder / METRICS).is_file() else None)
    measured = None if numbers is None else Measurements.read(numbers)
    card = model_card(folder, repository, licence, measured, list(shown))
    return Upload(repository, {CARD: card, **files, **shown})


def _picture(path: Path) -> Path:
    file = path / GRID if path.is_dir() else path
    if not file.is_file() or file.suffix.lower() not in _PICTURE_SUFFIXES:
        raise UsageError(
            f"no picture {file}: give a PNG, JPEG or WebP file, or a folder made by 'satcascade sample'"
        )
    return file


def push(upload: Upload, private: bool = False) -> str:
    """Make the repository if need be, and put the files there in one commit.

    Args:
        upload: what goes.
        private: of a repository that is made now; one that is there stays as it is.

    Returns:
        Its address.

    Raises:
        SatcascadeError: there is no login, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise SatcascadeError("no login to the hub: 'hf auth login', or set HF_TOKEN, and push again")
    operations = [
        CommitOperationAdd(name, content.encode() if isinstance(content, str) else content)
        for name, content in upload.files.items()
    ]
    api = HfApi()
    try:
        address = api.create_repo(upload.repository, private=private, exist_ok=True)
        api.create_commit(upload.repository, operations, commit_message="Upload by satcascade")
    except Exception as error:  # the hub client and its transport raise many kinds
        raise SatcascadeError(
            f"the hub did not take {upload.repository} ({type(error).__name__}: {one_line(error)[:120]}): "
            "check login, name and connection, and push again"
        ) from error
    return str(address)
