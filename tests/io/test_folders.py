"""Folders that describe themselves: what they refuse, and which difference they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.folders import DescribedFolder, Difference, first_difference

SETTINGS = {"seed": 1, "model": {"widths": [16, 32], "name": "compact"}}


@pytest.fixture
def folder(tmp_path: Path) -> DescribedFolder:
    return DescribedFolder(tmp_path / "out", "run.json", "run")


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b was 2, now 3"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a was 1, now 2"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": None}}}, "a.b.c was 1, now None"),
        ({"a": 1}, {}, "a was 1, now None"),
        ({}, {"a": 1}, "a was None, now 1"),
        ({"a": {"b": 1}}, {"a": 1}, "a was {'b': 1}, now 1"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "a was [1, 2], now [1, 3]"),
    ],
)
def test_the_first_difference_is_named(before: Any, now: Any, text: str) -> None:
    assert str(first_difference(before, now)) == text


_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=2), values, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_what_is_the_same_has_no_difference(value: Any) -> None:
    assert first_difference(value, value) is None


def test_a_new_folder_is_described_and_then_resumed(folder: DescribedFolder) -> None:
    assert folder.check(SETTINGS) is None
    assert not folder.path.exists()
    folder.write(SETTINGS)
    assert folder.described
    assert folder.check(SETTINGS) == folder.read() == SETTINGS


def test_hidden_files_make_no_folder_a_foreign_one(folder: DescribedFolder) -> None:
    folder.path.mkdir()
    (folder.path / ".lock").touch()
    assert folder.check(SETTINGS) is None


def test_other_settings_are_refused_and_the_first_difference_named(folder: DescribedFolder) -> None:
    folder.write(SETTINGS)
    with pytest.raises(UsageError) as caught:
        folder.check({**SETTINGS, "model": {"widths": [16, 64], "name": "compact"}})
    assert str(caught.value) == (
        f"{folder.path} was made with other settings (model.widths was [16, 32], now [16, 64]): "
        "use the same, or use another folder"
    )
    assert folder.read() == SETTINGS


def test_a_difference_may_be_put_in_other_words(tmp_path: Path) -> None:
    def words(difference: Difference) -> str:
        return f"{difference.name}: {difference.before} there, {difference.now} asked for"

    folder = DescribedFolder(tmp_path, "run.json", "run", words)
    folder.write(SETTINGS)
    with pytest.raises(UsageError, match=r"\(seed: 1 there, 2 asked for\)"):
        folder.check({**SETTINGS, "seed": 2})


def test_only_a_part_of_the_description_may_count(folder: DescribedFolder) -> None:
    folder.write({"identity": SETTINGS, "versions": {"torch": "2.4"}})
    assert folder.check(SETTINGS, lambda stored: stored["identity"]) is not None
    with pytest.raises(UsageError, match="seed was 1, now 2"):
        folder.check({**SETTINGS, "seed": 2}, lambda stored: stored["identity"])


def test_a_folder_of_other_files_is_refused(folder: DescribedFolder) -> None:
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="out is not empty and holds no run: use another folder"):
        folder.check(SETTINGS)
    folder.check_new(ours=["thesis.txt"])


def test_a_file_in_its_place_is_refused(folder: DescribedFolder) -> None:
    folder.path.write_text("mine")
    with pytest.raises(UsageError, match="out is a file: give a folder"):
        folder.check(SETTINGS)


def test_a_damaged_description_is_refused(folder: DescribedFolder) -> None:
    folder.path.mkdir()
    (folder.path / "run.json").write_text("{")
    with pytest.raises(SatcascadeError, match=r"run\.json is damaged .*: use another folder"):
        folder.check(SETTINGS)
    folder.write({"format": 1})
    with pytest.raises(SatcascadeError, match=r"run\.json is damaged \('identity'\): use another folder"):
        folder.check(SETTINGS, lambda stored: stored["identity"])


def test_a_folder_without_description_cannot_be_read(folder: DescribedFolder) -> None:
    with pytest.raises(UsageError, match=r"out holds no run \(it has no run\.json\)"):
        folder.read()
