"""SHA-256 of files and of network weights. What is stored holds these hashes: they stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_files(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the paths of files within their folder and over their contents, as 64 digits.

    The order of ``files`` counts.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(states: Iterable[Mapping[str, Tensor]]) -> str:
    """SHA-256 over names and values of the states of networks, as 64 digits.

    The order of the networks counts, that of a network's tensors does not.
    """
    digest = hashlib.sha256()
    for state in states:
        for name, value in sorted(state.items()):
            digest.update(f"{name}\0{hashlib.sha256(_bytes(value)).hexdigest()}\n".encode())
    return digest.hexdigest()


def weights_fingerprint(state: Mapping[str, Tensor], before: str = "", after: str = "") -> str:
    """16 hexadecimal digits: short SHA-256 over names, shapes and values of a frozen network's state.

    Args:
        state: its tensors by name, in any order.
        before: what else counts, put before the state;
        after: and after it.
    """
    digest = hashlib.sha256(before.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    digest.update(after.encode())
    return digest.hexdigest()[:16]


def _bytes(value: Tensor) -> memoryview:
    """The memory of a tensor of any type, on whatever device."""
    import torch

    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
