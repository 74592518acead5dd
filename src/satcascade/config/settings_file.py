"""Checked settings from YAML: read by name or from a file, single values overridden, errors in a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import ValidationError

from satcascade.config.section import Section
from satcascade.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

S = TypeVar("S", bound=Section)


def settings_names(folder: Traversable) -> list[str]:
    """Names of the settings that a folder of the package holds."""
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_settings(kind: type[S], what: str, name: str, overrides: Sequence[str], folder: Traversable) -> S:
    """Read settings by name, or from a YAML file, and apply overrides.

    Args:
        kind: of the settings.
        what: they are called in messages.
        name: of a file in ``folder`` without its ending, or a path that ends in ``.yaml``.
        overrides: ``section.key=value``.
        folder: of the package.

    Raises:
        UsageError: unknown name, unknown key, or a value of the wrong kind or range.
    """
    names = settings_names(folder)
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"no {what} file {path}")
        text = path.read_text(encoding="utf-8")
    elif name in names:
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise UsageError(f"unknown {what} '{name}': choose one of {', '.join(names)}, or a .yaml file")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{what} '{name}' is not YAML: {' '.join(str(error).split())}") from error
    for override in overrides:
        apply_override(content, override)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{what} '{name}': {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """The first problem of a validation error in one line, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    # Which architecture's keys were tried is no part of the key.
    places = [part for before, part in pairwise(("", *first["loc"])) if before != "model"]
    key = ".".join(str(part) for part in places)
    message = (
        "unknown key" if first["type"] == "extra_forbidden" else first["msg"][0].lower() + first["msg"][1:]
    )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"


def apply_override(content: Any, override: str) -> None:
    """Set ``section.key=value``, the value read as YAML, in what was read from a YAML file.

    Raises:
        UsageError: it is not of that form, or names no section.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override '{override}' is not of the form section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise UsageError(f"override '{key}' names no setting: '{sections[-1]}' is not a section")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"override '{override}' has a value that is not YAML") from error
