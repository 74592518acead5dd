"""What a run draws pictures of: captions from arguments, a file or a prepared set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError, one_line
from satcascade.models.text import check_captions

PUBLISHED_DRAW_SEED = 17
_SLUG_LENGTH = 48


@dataclass(frozen=True)
class Captions:
    """What a run draws pictures of.

    Attributes:
        texts: the captions, white space normalised.
        rows: for each the name of its row in a data set; None where there is none.
        prepared: the prepared set they come from, if any, and
        caption_ids: their rows in its cache of embeddings.
    """

    texts: tuple[str, ...]
    rows: tuple[str, ...] | None = None
    prepared: PreparedDataset | None = None
    caption_ids: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Captions:
        """Captions given as texts.

        Raises:
            UsageError: there is none, or one of them is empty.
        """
        check_captions(texts)
        return cls(tuple(" ".join(text.split()) for text in texts))

    @classmethod
    def from_file(cls, path: Path) -> Captions:
        """Captions from a UTF-8 text file, one a line.

        Raises:
            UsageError: the file cannot be read, is empty, or has an empty line before its last caption.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").rstrip().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"caption file {path} cannot be read as UTF-8 text ({one_line(error)})"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                where = f"line {number} of {path}" if len(lines) > 1 else f"caption file {path}"
                raise UsageError(f"{where} is empty: write one caption a line")
        return cls.of(lines)

    @classmethod
    def from_data(
        cls,
        path: Path,
        split: str,
        caption: int = 1,
        draw: int | None = None,
        draw_seed: int = PUBLISHED_DRAW_SEED,
    ) -> Captions:
        """One caption of each row of a split of a prepared set, in file order or drawn at random.

        Args:
            path: folder written by ``satcascade prepare``.
            split: ``train``, ``val`` or ``test``.
            caption: which one of each row, counted from 1.
            draw: draw so many rows, each at most once, in the order that pandas'
                ``DataFrame.sample(n=draw, random_state=draw_seed)`` gives; None takes all as they stand.
            draw_seed: 0 to 2^32 - 1; by default that of RSDiff's published evaluation.

        Raises:
            SatcascadeError: the folder is no prepared set.
            UsageError: no such split, a row has fewer captions, or the split has fewer rows than to draw.
        """
        prepared = PreparedDataset.open(path)
        rows = prepared.indices(split)
        if draw is not None:
            if not 1 <= draw <= len(rows):
                raise UsageError(f"cannot draw {draw} of the {len(rows)} rows of split '{split}' of {path}")
            # The generator that pandas draws with; its stream is frozen.
            rows = rows[np.random.RandomState(draw_seed).choice(len(rows), size=draw, replace=False)]
        records = [prepared.records[row] for row in rows]
        for record in records:
            if len(record.captions) < caption:
                raise UsageError(
                    f"{record.filename} in {path} has {len(record.captions)} captions, no caption {caption}"
                )
        return cls(
            tuple(" ".join(record.captions[caption - 1].split()) for record in records),
            tuple(record.filename for record in records),
            prepared,
            tuple(record.caption_ids[caption - 1] for record in records),
        )


def slug(caption: str) -> str:
    """A caption as part of a file name: lower-case ASCII letters and digits, at most 48 characters."""
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    text = "-".join(words)
    if len(text) > _SLUG_LENGTH:
        # Cut between words, unless the first word alone is too long.
        text = text[: _SLUG_LENGTH + 1].rpartition("-")[0] or text[:_SLUG_LENGTH]
    return text or "image"
