"""What a model may be called: known before torch is loaded, so that a wrong name is refused at once."""

from __future__ import annotations

import re
from pathlib import Path

from satcascade.errors import UsageError

BUILTIN_NAMES = ("builtin", "compact")
RELEASED_NAME = "rsdiff"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_model_name(model: str | Path) -> str:
    """Return the name of a model if there can be one of that name.

    Args:
        model: ``builtin``, ``compact``, ``rsdiff``, a folder, or ``owner/name`` on the hub.

    Raises:
        UsageError: it is none of these.
    """
    name = str(model)
    known = (*BUILTIN_NAMES, RELEASED_NAME)
    if name in known or Path(name).is_dir() or _HUB_NAME.fullmatch(name):
        return name
    raise UsageError(
        f"unknown model '{name}': give builtin, rsdiff, the folder of a saved pipeline, or owner/name on the "
        "hub"
    )
