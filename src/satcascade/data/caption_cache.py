"""Writes the text embeddings of a prepared set; ``PreparedDataset.text`` reads them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from satcascade.data.array_file import array_header
from satcascade.formats.prepared_set import EMBEDDINGS, OFFSETS
from satcascade.io.progress import ProgressDisplay
from satcascade.models.text import CaptionTruncatedWarning, TextEncoder

_CAPTIONS_AT_ONCE = 64
# Captions are sorted by length within blocks of this many: little padding, little memory.
_CAPTION_BLOCK = 4096


def write_caption_embeddings(
    captions: Sequence[str], encoder: TextEncoder, folder: Path, display: ProgressDisplay
) -> None:
    """Embed captions and write their tokens, float16, one caption after the other, with the offsets.

    Where captions are longer than the encoder reads, one warning says so.
    """
    lengths: list[int] = []
    task = display.task("captions", len(captions))
    with (folder / EMBEDDINGS).open("wb") as file, warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always", CaptionTruncatedWarning)
        file.write(array_header(np.float16, (0, encoder.dim)))
        for start in range(0, len(captions), _CAPTION_BLOCK):
            block = captions[start : start + _CAPTION_BLOCK]
            by_length = sorted(range(len(block)), key=lambda i: len(block[i]))
            embedded: dict[int, npt.NDArray[np.float16]] = {}
            for first in range(0, len(block), _CAPTIONS_AT_ONCE):
                chosen = by_length[first : first + _CAPTIONS_AT_ONCE]
                batch = encoder([block[i] for i in chosen])
                for i, tokens, mask in zip(chosen, batch.embeddings, batch.mask, strict=True):
                    embedded[i] = tokens[mask].half().numpy()
                task.advance(len(chosen))
            for i in range(len(block)):
                file.write(embedded[i].data)
                lengths.append(len(embedded[i]))
        file.seek(0)
        file.write(array_header(np.float16, (sum(lengths), encoder.dim)))
    for warning in cut[:1]:
        warnings.warn(warning.message, stacklevel=3)
    np.save(folder / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
