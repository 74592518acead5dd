"""Where what was fetched or converted once is kept for the next time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder: ``SATCASCADE_CACHE``, or ``satcascade`` in the hub client's home."""
    chosen = os.environ.get("SATCASCADE_CACHE")
    if chosen:
        return Path(chosen)
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "satcascade"
