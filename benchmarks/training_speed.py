"""Images a second in training, and what a step waits for, on the device at hand.

    python benchmarks/training_speed.py prepared/rsicd [--batch-size 32] [--steps 5] [--compile both]

Each row is a run of the trainer itself, with everything that a step does; checkpoints, sample grids and the
first steps (compiling, first allocations) are not counted. "s of CPU" is what the process computed in a step,
"data alone" a batch that nothing overlaps, "waiting" the share of the time in which a step had no batch yet;
"peak GiB" is the GPU's memory, or all that the process has held so far (so one row a process, on a CPU).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from satcascade.config.preset import load_preset
from satcascade.data.prepared import PreparedDataset
from satcascade.hardware.precision import compute_dtype
from satcascade.io.tables import markdown_row, markdown_table
from satcascade.training.device_data import DeviceData
from satcascade.training.stage_trainer import StageTrainer

_WARM_UP = 3


def measure(
    stage: str, dataset: PreparedDataset, preset: str, settings: list[str], steps: int, device: str
) -> list[str]:
    """A row of the table."""
    total = _WARM_UP + steps
    fixed = [
        f"steps={total + 1}",
        "decay_steps=0",
        "sample_every=0",
        "checkpoint_every=0",
        "log_every=100000",
    ]
    overrides = [f"{stage}.training.{setting}" for setting in fixed]
    overrides += [f"{stage}.{setting}" for setting in settings]
    chosen = load_preset(preset, overrides)
    training = chosen.stage(stage).training
    dtype = compute_dtype(training.precision, device)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if dtype is torch.bfloat16 else "no"
    )
    data = DeviceData(dataset, "train", accelerator.device, training.resident)

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = StageTrainer(stage, chosen, data, Path(folder) / "run", accelerator, dtype, quiet=True)
        with trainer:
            for _ in range(_WARM_UP):
                trainer.advance()
            began, waited, used = now(), trainer.waited, time.process_time()
            for _ in range(steps):
                trainer.advance()
            elapsed, waited = now() - began, trainer.waited - waited
            used = time.process_time() - used
        source = trainer.source
        source(0)
        began = now()
        for step in range(5):
            source(step)
        alone = (now() - began) / 5
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        stage,
        str(training.hardware.compile).lower(),
        "device" if data.resident else "memory map",
        str(training.batch_size),
        f"{steps * training.batch_size / elapsed:.1f}",
        f"{elapsed / steps:.3f}",
        f"{used / steps:.3f}",
        f"{alone:.4f}",
        f"{waited / elapsed:.1%}",
        f"{peak:.1f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--stages", nargs="+", default=["base", "sr"])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", choices=["no", "yes", "both"], default="no")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of each stage")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    dataset = PreparedDataset.open(given.data)
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    )
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} of {os.cpu_count()} threads")
    names = ["stage", "compiled", "data", "batch", "images/s", "s a step", "s of CPU", "data alone (s)"]
    names += ["waiting", "peak GiB"]
    print(markdown_table([names]), end="")
    for stage in given.stages:
        for size in given.batch_size:
            for compiled in {"no": ["false"], "yes": ["true"], "both": ["false", "true"]}[given.compile]:
                settings = [f"training.batch_size={size}", f"training.compile={compiled}", *given.set]
                row = measure(stage, dataset, given.preset, settings, given.steps, given.device)
                print(markdown_row(row), end="", flush=True)


if __name__ == "__main__":
    main()
