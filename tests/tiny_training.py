"""Short training runs of a tiny stage, and their weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
