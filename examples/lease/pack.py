"""Pack a prepared set small enough to carry: JPEG images and float16 caption embeddings, in pieces.

python pack.py prepared/rsicd packed/rsicd --stored 224 --quality 76
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pieces import MIB, cut_archive, run_script
from PIL import Image

from satcascade.data.prepared import PreparedDataset
from satcascade.formats.prepared_set import CAPTIONS, EMBEDDINGS, FORMAT, OFFSETS, RECORDS

ARCHIVE = "set.tar"
JPEGS = "images.jpegs"
JPEG_OFFSETS = "image_offsets.npy"
SUMMARY = "summary.json"
LEVELS = "embedding_levels.npy"
SCALES = "embedding_scales.npy"


def pack(
    prepared: Path,
    out: Path,
    *,
    splits: list[str],
    size: int,
    stored: int,
    quality: int,
    piece_bytes: int,
    captions: int | None = None,
    int8: bool = False,
) -> list[Path]:
    """Write the pieces of a set.

    Args:
        prepared: folder written by ``satcascade prepare``.
        out: folder for the pieces.
        splits: which rows to carry.
        size: side of the images after unpacking.
        stored: side at which they are carried; 224 if that is what the source's images have.
        quality: of the JPEG files, with halved chroma.
        piece_bytes: the largest piece.
        captions: carry the first so many of each image; None carries all.
        int8: carry embeddings as 8-bit numbers and a scale a token.
    """
    dataset = PreparedDataset.open(prepared)
    rows = sorted(int(row) for split in splits for row in dataset.indices(split))

    def encoded(row: int) -> bytes:
        image = Image.fromarray(dataset.images[row])
        if stored != dataset.image_size:
            box = dataset.image_size % stored == 0
            method = Image.Resampling.BOX if box else Image.Resampling.BICUBIC
            image = image.resize((stored, stored), method)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        return buffer.getvalue()

    with ThreadPoolExecutor() as pool:
        jpegs = list(pool.map(encoded, rows))
    carried = {row: dataset.records[row].caption_ids[:captions] for row in rows}
    used = sorted({number for ids in carried.values() for number in ids})
    renumbered = {number: position for position, number in enumerate(used)}
    records = [dataset.records[row] for row in rows]
    lines = [
        json.dumps(
            vars(record)
            | {
                "captions": record.captions[:captions],
                "caption_ids": [renumbered[number] for number in carried[row]],
            },
            ensure_ascii=False,
        )
        for row, record in zip(rows, records, strict=True)
    ]
    spans = [(dataset.offsets[number], dataset.offsets[number + 1]) for number in used]
    labels = Counter(record.label for record in records if record.label is not None)
    summary = {
        "format": FORMAT,
        "source": dataset.manifest["source"],
        "kind": "packed",
        "image_size": size,
        "encoder": dataset.manifest["encoder"],
        "packed_from": dataset.hash,
        "images": len(rows),
        "captions": len(used),
        "splits": dict(Counter(record.split for record in records)),
        "labels": dict(sorted(labels.items())),
    }
    embeddings = np.concatenate([dataset.embeddings[start:stop] for start, stop in spans])
    contents = {
        SUMMARY: json.dumps(summary).encode(),
        RECORDS: "".join(line + "\n" for line in lines).encode(),
        CAPTIONS: "".join(dataset.captions[number] + "\n" for number in used).encode(),
        **(_quantised(embeddings) if int8 else {EMBEDDINGS: _saved(embeddings)}),
        OFFSETS: _saved(np.cumsum([0, *(stop - start for start, stop in spans)])),
        JPEG_OFFSETS: _saved(np.cumsum([0, *map(len, jpegs)])),
        JPEGS: b"".join(jpegs),
    }
    return cut_archive(contents, out / ARCHIVE, piece_bytes)


def _quantised(embeddings: np.ndarray) -> dict[str, bytes]:
    """Embeddings (T, dim) as int8 with a scale a token: the largest number of each becomes 127."""
    scales = np.maximum(np.abs(embeddings).max(axis=1, keepdims=True).astype(np.float32) / 127, 1e-8)
    levels = np.rint(embeddings / scales).astype(np.int8)
    return {LEVELS: _saved(levels), SCALES: _saved(scales.astype(np.float16))}


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--size", type=int, default=256, help="side of the images after unpacking")
    parser.add_argument("--stored", type=int, help="side at which they are carried (default: --size)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    parser.add_argument("--captions", type=int, help="of each image (default: all)")
    parser.add_argument("--int8", action="store_true", help="carry embeddings in 8 bits")
    parser.add_argument("--piece-mib", type=float, default=58)
    given = parser.parse_args()
    pieces = pack(
        given.prepared,
        given.out,
        splits=given.splits,
        size=given.size,
        stored=given.stored or given.size,
        quality=given.quality,
        piece_bytes=int(given.piece_mib * MIB),
        captions=given.captions,
        int8=given.int8,
    )
    total = sum(piece.stat().st_size for piece in pieces)
    print(f"{len(pieces)} pieces, {total / MIB:.1f} MiB in all, in {given.out}")


if __name__ == "__main__":
    run_script(main)
