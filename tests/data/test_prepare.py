"""``prepare``: what it writes, what it refuses, and what is left when it is stopped."""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from forked import Forked
from satcascade.data.decode import decode_image
from satcascade.data.prepare import prepare
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.text import CaptionTruncatedWarning, load_text_encoder
from synthetic import make_synthetic_imagefolder, make_synthetic_rsicd, synthetic_image, synthetic_rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten images of 48 x 48 in RSICD's layout, to be spoiled."""
    return make_synthetic_rsicd(tmp_path / "source", images=10, size=48)


def edit(source: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the annotations of an RSICD folder."""
    path = source / "dataset_rsicd.json"
    content = json.loads(path.read_text())
    change(content["images"])
    path.write_text(json.dumps(content))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_images_captions_labels_and_splits_arrive(
    prepared_synthetic: PreparedDataset, synthetic_rsicd: Path
) -> None:
    rows = synthetic_rows(40)
    dataset = prepared_synthetic
    assert [
        (record.filename, record.split, record.label, list(record.captions)) for record in dataset.records
    ] == [(row["filename"], row["split"], row["label"], row["captions"]) for row in rows]
    assert dataset.captions == list(dict.fromkeys(text for row in rows for text in row["captions"]))
    for record in dataset.records:
        assert tuple(dataset.captions[i] for i in record.caption_ids) == record.captions
    for row, image in zip(rows, dataset.images, strict=True):
        with Image.open(synthetic_rsicd / "RSICD_images" / row["filename"]) as file:
            np.testing.assert_array_equal(image, np.asarray(file))
    assert dataset.splits == {"train": 32, "val": 4, "test": 4}
    assert dataset.manifest["labels"] == {"DenseResidential": 10, "Desert": 10, "Forest": 10, "Pond": 10}


def test_cached_embeddings_are_the_encoders(
    prepared_synthetic: PreparedDataset, tiny_text_encoder: str
) -> None:
    encoder = load_text_encoder(tiny_text_encoder)
    rows = list(range(len(prepared_synthetic.captions)))
    cached = prepared_synthetic.text(rows)
    fresh = encoder(prepared_synthetic.captions)
    assert cached.embeddings.shape == fresh.embeddings.shape
    assert cached.mask.equal(fresh.mask)
    np.testing.assert_allclose(cached.embeddings, fresh.embeddings, atol=3e-3)
    assert prepared_synthetic.manifest["encoder"] == {
        "name": tiny_text_encoder,
        "dim": 16,
        "fingerprint": encoder.fingerprint,
    }


def test_the_report_counts(source: Path, tmp_path: Path, tiny_text_encoder: str) -> None:
    report = prepare(source, tmp_path / "out", image_size=16, encoder=tiny_text_encoder, progress=False)
    assert (report.kind, report.images, report.splits) == ("rsicd", 10, {"train": 8, "val": 1, "test": 1})
    assert not report.skipped
    assert not report.already_there
    assert report.summary().startswith(
        f"10 images (train 8, val 1, test 1), {report.captions} distinct captions"
    )
    assert report.hash == PreparedDataset.open(tmp_path / "out").hash


def test_the_same_source_gives_the_same_hash_and_another_image_another(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    def hash_of(name: str) -> str:
        return prepare(source, tmp_path / name, image_size=16, encoder=tiny_text_encoder, progress=False).hash

    first = hash_of("a")
    assert hash_of("b") == first
    Image.new("RGB", (48, 48)).save(source / "RSICD_images" / "pond_0.jpg")
    assert hash_of("c") != first


def test_another_layout_of_the_same_set_has_the_same_images(tmp_path: Path, tiny_text_encoder: str) -> None:
    make_synthetic_imagefolder(tmp_path / "folder", images=10, size=16)
    make_synthetic_rsicd(tmp_path / "rsicd", images=10, size=16)
    images = {}
    for name in ("folder", "rsicd"):
        prepare(
            tmp_path / name,
            tmp_path / f"{name}.out",
            image_size=16,
            encoder=tiny_text_encoder,
            progress=False,
        )
        dataset = PreparedDataset.open(tmp_path / f"{name}.out")
        images[name] = {
            Path(r.filename).name: image for r, image in zip(dataset.records, dataset.images, strict=True)
        }
    assert images["folder"].keys() == images["rsicd"].keys()
    for name, image in images["folder"].items():
        np.testing.assert_array_equal(image, images["rsicd"][name])


# The bad-input table: what is done to the source, the kind and name in the report, images and captions left.
def missing_image(source: Path) -> None:
    (source / "RSICD_images" / "desert_1.jpg").unlink()


def truncated_image(source: Path) -> None:
    path = source / "RSICD_images" / "desert_1.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def not_an_image(source: Path) -> None:
    (source / "RSICD_images" / "desert_1.jpg").write_text("<html>404</html>")


def empty_file(source: Path) -> None:
    (source / "RSICD_images" / "desert_1.jpg").write_bytes(b"")


def many_bits(source: Path) -> None:
    Image.new("I", (48, 48), 100_000).save(source / "RSICD_images" / "desert_1.jpg", format="PPM")


def no_caption(source: Path) -> None:
    edit(source, lambda rows: rows[1].update(sentences=[]))


def empty_caption(source: Path) -> None:
    edit(source, lambda rows: rows[1]["sentences"][2].update(raw="  \n"))


def only_empty_captions(source: Path) -> None:
    edit(source, lambda rows: rows[1].update(sentences=[{"raw": ""}]))


def unknown_split(source: Path) -> None:
    edit(source, lambda rows: rows[1].update(split="restval"))


def duplicate_name(source: Path) -> None:
    edit(source, lambda rows: rows.insert(1, {**rows[1], "split": "test"}))


BAD = [
    (missing_image, "missing image: 1: desert_1.jpg", 9),
    (truncated_image, r"broken image: 1: desert_1.jpg (image file is truncated", 9),
    (not_an_image, "broken image: 1: desert_1.jpg (not an image)", 9),
    (empty_file, "broken image: 1: desert_1.jpg (not an image)", 9),
    (many_bits, "broken image: 1: desert_1.jpg (mode I, not 8 bits a channel)", 9),
    (no_caption, "no caption: 1: desert_1.jpg", 9),
    (empty_caption, "empty caption: 1: desert_1.jpg (1 of 5)", 10),
    (only_empty_captions, "empty caption: 1: desert_1.jpg (1 of 1)", 9),
    (unknown_split, "unknown split: 1: desert_1.jpg ('restval')", 9),
    (duplicate_name, "duplicate name: 1: desert_1.jpg", 10),
]


@pytest.mark.parametrize(("spoil", "line", "left"), BAD, ids=[spoil.__name__ for spoil, _, _ in BAD])
def test_bad_rows_are_refused_or_skipped_and_always_named(
    spoil: Callable[[Path], None], line: str, left: int, source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    spoil(source)
    out = tmp_path / "new" / "out"
    with pytest.raises(SatcascadeError, match="1 bad entries, nothing was written") as caught:
        prepare(source, out, image_size=16, encoder=tiny_text_encoder, progress=False)
    assert line in str(caught.value)
    assert not out.parent.exists()

    report = prepare(source, out, image_size=16, encoder=tiny_text_encoder, skip_bad=True, progress=False)

    assert line in report.summary()
    assert report.images == left
    dataset = PreparedDataset.open(out)
    clean = make_synthetic_rsicd(tmp_path / "clean", images=10, size=48)
    prepare(clean, tmp_path / "clean.out", image_size=16, encoder=tiny_text_encoder, progress=False)
    expected = PreparedDataset.open(tmp_path / "clean.out")
    rows = {record.filename: row for row, record in enumerate(expected.records)}
    for record, image in zip(dataset.records, dataset.images, strict=True):
        np.testing.assert_array_equal(image, expected.images[rows[record.filename]])
    captions = {record.filename: record.captions for record in dataset.records}
    assert all(all(texts) for texts in captions.values())
    assert ("desert_1.jpg" in captions) == (left == 10)


def test_all_problems_are_in_one_report(source: Path, tmp_path: Path, tiny_text_encoder: str) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[0]["split"] = "holdout"
        rows[2]["sentences"][0]["raw"] = ""
        rows.append(rows[3])

    edit(source, spoil)
    not_an_image(source)
    (source / "RSICD_images" / synthetic_rows(10)[5]["filename"]).unlink()
    with pytest.raises(SatcascadeError) as caught:
        prepare(source, tmp_path / "out", image_size=16, encoder=tiny_text_encoder, progress=False)
    report = str(caught.value)
    assert "5 bad entries" in report
    for kind in ("unknown split", "empty caption", "duplicate name", "broken image", "missing image"):
        assert f"  {kind}: 1: " in report


def test_nothing_usable_left_is_refused_even_when_skipping(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    edit(source, lambda rows: [row.update(split="holdout") for row in rows])
    with pytest.raises(SatcascadeError, match="holds no usable captioned image"):
        prepare(source, tmp_path / "out", encoder=tiny_text_encoder, skip_bad=True, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, -256])
def test_an_impossible_size_is_refused(size: int, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"image size {size} is not possible"):
        prepare(source, tmp_path / "out", image_size=size)
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_for_rows_without_one_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown split 'holdout': choose from train, val, test"):
        prepare(source, tmp_path / "out", split="holdout")


def test_an_encoder_that_cannot_be_had_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SatcascadeError, match="text encoder"):
        prepare(source, tmp_path / "out", encoder=str(tmp_path / "nothing"), progress=False)
    assert not (tmp_path / "out").exists()


def test_the_same_settings_again_do_nothing(source: Path, tmp_path: Path, tiny_text_encoder: str) -> None:
    out = tmp_path / "out"
    first = prepare(source, out, image_size=16, encoder=tiny_text_encoder, progress=False)
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = prepare(source, out, image_size=16, encoder=tiny_text_encoder, progress=False)
    assert again.already_there
    assert again.hash == first.hash
    assert "already prepared" in again.summary()
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: {"image_size": 24}, "image size 16 there, 24 asked for"),
        (lambda source: missing_image(source) or {"skip_bad": True}, "its source had other rows or images"),
        (lambda source: edit(source, lambda rows: rows.pop()) or {}, "its source had other rows or images"),
    ],
    ids=["size", "image gone", "row gone"],
)
def test_another_set_in_out_is_refused_and_left_alone(
    change: Callable[[Path], dict[str, Any]],
    message: str,
    source: Path,
    tmp_path: Path,
    tiny_text_encoder: str,
) -> None:
    out = tmp_path / "out"
    settings = {"image_size": 16, "encoder": tiny_text_encoder, "progress": False}
    prepare(source, out, **settings)
    before = files(out)
    with pytest.raises(SatcascadeError, match=message):
        prepare(source, out, **{**settings, **change(source)})
    assert files(out) == before


def test_other_weights_under_the_same_encoder_name_are_noticed(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    import torch
    from transformers import BertModel

    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_text_encoder, encoder)
    prepare(source, tmp_path / "out", image_size=16, encoder=str(encoder), progress=False)
    model = BertModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.add_(0.1)
    model.save_pretrained(encoder)
    with pytest.raises(SatcascadeError, match="had other weights"):
        prepare(source, tmp_path / "out", image_size=16, encoder=str(encoder), progress=False)


def test_a_folder_with_other_files_is_refused_and_left_alone(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "captions.txt").write_text("mine\n")
    with pytest.raises(SatcascadeError, match="is not empty and holds no prepared set"):
        prepare(source, out, image_size=16, encoder=tiny_text_encoder, progress=False)
    assert files(out) == {"captions.txt": b"mine\n"}


def test_a_file_in_the_place_of_out_is_refused(source: Path, tmp_path: Path, tiny_text_encoder: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SatcascadeError, match="is a file"):
        prepare(source, tmp_path / "out", encoder=tiny_text_encoder, progress=False)
    with pytest.raises(SatcascadeError, match="cannot be written to"):
        prepare(source, tmp_path / "out" / "below", encoder=tiny_text_encoder, progress=False)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_long_caption_is_cut_with_one_warning(source: Path, tmp_path: Path, tiny_text_encoder: str) -> None:
    edit(
        source, lambda rows: [row["sentences"].append({"raw": f"pond {row['imgid']} " * 500}) for row in rows]
    )
    with pytest.warns(CaptionTruncatedWarning, match="cut at the 128") as caught:
        prepare(source, tmp_path / "out", image_size=16, encoder=tiny_text_encoder, progress=False)
    assert len(caught) == 1
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.text([dataset.records[0].caption_ids[-1]]).mask.sum() == 128


def test_a_killed_run_leaves_no_set_and_the_next_one_completes_it(
    tmp_path: Path, tiny_text_encoder: str
) -> None:
    source = make_synthetic_rsicd(tmp_path / "source", images=300, size=128)
    out = tmp_path / "out"
    settings = {"image_size": 512, "encoder": tiny_text_encoder, "progress": False}
    process = Forked(partial(prepare, source, out, **settings))
    deadline = time.monotonic() + 60
    while not ((out / ".preparing" / "images.npy").exists() or process.poll() is not None):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.poll() == -signal.SIGKILL, "it was not killed in the middle of its work"
    assert [path.name for path in out.iterdir()] == [".preparing"]
    with pytest.raises(SatcascadeError, match="is not a prepared set"):
        PreparedDataset.open(out)

    report = prepare(source, out, **settings)

    assert not report.already_there
    assert not (out / ".preparing").exists()
    assert report.hash == prepare(source, tmp_path / "other", **settings).hash


def test_a_run_killed_between_its_last_files_is_completed(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    settings = {"image_size": 16, "encoder": tiny_text_encoder, "progress": False}
    whole = prepare(source, tmp_path / "whole", **settings)
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", out)
    (out / ".preparing").mkdir()
    assert prepare(source, out, **settings).already_there
    assert not (out / ".preparing").exists()
    (out / ".preparing").mkdir()
    (out / ".preparing" / "captions.txt").write_text("half")
    (out / "manifest.json").unlink()
    assert prepare(source, out, **settings).hash == whole.hash
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("name", [".", "new"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str, small_disk: Path, source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    out = small_disk / name
    settings = {"encoder": tiny_text_encoder, "progress": False}
    with pytest.raises(SatcascadeError, match="no space left on the device") as caught:
        prepare(source, out, image_size=1024, **settings)
    assert "\n" not in str(caught.value)
    assert list(small_disk.iterdir()) == []
    # Room for the same set at another size is room again.
    assert prepare(source, out, image_size=16, **settings).images == 10


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_the_error_stream(
    progress: bool,
    source: Path,
    tmp_path: Path,
    tiny_text_encoder: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    prepare(source, tmp_path / "out", image_size=16, encoder=tiny_text_encoder, progress=progress)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("images" in shown.err and "10/10" in shown.err) == progress


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(1, 40),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"]),
)
def test_any_image_becomes_a_square_of_rgb(width: int, height: int, size: int, mode: str) -> None:
    buffer = io.BytesIO()
    image = Image.effect_noise((width, height), 64).convert("RGB").convert(mode)
    image.save(buffer, format="TIFF")
    decoded = decode_image(buffer.getvalue(), size)
    assert decoded.shape == (size, size, 3)
    assert decoded.dtype == np.uint8
    if width == height == size:
        np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_a_wide_image_is_cropped_at_its_centre() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (10, 200, 30)
    for turned in (pixels, pixels.transpose(1, 0, 2)):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(turned)).save(buffer, format="PNG")
        assert (decode_image(buffer.getvalue(), 32) == (10, 200, 30)).all()


def test_resizing_is_pillows_bicubic() -> None:
    image = synthetic_image("Forest", 0, 50)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), 32), expected)


def test_preparing_is_silent_about_good_captions(
    source: Path, tmp_path: Path, tiny_text_encoder: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptionTruncatedWarning)
        prepare(source, tmp_path / "out", image_size=16, encoder=tiny_text_encoder, progress=False)
