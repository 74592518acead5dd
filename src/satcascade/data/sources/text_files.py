"""Text files as the programs of the trade write them: UTF-8, or Unicode with a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, newline: str | None = None, characters: int = -1) -> str:
    """The text of a file, in UTF-8 or as its byte order mark says (Excel's "Unicode text" is UTF-16).

    Args:
        path: the file.
        newline: as ``open`` takes it; by default every line ends in a line feed.
        characters: read at most so many.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it is in another encoding.
    """
    with path.open("rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    with path.open(encoding=encoding, newline=newline) as file:
        text = file.read(characters)
    if "\0" in text:
        raise UnicodeError("it holds NUL characters, as UTF-16 without a byte order mark does")
    return text
