"""Readers of captioned image sets: every layout of the same set reads the same."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satcascade.data.sources import open_source
from satcascade.data.sources.hub import read_hub
from satcascade.data.sources.karpathy import rsicd_label
from satcascade.data.sources.sample import Sample, check_samples, describe, normal_split, one_line
from satcascade.errors import SatcascadeError, UsageError
from synthetic import make_synthetic_imagefolder, synthetic_image, synthetic_rows

IMAGES = 10
ROWS = synthetic_rows(IMAGES)


def _images(folder: Path, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        image = synthetic_image(row["label"], row["imgid"], 32)
        image.save((folder / row["filename"]).with_suffix(suffix), quality=90)


def _csv(table: Path, rows: list[dict[str, Any]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _karpathy(annotations: Path, name: str, with_labels: bool = True) -> None:
    images = [
        {
            "filename": row["filename"],
            "imgid": row["imgid"],
            "split": row["split"],
            "sentences": [{"raw": text, "tokens": text.split()} for text in row["captions"]],
            **({"label": row["label"]} if with_labels else {}),
        }
        for row in ROWS
    ]
    annotations.write_text(json.dumps({"dataset": name, "images": images}))


def rsicd(folder: Path) -> Path:
    _images(folder / "RSICD_images")
    _karpathy(folder / "dataset_rsicd.json", "rsicd")
    return folder


def rsicd_by_its_json(folder: Path) -> Path:
    return rsicd(folder) / "dataset_rsicd.json"


def rsicd_as_published(folder: Path) -> Path:
    _images(folder / "RSICD_images")
    _karpathy(folder / "dataset_rsicd.json", "rsicd", with_labels=False)
    return folder


def rsicd_csv(folder: Path) -> Path:
    _images(folder / "images")
    rows = [
        {
            "filename": row["filename"],
            "split": {"val": "valid"}.get(row["split"], row["split"]),
            "imgid": row["imgid"],
            **{f"sent{i}": text for i, text in enumerate(row["captions"], start=1)},
            "label": row["label"],
        }
        for row in ROWS
    ]
    _csv(folder / "rsicd.csv", rows)
    return folder


def rsicd_csv_by_its_file(folder: Path) -> Path:
    return rsicd_csv(folder) / "rsicd.csv"


def ucm(folder: Path) -> Path:
    _images(folder / "imgs")
    _karpathy(folder / "dataset.json", "ucm")
    return folder


def metadata_jsonl(folder: Path) -> Path:
    _images(folder)
    lines = [
        {
            "file_name": row["filename"],
            "captions": row["captions"],
            "label": row["label"],
            "split": row["split"],
        }
        for row in ROWS
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def _table(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        _images(folder / "tiles")
        rows = [
            {
                "file_name": f"tiles/{row['filename']}",
                "captions": (json.dumps if row["imgid"] % 2 else repr)(row["captions"]),
                "label": row["label"],
                "split": row["split"],
            }
            for row in ROWS
        ]
        _csv(folder / name, rows)
        return folder

    make.__name__ = name
    return make


def captions_a_row(folder: Path) -> Path:
    """A row a caption, as the CSV form of Flickr8k has them."""
    _images(folder)
    rows = [
        {"image": row["filename"], "caption": caption, "label": row["label"], "split": row["split"]}
        for row in ROWS
        for caption in row["captions"]
    ]
    _csv(folder / "captions.csv", rows)
    return folder


def split_folders(folder: Path) -> Path:
    return make_synthetic_imagefolder(folder, IMAGES, 32)


LAYOUTS = [
    (rsicd, "rsicd"),
    (rsicd_by_its_json, "rsicd"),
    (rsicd_as_published, "rsicd"),
    (rsicd_csv, "rsicd-csv"),
    (rsicd_csv_by_its_file, "rsicd-csv"),
    (ucm, "ucm"),
    (metadata_jsonl, "imagefolder"),
    (_table("metadata.csv"), "imagefolder"),
    (_table("captions.csv"), "imagefolder"),
    (captions_a_row, "imagefolder"),
    (split_folders, "imagefolder"),
]


@pytest.mark.parametrize(("layout", "kind"), LAYOUTS, ids=[make.__name__ for make, _ in LAYOUTS])
def test_each_layout_is_recognised_and_reads_as_the_same_set(
    layout: Callable[[Path], Path], kind: str, tmp_path: Path
) -> None:
    opened = open_source(layout(tmp_path / "set"))
    good, problems = check_samples(opened.samples)

    assert opened.kind == kind
    assert not problems
    assert not opened.problems
    read = {
        Path(sample.filename).name: (sample.split, sample.label, list(sample.captions)) for sample in good
    }
    assert read == {row["filename"]: (row["split"], row["label"], row["captions"]) for row in ROWS}
    for sample in good:
        assert sample.encoded()[:2] == b"\xff\xd8", "the bytes of a JPEG file"


def test_a_hub_set_reads_as_the_same_set(tmp_path: Path) -> None:
    # A folder of parquet files is what the hub stores; load_dataset takes it by the same call.
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "filename": datasets.Value("string"),
            "captions": datasets.Sequence(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["Desert", "Pond", "Forest", "DenseResidential"]),
        }
    )
    _images(tmp_path / "raw")
    for split in ("train", "valid", "test"):
        rows = [row for row in ROWS if {"val": "valid"}.get(row["split"], row["split"]) == split]
        columns = {name: [row[name] for row in rows] for name in ("filename", "captions", "label")}
        files = [(tmp_path / "raw" / row["filename"]).read_bytes() for row in rows]
        columns["image"] = [{"bytes": encoded, "path": None} for encoded in files]
        name = "validation" if split == "valid" else split
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            tmp_path / "hub" / f"{name}-00000-of-00001.parquet"
        )

    good, problems = check_samples(read_hub(str(tmp_path / "hub")).samples)

    assert not problems
    read = {sample.filename: (sample.split, sample.label, list(sample.captions)) for sample in good}
    assert read == {row["filename"]: (row["split"], row["label"], row["captions"]) for row in ROWS}
    for sample in good:
        assert sample.encoded() == (tmp_path / "raw" / sample.filename).read_bytes()


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"caption": ["a pond"]}, "no images in"), ({"image": None}, "no captions in")],
)
def test_a_hub_set_without_images_or_captions_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    features = None
    if "image" in columns:
        synthetic_image("Pond", 0, 16).save(tmp_path / "0.png")
        columns = {"image": [{"bytes": (tmp_path / "0.png").read_bytes(), "path": None}]}
        features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "hub").mkdir()
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    with pytest.raises(SatcascadeError, match=message):
        read_hub(str(tmp_path / "hub"))


def test_a_hub_set_without_network_is_one_line() -> None:
    script = (
        "from satcascade.data.sources import open_source\n"
        "from satcascade.errors import SatcascadeError\n"
        "try: open_source('nobody/nothing')\n"
        "except SatcascadeError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(
        "'nobody/nothing' is neither a folder here nor a data set that can be fetched"
    )


@pytest.mark.parametrize(
    "line", ["{name}#{number}\t{caption}", "{name}\t{caption}", "{name},{caption}", "{name} {caption}"]
)
def test_lines_of_a_text_file_are_captions(line: str, tmp_path: Path) -> None:
    _images(tmp_path / "train")
    lines = [
        line.format(name=row["filename"], number=number, caption=caption)
        for row in ROWS
        for number, caption in enumerate(row["captions"])
    ]
    (tmp_path / "train/captions.txt").write_text("\n".join(["image,caption", *lines]))
    opened = open_source(tmp_path)
    assert not opened.problems
    read = {sample.filename: list(sample.captions) for sample in opened.samples}
    assert read == {f"train/{row['filename']}": row["captions"] for row in ROWS}


def test_commas_and_quotes_in_a_text_file(tmp_path: Path) -> None:
    synthetic_image("Pond", 0, 16).save(tmp_path / "a b.png")
    (tmp_path / "captions.txt").write_text('a b.png,"a pond, called ""blue"" ."\na pond without a name\n')
    opened = open_source(tmp_path)
    assert [sample.captions for sample in opened.samples] == [('a pond, called "blue" .',)]
    assert [(each.kind, each.name) for each in opened.problems] == [("unreadable row", "captions.txt:2")]


def test_rows_that_contradict_each_other_are_no_further_captions(tmp_path: Path) -> None:
    synthetic_image("Pond", 0, 16).save(tmp_path / "a.png")
    rows = [
        {"file_name": "a.png", "caption": "a pond", "split": "train"},
        {"file_name": "a.png", "caption": "a lake", "split": "test"},
    ]
    _csv(tmp_path / "captions.csv", rows)
    good, problems = check_samples(open_source(tmp_path).samples)
    assert [sample.captions for sample in good] == [("a pond",)]
    assert [each.kind for each in problems] == ["duplicate name"]


def test_a_mistyped_path_in_a_folder_that_is_here_is_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsicd(tmp_path / "data" / "rsicd")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SatcascadeError, match="there is nothing at data/rscid"):
        open_source("data/rscid")


def test_a_hub_set_without_the_datasets_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SatcascadeError, match=r"pip install 'satcascade\[train\]'"):
        open_source("nobody/nothing")


@pytest.mark.parametrize(
    ("filename", "label"),
    [
        ("airport_1.jpg", "Airport"),
        ("denseresidential_12.jpg", "DenseResidential"),
        ("storagetanks_252.jpg", "StorageTanks"),
        ("RSICD_images/bareland_3.jpg", "BareLand"),
        ("00720.jpg", None),
    ],
)
def test_labels_in_the_published_file_names(filename: str, label: str | None) -> None:
    assert rsicd_label(filename) == label


def test_rows_without_a_split_get_the_one_asked_for(tmp_path: Path) -> None:
    synthetic_image("Pond", 0, 16).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a pond"}')
    assert [sample.split for sample in open_source(tmp_path).samples] == ["train"]
    assert [sample.split for sample in open_source(tmp_path, split="test").samples] == ["test"]


def test_an_image_that_no_row_names_is_a_problem(tmp_path: Path) -> None:
    folder = split_folders(tmp_path / "set")
    shutil.copy(folder / "test" / ROWS[9]["filename"], folder / "test" / "stranger.jpg")
    assert [(each.kind, each.name) for each in open_source(folder).problems] == [
        ("image without a row", "test/stranger.jpg")
    ]


def test_a_line_that_is_no_json_is_a_problem_with_its_number(tmp_path: Path) -> None:
    folder = metadata_jsonl(tmp_path / "set")
    table = folder / "metadata.jsonl"
    table.write_text(table.read_text() + "\n{broken\n[1]\n")
    problems = open_source(folder).problems
    assert [each.name for each in problems] == ["metadata.jsonl:11", "metadata.jsonl:12"]


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "RSICD_images"), "no images in"),
        (lambda folder: (folder / "dataset_rsicd.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "dataset_rsicd.json").write_text("[]"), "not in Karpathy's caption layout"),
        (lambda folder: (folder / "dataset_rsicd.json").unlink(), "no captions in"),
        (shutil.rmtree, "there is nothing at"),
        (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "no images in"),
    ],
    ids=["no images", "broken json", "other json", "no captions", "missing", "empty"],
)
def test_a_source_that_cannot_be_read_is_one_line(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = rsicd(tmp_path / "set")
    spoil(folder)
    with pytest.raises(SatcascadeError, match=message) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "message"),
    [
        (rsicd_csv, "rsicd.csv", "filename", "name", "no captions in"),
        (
            metadata_jsonl,
            "metadata.jsonl",
            "file_name",
            "path",
            "no column 'file_name': it has path, captions",
        ),
        (metadata_jsonl, "metadata.jsonl", "captions", "words", "no caption column: it has file_name, words"),
        (metadata_jsonl, "metadata.jsonl", ".jpg", ".gif", "no images in"),
        (_table("captions.csv"), "captions.csv", "file_name", "path", "no column 'file_name'"),
    ],
)
def test_a_missing_column_is_named(
    layout: Callable[[Path], Path], file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    folder = layout(tmp_path / "set")
    _rewrite(folder / file, old, new)
    with pytest.raises(SatcascadeError, match=message):
        open_source(folder)


def test_two_tables_of_rsicd_are_not_guessed_between(tmp_path: Path) -> None:
    folder = rsicd_csv(tmp_path / "set")
    shutil.copy(folder / "rsicd.csv", folder / "other.csv")
    with pytest.raises(SatcascadeError, match=r"other\.csv, rsicd\.csv"):
        open_source(folder)


def test_a_table_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    folder = metadata_jsonl(tmp_path / "set")
    (folder / "metadata.jsonl").write_bytes('{"file_name": "a.jpg", "text": "café"}'.encode("latin-1"))
    with pytest.raises(SatcascadeError, match=r"metadata\.jsonl cannot be read .* UTF-8"):
        open_source(folder)


def test_an_unknown_kind_names_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rsicd, rsicd-csv, ucm, imagefolder, hub"):
        open_source(tmp_path, kind="coco")


SAMPLES = st.lists(
    st.builds(
        Sample,
        filename=st.sampled_from(["a", "b", "c", "d"]),
        split=st.sampled_from(["train", "Validation", "dev", "test", "holdout", ""]),
        label=st.none(),
        captions=st.lists(st.sampled_from(["a pond", " two \n lines ", "", "  "]), max_size=3).map(tuple),
        image=st.just(lambda: b""),
    )
)


@given(SAMPLES)
def test_every_sample_is_kept_whole_or_reported(samples: list[Sample]) -> None:
    good, problems = check_samples(samples)

    reported = {problem.name for problem in problems}
    kept = [sample.filename for sample in good]
    assert len(kept) == len(set(kept))
    assert {sample.filename for sample in samples} == reported | set(kept)
    for sample in good:
        assert sample.split in ("train", "val", "test")
        assert sample.captions
        assert all(caption == one_line(caption) != "" for caption in sample.captions)
    for sample in samples:
        faultless = normal_split(sample.split) and sample.captions and all(map(str.strip, sample.captions))
        assert faultless or sample.filename in reported


@given(st.text(alphabet=st.characters()))
def test_a_caption_is_one_line_of_utf8(text: str) -> None:
    caption = one_line(text)
    assert caption.splitlines() in ([caption], [])
    assert caption == caption.strip() == one_line(caption)
    caption.encode("utf-8")


def test_a_long_report_is_cut_and_says_so() -> None:
    samples = [Sample(f"{i}.jpg", "holdout", None, ("a pond",), lambda: b"") for i in range(100)]
    report = describe(check_samples(samples)[1])
    assert "unknown split: 100: 0.jpg ('holdout'), 1.jpg" in report
    assert "and 88 more" in report
    assert "50.jpg" not in report
