"""Hashes: of known values, and that what is stored with them stays valid."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from satcascade.io.hashing import (
    sha256_of_file,
    sha256_of_files,
    sha256_of_text,
    weights_fingerprint,
    weights_hash,
)

STATE = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3, dtype=torch.int64)}
# The bytes of these tensors, little-endian.
THREE, ONE_AND_TWO = (3).to_bytes(8, "little"), bytes.fromhex("0000803f00000040")


@pytest.mark.parametrize("size", [0, 3, (1 << 20) + 1])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"x" * size).hexdigest()


def test_the_hash_of_a_text_is_that_of_its_utf8() -> None:
    assert sha256_of_text("Café") == hashlib.sha256(b"Caf\xc3\xa9").hexdigest()


def test_files_count_with_their_paths_and_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    one, other = tmp_path / "one", tmp_path / "inner" / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    lines = f"one\0{sha256_of_text('1')}\ninner/other\0{sha256_of_text('2')}\n"
    assert sha256_of_files(tmp_path, [one, other]) == sha256_of_text(lines)
    assert sha256_of_files(tmp_path, [other, one]) != sha256_of_text(lines)


def test_the_hash_of_weights_is_over_names_and_values() -> None:
    values = {"a": THREE, "b": ONE_AND_TWO}
    lines = "".join(f"{name}\0{hashlib.sha256(value).hexdigest()}\n" for name, value in values.items())
    assert weights_hash([STATE]) == sha256_of_text(lines)
    assert weights_hash([dict(reversed(STATE.items()))]) == weights_hash([STATE])
    assert weights_hash([STATE, STATE]) == sha256_of_text(lines * 2)


def test_the_fingerprint_is_over_names_shapes_values_and_what_else_counts() -> None:
    content = b"a()" + THREE + b"b(1, 2)" + ONE_AND_TWO
    assert weights_fingerprint(STATE) == hashlib.sha256(content).hexdigest()[:16]
    expected = hashlib.sha256(b"[3]" + content + "Café".encode()).hexdigest()[:16]
    assert weights_fingerprint(STATE, "[3]", "Café") == expected
    assert weights_fingerprint(STATE | {"b": torch.tensor([[1.0], [2.0]])}) != weights_fingerprint(STATE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.bool])
def test_weights_of_any_type_and_layout_have_a_hash(dtype: torch.dtype) -> None:
    value = (torch.arange(6).reshape(2, 3) % 2).to(dtype)
    assert weights_hash([{"a": value.T}]) == weights_hash([{"a": value.T.contiguous()}])
    assert weights_fingerprint({"a": value.T.requires_grad_(dtype.is_floating_point)})
