"""Edits by several processes of one command."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forked import Forked, launch, place
from satcascade import cli

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def files(folder: Path) -> dict[str, bytes]:
    # Locks stay, and are named after the shards that there were.
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> list[str]:
    """Makes 16 pictures in batches of 2 of an image that has to be cropped, of which it warns."""
    levels = np.random.default_rng(3).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "tile.png")
    words = ["edit", tmp_path / "tile.png", "a pond", "--strength", 0.9, "-n", 16, "--batch-size", 2]
    words += ["--steps", 30, "--scheduler", "ddpm", "--seed", 5, "--model", tiny_model, "--device", "cpu"]
    return [str(word) for word in words]


def process_of(rank: int, command: list[str], out: Path) -> Forked:
    """One of two processes as ``--processes 2`` starts them, by way of torchrun."""
    arguments = [*command, "--out", str(out), "--processes", "2"]
    return Forked(cli.main, arguments, environment=place(rank, 2))


@pytest.mark.slow
def test_processes_share_an_edit_and_go_on_when_one_was_killed(command, tmp_path, monkeypatch, capfd):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--out", str(tmp_path / "alone")])
    assert end.value.code == 0
    first, second = (process_of(rank, command, tmp_path / "out") for rank in (0, 1))
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("0002*.png")) and second.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second.kill()
    assert second.poll() == -signal.SIGKILL
    assert first.wait() == 0, first.err
    # The first one's share is there, and says so.
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    assert (tmp_path / "out" / "manifest.shard-1-of-2.jsonl").read_text().count("\n") == 8
    monkeypatch.setattr("satcascade.cli.sharing.launch", launch)
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--out", str(tmp_path / "out"), "--processes", "2"])
    ended = capfd.readouterr()
    assert end.value.code == 0, ended.err
    summary = rf"16 images in {re.escape(str(tmp_path / 'out'))} \(.* s, 2 processes\)\n"
    assert re.search(summary, ended.out)
    # Once, not once a process.
    assert ended.err.count("it is cropped at its centre") == 1
    shared, alone = files(tmp_path / "out"), files(tmp_path / "alone")
    assert sorted(shared) == sorted(alone)
    assert shared["manifest.jsonl"] == alone["manifest.jsonl"]
    for name in alone:
        if name.endswith(".png"):
            left, right = (np.asarray(Image.open(tmp_path / which / name), int) for which in ("out", "alone"))
            assert np.abs(left - right).max() <= 1
