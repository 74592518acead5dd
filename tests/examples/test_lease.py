"""The scripts of examples/lease: what is carried arrives whole, and what is damaged is named."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from satcascade.data.prepared import PreparedDataset
from satcascade.training.checkpoints import Checkpoint, CheckpointFolder

SCRIPTS = Path(__file__).parents[2] / "examples/lease"

pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the examples are not beside the tests")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script's ``main`` with arguments; what it printed, or what it was refused with."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    # Their names are too common to stay importable.
    for name in ("carry", "pack", "pieces", "unpack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import carry
    import pack
    import pieces
    import unpack

    modules = {"carry": carry, "pack": pack, "unpack": unpack}

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            pieces.run_script(modules[name].main)
        except SystemExit as refused:
            return str(refused)
        return capsys.readouterr().out

    return run


def test_a_packed_set_is_unpacked_with_the_same_captions_and_nearly_the_same_images(
    script, prepared_synthetic, tmp_path
):
    said = script("pack", prepared_synthetic.path, tmp_path / "packed", "--size", 64, "--piece-mib", 0.05)
    pieces = sorted((tmp_path / "packed").glob("set.tar.*"))
    assert said.startswith(f"{len(pieces)} pieces")
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) <= 0.05 * 2**20
    script("unpack", tmp_path / "packed", tmp_path / "prepared")
    there = PreparedDataset.open(tmp_path / "prepared")
    assert there.splits == {"train": 32, "val": 4}
    assert there.manifest["encoder"] == prepared_synthetic.manifest["encoder"]
    rows = np.concatenate([prepared_synthetic.indices(split) for split in ("train", "val")])
    rows.sort()
    for record, row in zip(there.records, rows, strict=True):
        original = prepared_synthetic.records[row]
        assert (record.filename, record.captions) == (original.filename, original.captions)
        mine, theirs = there.text(record.caption_ids), prepared_synthetic.text(original.caption_ids)
        assert torch.equal(mine.embeddings, theirs.embeddings)
    error = there.images.astype(float) - prepared_synthetic.images[rows]
    assert np.sqrt((error**2).mean()) < 12
    # Wherever it is unpacked it is the same set to a run.
    script("unpack", tmp_path / "packed", tmp_path / "again")
    assert PreparedDataset.open(tmp_path / "again").hash == there.hash


def test_images_carried_smaller_come_back_at_the_asked_size(script, prepared_synthetic, tmp_path):
    options = ("--size", 64, "--stored", 32, "--splits", "val")
    script("pack", prepared_synthetic.path, tmp_path / "packed", *options)
    script("unpack", tmp_path / "packed", tmp_path / "prepared")
    there = PreparedDataset.open(tmp_path / "prepared")
    assert there.images.shape == (4, 64, 64, 3)
    distances = np.abs(
        there.images[:, None].astype(float) - prepared_synthetic.images[prepared_synthetic.indices("val")]
    ).mean((2, 3, 4))
    assert (distances.argmin(1) == np.arange(4)).all()


def test_fewer_captions_and_embeddings_in_eight_bits(script, prepared_synthetic, tmp_path):
    script("pack", prepared_synthetic.path, tmp_path / "packed", "--size", 64, "--captions", 1, "--int8")
    script("unpack", tmp_path / "packed", tmp_path / "prepared")
    there = PreparedDataset.open(tmp_path / "prepared")
    originals = {record.filename: record for record in prepared_synthetic.records}
    for record in there.records:
        original = originals[record.filename]
        assert record.captions == original.captions[:1]
        mine, theirs = there.text(record.caption_ids), prepared_synthetic.text(original.caption_ids[:1])
        # Half a level of 127, and what float16 rounds of scale and product.
        bound = theirs.embeddings.abs().amax(-1, keepdim=True) * (0.5 / 127 + 2**-10)
        assert ((mine.embeddings - theirs.embeddings).abs() <= bound).all()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with a checkpoint of 100,000 numbers a network, as training leaves it."""
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(100, 1000, generator=chance)
    state = {"0.0.exp_avg_sq": weight.square() * 1e-12, "0.0.step": torch.tensor(7.0)}
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"identity": {"stage": "base"}}')
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 10)))
    (run / "validation.jsonl").write_text('{"step": 5, "loss": 0.3}\n{"step": 9, "loss": 0.2}\n')
    ema = {"weight": weight * 0.9, "bias": weight[0] / 3}
    CheckpointFolder(run).save(Checkpoint(7, {"weight": weight, "bias": weight[0].clone()}, ema, state))
    return run


