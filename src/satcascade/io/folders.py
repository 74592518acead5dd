"""Folders that say in a JSON file what they are, so that the same command resumes them and no other does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.io.json import damaged, read_json, write_json


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in two descriptions.

    Attributes:
        name: its keys from the outside in, joined by points.
        before: its value in the first description; None where it has none.
        now: its value in the second.
    """

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.before}, now {self.now}"


def first_difference(before: Any, now: Any, name: str = "") -> Difference | None:
    """The first setting, by name, in which two descriptions differ; None where they are the same.

    A setting that one of them lacks counts as None.
    """
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return None if before == now else Difference(name, before, now)
    differences = (
        first_difference(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        for key in sorted(before.keys() | now.keys())
    )
    return next((each for each in differences if each), None)


@dataclass(frozen=True)
class DescribedFolder:
    """A folder that describes itself in a JSON file, is made once, and refuses other settings.

    Attributes:
        path: the folder; it may be missing.
        file: name of the JSON file in it.
        content: what it holds, as in "holds no prepared set".
        words: how a difference is put in words.
        remedy: what the user is to do about a damaged description, or with other settings.
    """

    path: Path
    file: str
    content: str
    words: Callable[[Difference], str] = str
    remedy: str = "use another folder"

    @property
    def described(self) -> bool:
        """Whether the folder holds a description."""
        return (self.path / self.file).is_file()

    def read(self) -> dict[str, Any]:
        """The description.

        Raises:
            UsageError: there is none.
            SatcascadeError: it is damaged.
        """
        missing = UsageError(f"{self.path} holds no {self.content} (it has no {self.file})")
        return read_json(self.path / self.file, self.remedy, missing)

    def check_new(self, ours: Collection[str] = ()) -> None:
        """Refuse a folder of other files; one that has a description, or only hidden files, is none.

        Args:
            ours: names of files that may be there before the description is.

        Raises:
            UsageError: the folder has no description and holds other files, or is a file.
        """
        if not self.path.exists() or self.described:
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is a file: give a folder")
        if any(not entry.name.startswith(".") and entry.name not in ours for entry in self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty and holds no {self.content}: use another folder")

    def check(
        self, now: Mapping[str, Any], stored: Callable[[dict[str, Any]], Mapping[str, Any]] = dict
    ) -> dict[str, Any] | None:
        """Refuse the folder, unless it is new or was made with the same settings.

        Args:
            now: the settings.
            stored: takes from the folder's description what ``now`` is compared with; by default all of it.

        Returns:
            The folder's description; None where it has none yet.

        Raises:
            UsageError: it was made with other settings (the first difference is named), or holds other files.
            SatcascadeError: its description is damaged.
        """
        self.check_new()
        if not self.described:
            return None
        description = self.read()
        try:
            difference = first_difference(stored(description), now)
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(error) from error
        if difference:
            raise UsageError(
                f"{self.path} was made with other settings ({self.words(difference)}): "
                f"use the same, or {self.remedy}"
            )
        return description

    def write(self, description: Mapping[str, Any], indent: int = 1, sort_keys: bool = False) -> None:
        """Write the description; it appears whole, and replaces an earlier one.

        Raises:
            SatcascadeError: the disk is full.
        """
        write_json(self.path / self.file, description, indent, sort_keys)

    def damaged(self, error: Exception) -> SatcascadeError:
        """The error to raise where what the description says is not what it ought to."""
        return damaged(self.path / self.file, one_line(error), self.remedy)
