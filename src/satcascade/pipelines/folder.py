"""The folder of a saved pipeline: on this disk, from the hub or of a known name; and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satcascade.errors import SatcascadeError, one_line
from satcascade.io.json import read_json
from satcascade.pipelines.names import check_model_name, named_model

if TYPE_CHECKING:
    import torch

MODEL_INDEX = "model_index.json"


@dataclass(frozen=True)
class ModelFolder:
    """Where a model is.

    Attributes:
        label: what records call it.
        path: its folder.
    """

    label: str
    path: Path


def model_folder(model: str | Path, **hub: Any) -> ModelFolder:
    """The folder of a model, fetched from the hub if need be (safetensors and JSON only).

    Args:
        model: as :func:`satcascade.pipelines.names.check_model_name` takes it.
        hub: arguments of ``huggingface_hub.snapshot_download``.

    Raises:
        UsageError: there can be no such model.
        SatcascadeError: the folder is no pipeline, or the hub cannot give it.
    """
    name = check_model_name(model)
    if named := named_model(name):
        return ModelFolder(named.label, named.folder(**hub))
    local = Path(name).is_dir()
    folder = Path(name) if local else _from_hub(name, hub)
    if not (folder / MODEL_INDEX).is_file():
        raise SatcascadeError(
            f"{name} is no saved pipeline (no {MODEL_INDEX}): 'satcascade assemble' makes one of two runs"
        )
    read_json(folder / MODEL_INDEX, "copy or download the model again")
    return ModelFolder(folder.resolve().name if local else name, folder)


def _from_hub(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"], **options))
    except Exception as error:  # the hub client and its transport raise many kinds
        raise SatcascadeError(
            f"there is no folder '{name}', and the hub did not give a model of that name "
            f"({type(error).__name__}): check name and connection, or give the folder of a saved pipeline"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the order of their paths within it."""
    return sorted(folder.rglob("*.safetensors"), key=lambda path: path.relative_to(folder).as_posix())


def check_weights(folder: Path) -> None:
    """Refuse a folder without weights, or with a file that is cut short.

    Raises:
        SatcascadeError: naming the file.
    """
    from safetensors import SafetensorError, safe_open

    files = weight_files(folder)
    if not files:
        raise SatcascadeError(
            f"model folder {folder} holds no weights (.safetensors): copy or download it again"
        )
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise SatcascadeError(
                f"weights file {path} is damaged ({one_line(error)}): copy or download it again"
            ) from error


def check_fit(folder: Path, network: torch.nn.Module) -> None:
    """Refuse weights that are not those of the network that was made of the configuration beside them.

    Without this, what a file lacks would stay at its random start, with no more than a warning.

    Args:
        folder: with ``config.json`` and safetensors files.
        network: as loaded from there.

    Raises:
        SatcascadeError: naming the first parameter that is missing, too many, or of another shape.
    """
    from safetensors import safe_open

    stored: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            stored |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            actual, needed = (shapes.get(name, "missing") for shapes in (stored, expected))
            raise SatcascadeError(
                f"weights in {folder} do not fit its config.json ({name} is {actual}, expected: {needed}): "
                "copy or download the model again"
            )


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Let diffusers load without progress bars."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
