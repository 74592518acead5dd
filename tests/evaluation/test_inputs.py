from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade.config.stage_settings import StageSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError
from satcascade.evaluation.inputs import Bundle, RealImages
from satcascade.generation.run import GenerationRequest, generate
from satcascade.pipelines.cascade import CascadePipeline
from synthetic import synthetic_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images that anybody might have made."""
    for number, label in enumerate(("Pond", "Desert", "Forest")):
        synthetic_image(label, number, 32).save(tmp_path / f"{number}.png")
    (tmp_path / "captions.txt").write_text("a pond .\nbare  dunes\ntrees\n")
    return tmp_path


def test_any_folder_of_images_with_captions_in_file_order(folder: Path) -> None:
    Image.new("RGB", (99, 99)).save(folder / "_grid.png")
    seen: list[int] = []
    bundle = Bundle.open(folder, seen.append)
    assert len(bundle) == len(bundle.images) == sum(seen) == 3
    assert bundle.captions == ("a pond .", "bare dunes", "trees")
    assert [path.name for path in bundle.images.paths] == ["0.png", "1.png", "2.png"]
    assert np.array_equal(np.asarray(bundle.images[1]), np.asarray(synthetic_image("Desert", 1, 32)))
    assert [image.size for image in bundle.images[1:]] == [(32, 32)] * 2
    assert bundle.rows == (None, None, None)
    assert bundle.settings == {}


def test_grey_images_come_as_rgb(folder: Path) -> None:
    Image.new("L", (32, 32), 7).save(folder / "1.png")
    assert Bundle.open(folder).images[1].getpixel((0, 0)) == (7, 7, 7)


def test_our_folder_brings_rows_and_settings(
    tiny_model: Path, prepared_synthetic: PreparedDataset, tmp_path: Path
) -> None:
    from satcascade.data.captions import Captions

    captions = Captions.from_data(prepared_synthetic.path, "test")
    request = GenerationRequest(
        captions, tmp_path / "out", stages={"base": StageSettings(1), "sr": StageSettings(1)}
    )
    generate(CascadePipeline.from_pretrained(tiny_model), request, progress=False)
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.captions == captions.texts
    assert bundle.rows == captions.rows
    assert bundle.settings["base"]["steps"] == 1
    assert bundle.run["images"] == len(bundle)
    test = prepared_synthetic.indices("test").tolist()
    assert bundle.labels_in(prepared_synthetic) == [prepared_synthetic.records[row].label for row in test]


def test_captions_find_their_rows_where_that_is_unambiguous(
    folder: Path, prepared_synthetic: PreparedDataset
) -> None:
    # A sentence of several rows of one class; a text of no row; a row that the manifest names.
    shared = prepared_synthetic.records[0].captions[0]
    named = prepared_synthetic.records[5]
    owners = [row for row, r in enumerate(prepared_synthetic.records) if shared in r.captions]
    assert len(owners) > 1
    (folder / "captions.txt").write_text(f"{shared}\nnothing like it\nanother\n")
    (folder / "manifest.jsonl").write_text(json.dumps({"file": "2.png", "row": named.filename}) + "\n")
    bundle = Bundle.open(folder)
    assert bundle.labels_in(prepared_synthetic) == [prepared_synthetic.records[0].label, None, named.label]


def test_a_caption_of_one_row_of_the_split_finds_it(
    folder: Path, prepared_synthetic: PreparedDataset
) -> None:
    test = prepared_synthetic.indices("test")
    texts = [prepared_synthetic.records[row].captions[0] for row in test]
    assert len(set(texts)) == len(texts) > 2
    (folder / "captions.txt").write_text("\n".join(texts[:3]))
    owners = [
        {
            prepared_synthetic.records[row].label
            for row in test
            if text in prepared_synthetic.records[row].captions
        }
        for text in texts[:3]
    ]
    expected = [labels.pop() if len(labels) == 1 else None for labels in owners]
    assert Bundle.open(folder).labels_in(prepared_synthetic, "test") == expected


def test_a_damaged_manifest_is_named(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text('{"file": "0.png"\n')
    refused(folder, r"manifest\.jsonl is damaged")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "no folder of generated images")


def test_a_folder_without_images_is_refused(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()
    refused(folder, "holds no images")


def test_a_folder_without_captions_is_refused(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    refused(folder, r"has no captions\.txt")


def test_captions_and_images_must_be_as_many(folder: Path) -> None:
    (folder / "captions.txt").write_text("one\ntwo\n")
    refused(folder, "3 images and 2 lines")


def test_a_truncated_image_is_named_and_not_skipped(folder: Path) -> None:
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    refused(folder, r"1\.png is broken \(.*truncated")


def test_a_truncated_jpeg_is_named(folder: Path) -> None:
    synthetic_image("Pond", 0, 32).save(folder / "1.jpg")
    (folder / "1.png").unlink()
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[: len(whole) // 2])
    refused(folder, r"1\.jpg is broken")


def test_what_is_no_image_is_named_with_the_number_of_others(folder: Path) -> None:
    for number in (1, 2):
        (folder / f"{number}.png").write_text("a text")
    refused(folder, r"1\.png is broken \(not an image\).*1 more")


def test_different_sizes_are_refused(folder: Path) -> None:
    synthetic_image("Pond", 0, 48).save(folder / "2.png")
    refused(folder, r"0\.png is 32 x 32, 2\.png is 48 x 48")


def test_real_images_are_those_of_the_set(prepared_synthetic: PreparedDataset) -> None:
    images = RealImages.of(prepared_synthetic, "test")
    rows = prepared_synthetic.indices("test")
    assert len(images) == len(rows)
    assert np.array_equal(np.asarray(images[1]), prepared_synthetic.images[rows[1]])
    assert images[::2].rows.tolist() == rows[::2].tolist()
    assert len(list(images)) == len(rows)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(SatcascadeError, match=message) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)