def test_an_exactly_carried_checkpoint_is_the_same(script, run_folder, tmp_path):
    script("carry", "cut", run_folder, tmp_path / "out", "--exact", "--piece-mib", 0.25)
    assert len(list((tmp_path / "out").glob("checkpoint.tar.*"))) == 5
    script("carry", "join", tmp_path / "out", tmp_path / "there")
    before, after = (CheckpointFolder(run).load(7) for run in (run_folder, tmp_path / "there"))
    for name in ("model", "ema", "optimizer"):
        mine, theirs = getattr(before, name), getattr(after, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert (tmp_path / "there/run.json").read_text() == (run_folder / "run.json").read_text()
    for name, count in (("metrics.jsonl", 7), ("validation.jsonl", 1)):
        assert len((tmp_path / "there" / name).read_text().splitlines()) == count


def test_a_carried_checkpoint_is_rounded_to_half_its_size(script, run_folder, tmp_path):
    script("carry", "cut", run_folder, tmp_path / "out")
    (piece,) = (tmp_path / "out").glob("checkpoint.tar.*")
    assert piece.stat().st_size < 0.55 * 4 * 3 * 100_000
    script("carry", "join", tmp_path / "out", tmp_path / "there")
    before, after = (CheckpointFolder(run).load(7) for run in (run_folder, tmp_path / "there"))
    for name, tolerance in (("model", 2**-11), ("ema", 2**-11), ("optimizer", 2**-8)):
        for key, value in getattr(before, name).items():
            carried = getattr(after, name)[key]
            assert carried.dtype == torch.float32
            least = 0 if name == "optimizer" else 1e-7
            torch.testing.assert_close(carried, value, rtol=tolerance, atol=least)


def test_damaged_pieces_are_named(script, run_folder, tmp_path):
    script("carry", "cut", run_folder, tmp_path / "out", "--piece-mib", 0.25)
    pieces = sorted((tmp_path / "out").glob("checkpoint.tar.*"))
    whole = pieces[1].read_bytes()
    damages = {
        whole[:-1]: rf"error: .*checkpoint\.tar\.001 has {len(whole) - 1} bytes instead of {len(whole)}",
        whole[:-1] + bytes([whole[-1] ^ 1]): r"checkpoint\.tar\.001 is not what was cut",
    }
    for content, message in damages.items():
        pieces[1].write_bytes(content)
        said = script("carry", "join", tmp_path / "out", tmp_path / "there")
        assert re.search(message, said)
    pieces[1].unlink()
    assert "checkpoint.tar.001 is missing" in script("carry", "join", tmp_path / "out", tmp_path / "there")
    (tmp_path / "out/pieces.json").unlink()
    assert "no readable pieces.json" in script("unpack", tmp_path / "out", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_another_run_is_not_overwritten(script, run_folder, tmp_path):
    script("carry", "cut", run_folder, tmp_path / "out")
    assert "has a checkpoint of step 7" in script("carry", "join", tmp_path / "out", run_folder)
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    (other / "run.json").write_text('{"identity": {"stage": "sr"}}')
    assert "holds another run" in script("carry", "join", tmp_path / "out", other)
    assert "has no such checkpoint: it has 7" in script("carry", "cut", other, tmp_path / "x", "--step", 3)
