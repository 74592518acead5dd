"""Sets as other tools and other machines write them, and files that must not be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from satcascade.data.sources import open_source
from satcascade.data.sources.sample import Source
from satcascade.errors import SatcascadeError
from synthetic import CLASSES, synthetic_image


def images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        synthetic_image(next(iter(CLASSES)), 0, 8).save(folder / name)
    return folder


def captions(source: Source) -> dict[str, tuple[str, ...]]:
    return {sample.filename: tuple(sample.captions) for sample in source.samples}


def test_metadata_written_on_windows_is_read(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", "imgs/t0.png")
    row = {"file_name": "imgs\\t0.png", "text": "a pond"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    source = open_source(folder)
    assert list(captions(source).values()) == [("a pond",)]
    assert not source.problems


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_any_delimiter_are_read(delimiter: str, encoding: str, tmp_path: Path) -> None:
    folder = images(tmp_path / "set", "t0.png", "t1.png")
    rows = [("file_name", "caption"), ("t0.png", "a pond"), ("t1.png", "ein Wald in Köln")]
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (folder / "captions.csv").write_text(text, encoding=encoding, newline="")
    assert captions(open_source(folder)) == {"t0.png": ("a pond",), "t1.png": ("ein Wald in Köln",)}


def test_captions_beside_images_are_read_a_line_each(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", "t0.png", "deep/t1.png")
    (folder / "t0.txt").write_text("a pond\n\na small pond\n")
    (folder / "deep/t1.txt").write_text("a wood\n")
    assert captions(open_source(folder)) == {"t0.png": ("a pond", "a small pond"), "deep/t1.png": ("a wood",)}


def test_class_folders_get_captions_from_a_template(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", "SparseResidential/a.png", "forest/b.png")
    source = open_source(folder, caption_template="a satellite image of {label}")
    assert captions(source) == {
        "SparseResidential/a.png": ("a satellite image of sparse residential",),
        "forest/b.png": ("a satellite image of forest",),
    }
    with pytest.raises(SatcascadeError) as refused:
        open_source(folder, caption_template="an image of {lable}")
    assert "lable" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("way", ["relative", "absolute", "link"])
def test_files_outside_the_folder_are_not_read(way: str, tmp_path: Path) -> None:
    folder = images(tmp_path / "set", "t0.png")
    secret = images(tmp_path, "secret.png") / "secret.png"
    name = {"relative": "../secret.png", "absolute": str(secret), "link": "link.png"}[way]
    if way == "link":
        (folder / name).symlink_to(secret)
    rows = [{"file_name": "t0.png", "text": "a pond"}, {"file_name": name, "text": "a secret"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(folder)
    assert list(captions(source)) == ["t0.png"]
    assert any("outside" in problem.kind for problem in source.problems)


def test_sentences_of_tokens_are_joined(tmp_path: Path) -> None:
    folder = images(tmp_path / "set/RSICD_images", "t0.png").parent
    entry = {"filename": "t0.png", "split": "train", "sentences": [{"tokens": ["a", "pond"]}]}
    (folder / "dataset_rsicd.json").write_text(json.dumps({"images": [entry]}))
    assert [tuple(sample.captions) for sample in open_source(folder).samples] == [("a pond",)]
