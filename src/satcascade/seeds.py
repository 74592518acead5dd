"""Independent seeds from one: the same on every machine, whatever the order in which they are asked for."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the thing named by ``path`` in a run seeded by ``seed`` (SHA-256 of both)."""
    name = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
