"""Generated folders as data sets: read by those who are to read them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from satcascade import Captions, GenerationRequest, StageSettings, generate, load_pipeline
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.generation.pack import class_folder, pack
from satcascade.generation.provenance import NOTICE


@pytest.fixture(scope="module")
def generated(
    prepared_synthetic: PreparedDataset, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two images of each test caption of the synthetic set."""
    out = tmp_path_factory.mktemp("generated") / "run"
    captions = Captions.from_data(prepared_synthetic.path, "test")
    request = GenerationRequest(
        captions=captions, out=out, per_caption=2, stages={"base": StageSettings(1), "sr": StageSettings(1)}
    )
    generate(load_pipeline(tiny_model, device="cpu"), request, progress=False)
    return out


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def labels_of(folder: Path, dataset: PreparedDataset) -> list[str]:
    known = {record.filename: record.label for record in dataset.records}
    return [str(known[line["row"]]) for line in manifest(folder)]


def check_row(row: dict, line: dict, label: str | None) -> None:
    assert row["text" if "text" in row else "txt"] == line["caption"]
    told = row.get("json", row)
    assert told.get("label") == label
    assert {key: told[key] for key in ("seed", "index", "row", "model", "model_hash")} == {
        key: line[key] for key in ("seed", "index", "row", "model", "model_hash")
    }
    assert told["notice"] == NOTICE


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_datasets_reads_an_image_folder_with_captions_and_labels(generated, prepared_synthetic, tmp_path):
    report = pack(generated, tmp_path / "set", data=prepared_synthetic.path)
    labels = labels_of(generated, prepared_synthetic)
    assert report.classes == tuple(sorted(set(labels)))
    dataset = load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    lines = {line["index"]: line for line in manifest(generated)}
    assert len(dataset) == len(lines) == report.images
    for row in dataset:
        line = lines.pop(row["index"])
        check_row(row, line, labels[line["index"]])
        with Image.open(generated / line["file"]) as image:
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(image))
    # As torchvision's ImageFolder, and torchgeo's data sets on it, take classes: the folders, sorted.
    folders = sorted(entry.name for entry in os.scandir(tmp_path / "set") if entry.is_dir())
    assert folders == [class_folder(label) for label in report.classes]
    for label in report.classes:
        assert len(list((tmp_path / "set" / class_folder(label)).glob("*.png"))) == labels.count(label)


def test_datasets_reads_shards(generated, prepared_synthetic, tmp_path):
    pack(generated, tmp_path / "set", "webdataset", prepared_synthetic.path, shard_size=5)
    lines, labels = manifest(generated), labels_of(generated, prepared_synthetic)
    shards = sorted((tmp_path / "set").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"{n:05d}.tar" for n in range(-(-len(lines) // 5))]
    dataset = load_dataset("webdataset", data_files=[str(shard) for shard in shards], split="train")
    assert [row["__key__"] for row in dataset] == [f"{line['index']:08d}" for line in lines]
    for row, line, label in zip(dataset, lines, labels, strict=True):
        check_row(row, line, label)
        with Image.open(generated / line["file"]) as image:
            np.testing.assert_array_equal(np.asarray(row["png"]), np.asarray(image))


def test_words_of_captions_make_no_splits(tiny_model, tmp_path):
    captions = Captions.of(["a train station", "a test site", "a lake"])
    request = GenerationRequest(
        captions, tmp_path / "run", stages={"base": StageSettings(1), "sr": StageSettings(1)}
    )
    generate(load_pipeline(tiny_model, device="cpu"), request, progress=False)
    pack(tmp_path / "run", tmp_path / "set")
    dataset = load_dataset("imagefolder", data_dir=str(tmp_path / "set"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 3}


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_what_is_missing_is_written_again_to_the_same_bytes(kind, generated, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    shutil.copytree(generated, tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        os.utime(file, (1, 1))
    pack(generated, whole, kind, shard_size=4)
    first = pack(tmp_path / "copy", stopped, kind, shard_size=4)
    gone = sorted(path for path in stopped.rglob("*") if path.suffix in (".png", ".tar"))[1]
    gone.unlink()
    again = pack(tmp_path / "copy", stopped, kind, shard_size=4)
    assert (first.kept, again.written) == (0, 1)
    assert again.kept == first.written - 1
    assert files(whole) == files(stopped)
    assert b'"label"' not in b"".join(files(whole).values())


def test_another_set_and_an_unfinished_run_are_refused(generated, prepared_synthetic, tmp_path):
    pack(generated, tmp_path / "set")
    with pytest.raises(UsageError, match="was made with other settings"):
        pack(generated, tmp_path / "set", "webdataset")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(generated, unfinished)
    (unfinished / "manifest.jsonl").unlink()
    with pytest.raises(UsageError, match=r"no finished run of 'satcascade sample' \(it has no manifest"):
        pack(unfinished, tmp_path / "other")
    broken = tmp_path / "broken"
    shutil.copytree(generated, broken)
    (broken / manifest(generated)[0]["file"]).write_bytes(b"")
    with pytest.raises(SatcascadeError, match="is missing or broken"):
        pack(broken, tmp_path / "other")
    foreign = tmp_path / "foreign"
    shutil.copytree(generated, foreign)
    text = (foreign / "manifest.jsonl").read_text()
    (foreign / "manifest.jsonl").write_text(text.replace(manifest(generated)[0]["row"], "elsewhere.jpg"))
    with pytest.raises(UsageError, match=r"are of row elsewhere\.jpg, which .* has not"):
        pack(foreign, tmp_path / "other-foreign", data=prepared_synthetic.path)


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("beach", "beach"),
        ("dense residential", "dense_residential"),
        ("../up", "up"),
        ("a/b", "a_b"),
        ("train station", "classtrainstation"),
        ("test", "classtest"),
        ("Grünland", "Grünland"),
        ("Test2", "classTest2"),
        ("trains", "trains"),
    ],
)
def test_a_label_is_a_folder_of_its_own_and_no_split(label, folder):
    assert class_folder(label) == folder
