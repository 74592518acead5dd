"""Short training runs of a tiny stage, and their weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from satcascade.data.prepared import PreparedDataset
from satcascade.training.run import train


def run(preset: str, data: PreparedDataset, out: Path, *overrides: str, stage: str = "base") -> Path:
    (checkpoint,) = train(
        [stage], preset=preset, data=data.path, out=out, overrides=overrides, device="cpu", quiet=True
    )
    return checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name in ("model", "ema", "optimizer")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def assert_same(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def in_a_process(preset: str, data: PreparedDataset, out: Path, *overrides: str) -> subprocess.Popen[str]:
    script = (
        "import sys; from satcascade.training.run import train; "
        "train(['base'], preset=sys.argv[1], data=sys.argv[2], out=sys.argv[3], overrides=sys.argv[4:], "
        "device='cpu')"
    )
    arguments = [preset, str(data.path), str(out), *overrides]
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True)


def assert_alike(a: Path, b: Path) -> None:
    """Losses and weights of two runs, given by their last checkpoints, are equal up to rounding."""
    curves = [
        [json.loads(line)["loss"] for line in (last.parents[1] / "metrics.jsonl").read_text().splitlines()]
        for last in (a, b)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=5e-4)


TRAIN = (
    "from satcascade.training.run import train; train(['base'], preset=sys.argv[1], data=sys.argv[2], "
    "out=sys.argv[3], overrides=sys.argv[4:], device='cpu', quiet=True)"
)


def in_two_processes(
    preset: str, data: PreparedDataset, out: Path, *overrides: str, code: str = TRAIN
) -> subprocess.CompletedProcess[str]:
    """Python code, by default a run of the base stage, in two processes that find each other."""
    # Forked after the imports, which take most of the time.
    script = (
        "import os, sys; import satcascade.training.run; rank = int(os.fork() == 0); "
        f"os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank)); {code}; "
        "rank or sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    tests = Path(__file__).parent
    places = [str(tests), str(tests / "training"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-c", script, preset, str(data.path), str(out), *overrides],
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done
