"""Reading a prepared set, and refusing a damaged one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError


@pytest.fixture
def copy(prepared_synthetic: PreparedDataset, tmp_path: Path) -> Path:
    """A prepared folder to be damaged."""
    return Path(shutil.copytree(prepared_synthetic.path, tmp_path / "copy"))


def test_indices_part_the_rows_by_split(prepared_synthetic: PreparedDataset) -> None:
    rows = [prepared_synthetic.indices(split) for split in ("train", "val", "test")]
    assert [len(each) for each in rows] == [32, 4, 4]
    assert all(each.dtype == np.int64 for each in rows)
    assert all((np.diff(each) > 0).all() for each in rows)
    assert sorted(np.concatenate(rows)) == list(range(len(prepared_synthetic)))
    assert {prepared_synthetic.records[row].split for row in rows[1]} == {"val"}


def test_a_missing_split_names_those_that_are_there(prepared_synthetic: PreparedDataset) -> None:
    with pytest.raises(UsageError, match=r"no split 'validation' in .*: it has train, val, test"):
        prepared_synthetic.indices("validation")


def test_images_stay_on_disk_and_cannot_be_changed(prepared_synthetic: PreparedDataset) -> None:
    assert isinstance(prepared_synthetic.images, np.memmap)
    assert prepared_synthetic.images.shape == (40, 64, 64, 3)
    with pytest.raises(ValueError, match="read-only"):
        prepared_synthetic.images[0] = 0


def test_text_is_padded_with_zeros_and_independent_of_its_batch(prepared_synthetic: PreparedDataset) -> None:
    batch = prepared_synthetic.text([3, 0, 3, 5])
    assert batch.embeddings.dtype == torch.float32
    assert batch.mask.dtype == torch.bool
    assert batch.embeddings.shape[:2] == batch.mask.shape
    assert not batch.mask.all(), "the captions chosen differ in length"
    assert (batch.embeddings[~batch.mask] == 0).all()
    assert batch.mask.any(dim=0).all(), "padded no further than the longest"
    for row, caption_id in enumerate([3, 0, 3, 5]):
        alone = prepared_synthetic.text([caption_id])
        assert alone.mask.all()
        assert batch.embeddings[row][batch.mask[row]].equal(alone.embeddings[0])


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _manifest(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *[
            (_cut(name), rf"{name} has \d+ bytes instead of")
            for name in (
                "images.npy",
                "records.jsonl",
                "captions.txt",
                "text_embeddings.npy",
                "text_offsets.npy",
            )
        ],
        (lambda folder: (folder / "images.npy").unlink(), r"images\.npy is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a prepared set"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"format": 1}'),
            "manifest.json lacks captions",
        ),
        (_manifest(format=2), "has format 2, this satcascade reads format 1"),
        (_manifest(images=39), r"images\.npy holds \(40, 64, 64, 3\), the manifest says \(39, 64, 64, 3\)"),
        (_manifest(image_size=65), r"images\.npy holds"),
        (_manifest(captions=3), r"captions\.txt holds"),
        (_manifest(encoder={"name": "x", "dim": 15, "fingerprint": ""}), r"text_embeddings\.npy holds"),
        (shutil.rmtree, "no prepared set at"),
    ],
)
def test_a_damaged_set_is_refused_in_one_line(
    damage: Callable[[Path], object], message: str, copy: Path
) -> None:
    damage(copy)
    with pytest.raises(SatcascadeError, match=message) as caught:
        PreparedDataset.open(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_is_as_good(copy: Path, prepared_synthetic: PreparedDataset) -> None:
    assert PreparedDataset.open(copy).hash == prepared_synthetic.hash
