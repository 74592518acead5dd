"""Make a prepared set of the pieces that pack.py wrote.

    python unpack.py packed/rsicd prepared/rsicd

The set's hash is that of the pieces, not of the decoded pixels, so that a run goes on wherever they are
unpacked.
"""

from __future__ import annotations

import argparse
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pack import ARCHIVE, JPEG_OFFSETS, JPEGS, LEVELS, SCALES, SUMMARY
from pieces import joined, read_archive, run_script

from satcascade.data.decode import decode_image
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.formats.prepared_set import CONTENT_FILES, EMBEDDINGS, IMAGES, MANIFEST
from satcascade.io.files import atomic_folder
from satcascade.io.hashing import sha256_of_file


def unpack(pieces: Path, out: Path) -> PreparedDataset:
    """Write the prepared set.

    Args:
        pieces: folder of the pieces.
        out: the set's folder; missing or empty.

    Raises:
        UsageError: ``out`` is not empty.
        SatcascadeError: a piece is missing or damaged, or the disk is full.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose another folder")
    with TemporaryDirectory(dir=pieces) as work:
        whole = Path(work) / ARCHIVE
        packed_hash = joined(pieces, whole)
        contents = read_archive(whole)
    summary = json.loads(contents.pop(SUMMARY))
    offsets = np.load(io.BytesIO(contents.pop(JPEG_OFFSETS)))
    jpegs = contents.pop(JPEGS)
    if LEVELS in contents:
        levels, scales = (np.load(io.BytesIO(contents.pop(name))) for name in (LEVELS, SCALES))
        buffer = io.BytesIO()
        np.save(buffer, (levels * scales.astype(np.float32)).astype(np.float16))
        contents[EMBEDDINGS] = buffer.getvalue()
    count, size = summary["images"], summary["image_size"]
    with atomic_folder(out) as aside:
        for name, content in contents.items():
            (aside / name).write_bytes(content)
        images = np.lib.format.open_memmap(aside / IMAGES, "w+", np.uint8, (count, size, size, 3))

        def decode(row: int) -> None:
            images[row] = decode_image(jpegs[offsets[row] : offsets[row + 1]], size)

        with ThreadPoolExecutor() as pool:
            list(pool.map(decode, range(count)))
        images.flush()
        files = {
            name: {"bytes": (aside / name).stat().st_size, "sha256": sha256_of_file(aside / name)}
            for name in CONTENT_FILES
        }
        identity = {"source_hash": packed_hash, "skipped": [], "files": files, "hash": packed_hash}
        (aside / MANIFEST).write_text(json.dumps(summary | identity, indent=2, ensure_ascii=False) + "\n")
    return PreparedDataset.open(out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pieces", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    dataset = unpack(given.pieces, given.out)
    print(f"{len(dataset)} images of {dataset.image_size} px in {given.out}")


if __name__ == "__main__":
    run_script(main)
