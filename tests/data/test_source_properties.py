"""Whatever captions and file names hold: what is written is read, and nothing outside the folder is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satcascade.data.sources.image_files import locate_image
from satcascade.data.sources.sample import Problem
from satcascade.data.sources.tables import captions_of, read_table

# All that a text file may hold: no NUL, no halves of surrogate pairs.
TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
CAPTIONS = st.lists(TEXTS, min_size=1, max_size=4)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])
# Folders and files, without what parts them or stands for a folder.
NAMES = st.text("abcxyzäöß012 _-+()", min_size=1, max_size=8).map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@given(
    captions=st.lists(TEXTS, min_size=1, max_size=4), delimiter=st.sampled_from(",;\t|"), encoding=ENCODINGS
)
def test_a_table_gives_back_its_captions_whatever_they_hold(
    folder: Path, captions: list[str], delimiter: str, encoding: str
) -> None:
    path = folder / "captions.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["file_name", "caption", "split"])
        writer.writerows([f"{number}.png", caption, "train"] for number, caption in enumerate(captions))
    table = read_table(path)
    assert (table.delimiter, table.problems) == (delimiter, [])
    assert [row["file_name"] for row in table.rows] == [f"{number}.png" for number in range(len(captions))]
    assert [captions_of(row) for row in table.rows] == [(caption.strip(),) for caption in captions]


@given(captions=CAPTIONS, ascii_only=st.booleans(), encoding=ENCODINGS)
def test_lines_of_json_give_back_their_captions(
    folder: Path, captions: list[str], ascii_only: bool, encoding: str
) -> None:
    rows = [{"file_name": f"{number}.png", "captions": [text]} for number, text in enumerate(captions)]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding=encoding)
    table = read_table(folder / "metadata.jsonl")
    assert not table.problems
    assert [captions_of(row) for row in table.rows] == [(text.strip(),) for text in captions]


@given(
    name=NAMES,
    number=st.none() | st.integers(0, 9),
    separator=st.sampled_from(["\t", ",", ";", " ", ", "]),
    caption=st.text("abc äß,;.'", min_size=1)
    .map(str.strip)
    .filter(lambda text: text[:1] not in {"", ",", ";"}),
)
def test_a_line_of_text_is_a_name_and_a_caption(
    folder: Path, name: str, number: int | None, separator: str, caption: str
) -> None:
    written = f"{name}.png" + ("" if number is None else f"#{number}")
    (folder / "captions.txt").write_text(f"{written}{separator}{caption}\n", encoding="utf-8")
    (row,) = read_table(folder / "captions.txt").rows
    assert (row["file_name"], row["caption"]) == (f"{name}.png", caption)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set with a folder and a link out of it, and a secret beside it, under names that the set has too."""
    beside = tmp_path_factory.mktemp("beside")
    root = beside / "set"
    for place in (beside, beside / "a", root, root / "a"):
        place.mkdir(exist_ok=True)
        (place / "x.png").write_bytes(b"secret" if root not in (place, *place.parents) else b"image")
    (root / "link").symlink_to(beside)
    (root / "link.png").symlink_to(beside / "x.png")
    (root / "within").symlink_to(root / "a")
    return root, beside


SEGMENTS = st.sampled_from(["a", "x.png", "link", "link.png", "within", "set", "..", ".", "", "nowhere"])


@given(
    start=st.sampled_from(["", "/", "\\", "C:\\", "C:", "\\\\host\\share\\", "absolute"]),
    segments=st.lists(st.tuples(SEGMENTS, st.sampled_from("/\\")), max_size=6),
    last=SEGMENTS,
    below=st.sampled_from(["", "a"]),
)
def test_no_name_leads_out_of_the_folder(
    places: tuple[Path, Path], start: str, segments: list[tuple[str, str]], last: str, below: str
) -> None:
    root, beside = places
    start = f"{beside}/" if start == "absolute" else start
    name = start + "".join(segment + separator for segment, separator in segments) + last
    located = locate_image(root, root / below, name)
    if isinstance(located, Problem):
        assert located.kind in {"image outside the folder", "missing image"}
        assert "\n" not in located.name
    else:
        assert located.is_relative_to(root)
        assert ".." not in located.parts
        assert not located.is_file() or located.read_bytes() == b"image"


@given(parts=st.lists(NAMES, min_size=1, max_size=3), separators=st.lists(st.sampled_from("/\\"), min_size=3))
def test_a_file_in_the_folder_is_found_whichever_way_slashes_lean(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], separators: list[str]
) -> None:
    root = tmp_path_factory.mktemp("slashes")
    path = root.joinpath(*parts).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"image")
    *folders, last = path.relative_to(root).parts
    name = "".join(part + separator for part, separator in zip(folders, separators, strict=False)) + last
    assert locate_image(root, root, name) == path
