"""One file cut into pieces that can be carried one at a time, and put together again.

::

    OUT/pieces.json   name, size and SHA-256 of the whole and of each piece; written last
    OUT/NAME.000 ...  the pieces
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from satcascade.errors import SatcascadeError
from satcascade.io.files import atomic_write, full_disk_refused
from satcascade.io.hashing import sha256_of_file

LIST = "pieces.json"
MIB = 2**20


def cut(whole: Path, out: Path, piece_bytes: int) -> list[Path]:
    """Cut a file into pieces of at most ``piece_bytes``; an earlier set of pieces in ``out`` is replaced."""
    (out / LIST).unlink(missing_ok=True)
    for old in out.glob("*.[0-9][0-9][0-9]"):
        old.unlink()
    pieces = []
    with whole.open("rb") as file:
        while block := file.read(piece_bytes):
            piece = out / f"{whole.name}.{len(pieces):03d}"
            with full_disk_refused(piece):
                piece.write_bytes(block)
            pieces.append(piece)
    entries = [_entry(path) for path in pieces]
    with atomic_write(out / LIST) as aside:
        aside.write_text(json.dumps({"whole": _entry(whole), "pieces": entries}, indent=1))
    return pieces


def cut_archive(contents: dict[str, bytes], archive: Path, piece_bytes: int) -> list[Path]:
    """Cut an uncompressed tar of named contents, which itself does not stay, into pieces beside it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_archive(archive, contents)
    try:
        return cut(archive, archive.parent, piece_bytes)
    finally:
        archive.unlink()


def joined(folder: Path, whole: Path) -> str:
    """Put pieces together into the file ``whole``; its SHA-256 is returned.

    Raises:
        SatcascadeError: the list is missing, or a piece is missing, cut short or altered; it is named.
    """
    try:
        described = json.loads((folder / LIST).read_text())
    except (OSError, ValueError) as error:
        raise SatcascadeError(f"{folder} has no readable {LIST}: carry it along with the pieces") from error
    for entry in described["pieces"]:
        piece = folder / entry["name"]
        size = piece.stat().st_size if piece.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise SatcascadeError(f"{piece} {found}: carry it again")
        if sha256_of_file(piece) != entry["sha256"]:
            raise SatcascadeError(f"{piece} is not what was cut (its SHA-256 differs): carry it again")
    with atomic_write(whole) as aside, aside.open("wb") as file:
        for entry in described["pieces"]:
            file.write((folder / entry["name"]).read_bytes())
    return str(described["whole"]["sha256"])


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """An uncompressed tar of named contents; the same contents give the same bytes."""
    with atomic_write(path) as aside, tarfile.open(aside, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def read_archive(path: Path) -> dict[str, bytes]:
    """The contents of a tar written by :func:`write_archive`."""
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; what a user may mend is told in one line."""
    try:
        main()
    except SatcascadeError as error:
        sys.exit(f"error: {error}")


def _entry(path: Path) -> dict[str, object]:
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of_file(path),
    }
