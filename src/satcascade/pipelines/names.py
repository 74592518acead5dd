"""What a model may be called: known before torch is loaded, so that a wrong name is refused at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satcascade.errors import UsageError

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class NamedModel:
    """A model that goes by a name of its own.

    Attributes:
        names: what users may call it; messages give the first.
        label: what records call it.
        folder: gives its folder, of arguments of ``huggingface_hub.snapshot_download``.
    """

    names: tuple[str, ...]
    label: str
    folder: Callable[..., Path]


_NAMED: dict[str, NamedModel] = {}


def register_model(model: NamedModel) -> None:
    """Make a model known by its names to all that takes the name of a model."""
    _NAMED.update(dict.fromkeys(model.names, model))


def named_model(name: str) -> NamedModel | None:
    """The model that goes by a name, if there is one."""
    return _NAMED.get(name)


def model_names() -> list[str]:
    """The registered names, of a model with several the first."""
    return list(dict.fromkeys(named.names[0] for named in _NAMED.values()))


def check_model_name(model: str | Path) -> str:
    """Return the name of a model if there can be one of that name.

    Args:
        model: a registered name, a folder, or ``owner/name`` on the hub.

    Raises:
        UsageError: it is none of these.
    """
    name = str(model)
    if name in _NAMED or Path(name).is_dir() or _HUB_NAME.fullmatch(name):
        return name
    raise UsageError(
        f"unknown model '{name}': give {', '.join(model_names())}, the folder of a saved pipeline, or "
        "owner/name on the hub"
    )
