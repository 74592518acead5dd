"""JSON files: what is read back, what is refused and how, and that a file is whole or not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.json import read_json, write_json


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None, True], "a": {"name": "Café 池"}}
    write_json(tmp_path / "new" / "file.json", content)
    assert read_json(tmp_path / "new" / "file.json", "") == content


def test_files_are_utf8_with_a_final_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"b": "Café", "a": 1}, indent=2, sort_keys=True)
    assert (tmp_path / "file.json").read_bytes() == '{\n  "a": 1,\n  "b": "Café"\n}\n'.encode()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b'{"a": "caf\xe9"}', "utf-8"),
        (b"[1, 2]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(SatcascadeError) as caught:
        read_json(path, "copy it again", UsageError("it is not there"))
    assert re.fullmatch(
        rf"{re.escape(str(path))} is damaged \(.*{fault}.*\): copy it again", str(caught.value)
    )


def test_a_missing_file_is_damage_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    with pytest.raises(SatcascadeError, match=r"file\.json is damaged \(it is missing\): copy it again"):
        read_json(tmp_path / "file.json", "copy it again")
    with pytest.raises(UsageError, match=r"^make it first$"):
        read_json(tmp_path / "file.json", "copy it again", UsageError("make it first"))


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SatcascadeError, match="is damaged"):
        read_json(tmp_path, "copy it again")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert read_json(tmp_path / "file.json", "") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
