"""JSON files: read with a one-line refusal of what is missing or damaged, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from satcascade.errors import SatcascadeError, one_line
from satcascade.io.files import atomic_write


def read_json(path: Path, remedy: str, missing: SatcascadeError | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file, UTF-8.
        remedy: what the user is to do about a damaged file, such as "use another folder".
        missing: the error to raise where there is no file; by default that counts as damage.

    Raises:
        SatcascadeError: the file cannot be read, is no JSON, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing or damaged(path, "it is missing", remedy) from error
    except (OSError, ValueError) as error:
        raise damaged(path, one_line(error), remedy) from error
    if not isinstance(content, dict):
        raise damaged(path, "it is no JSON object", remedy)
    return content


def write_json(path: Path, content: Mapping[str, Any], indent: int = 1, sort_keys: bool = False) -> None:
    """Write an object as UTF-8 JSON with a final line break; the file appears whole or not at all.

    Raises:
        SatcascadeError: the disk is full.
    """
    text = json.dumps(content, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    with atomic_write(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8", newline="\n")


def damaged(path: Path, fault: str, remedy: str) -> SatcascadeError:
    """The error to raise for a damaged file: where, what is wrong with it, and what to do."""
    return SatcascadeError(f"{path} is damaged ({fault}): {remedy}")
