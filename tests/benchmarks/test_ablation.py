"""The ablation benchmark: its small copy of a set, and that what is done is not trained again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from satcascade.data.prepared import PreparedDataset

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablation.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not beside the tests")


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_small_copy_holds_the_same_images_and_captions(ablation, prepared_synthetic, tmp_path):
    small = ablation.small_copy(prepared_synthetic, tmp_path / "small", 3)
    assert small.image_size == 32
    assert {split: len(small.indices(split)) for split in small.splits} == {
        "train": 3,
        "val": len(prepared_synthetic.indices("val")),
    }
    whole = {record.filename: row for row, record in enumerate(prepared_synthetic.records)}
    for row, record in enumerate(small.records):
        before = prepared_synthetic.images[whole[record.filename]].astype(float)
        reduced = before.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(small.images[row] - reduced).max() <= 0.5
        assert record == prepared_synthetic.records[whole[record.filename]]


@pytest.mark.slow
def test_variants_are_trained_once_and_compared(
    ablation, prepared_synthetic: PreparedDataset, tmp_path, monkeypatch
):
    suite = ablation.SUITES["overfitting"]
    kept = {name: suite["variants"][name] for name in ("baseline", "colour jitter 0.2")}
    monkeypatch.setitem(suite, "variants", kept)
    encoder = prepared_synthetic.manifest["encoder"]
    # One process has one precision.
    precision = "training.precision=float32"
    settings = (
        f"text_encoder={encoder['name']}",
        "base.model.text_dim=16",
        "training.batch_size=4",
        precision,
    )
    arguments = [str(prepared_synthetic.path), str(tmp_path), "--suite", "overfitting", "--steps", "3"]
    arguments += [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
    ablation.main()
    out = tmp_path / "overfitting"
    table, weights = (out / "table.md").read_text(), out.rglob("model.safetensors")
    written = {path: path.stat().st_mtime_ns for path in weights}
    assert [line.split(" | ")[0:2] for line in table.splitlines()[2:]] == [
        ["| baseline", "12"],
        ["| colour jitter 0.2", "12"],
    ]
    assert (out / "curves.svg").read_text().count("colour jitter 0.2")
    ablation.main()
    assert len(written) == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == written
    assert (out / "table.md").read_text() == table
