"""Seconds and peak memory of ``satcascade convert`` on a checkpoint of the size of RSDiff's released one.

    python benchmarks/convert_memory.py [--folder DIR]

The file is synthetic: random weights under the names and shapes of the manifest in tests/data, laid out as a
trainer of both stages writes it whose second stage was trained last. The weights that were trained are stored
once for ``model`` and ``ema``; then come their averages and, for the second stage, Adam's two moments:
1.90 GB. It is deleted at the end.

Three numbers for memory, each the highest of a fresh process, which starts at what its imports take:
"resident" counts the pages of the mapped file too, which the system can take back at any time; "private"
does not; "imports alone" is resident memory of a process that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

MANIFEST = Path(__file__).parent.parent / "tests" / "data" / "rsdiff1.5_manifest.json"
IMPORTS = "import satcascade.interop.imagen_checkpoint"
GB = 1e9


def write_checkpoint(path: Path) -> int:
    """Write the synthetic checkpoint; the bytes of the weights that a conversion keeps."""
    torch.manual_seed(0)
    content: dict[str, object] = {"version": "2.1.0", "steps": torch.tensor([136_500, 89_050])}
    model: dict[str, Tensor] = {}
    ema: dict[str, Tensor] = {}
    kept = 0
    for index, shapes in enumerate(json.loads(MANIFEST.read_text())["unets"]):
        online = {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}
        kept += sum(value.nbytes for value in online.values())
        model |= {f"unets.{index}.{name}": value for name, value in online.items()}
        ema |= {f"{index}.initted": torch.tensor(True), f"{index}.step": torch.tensor(1)}
        ema |= {f"{index}.online_model.{name}": value for name, value in online.items()}
        ema |= {f"{index}.ema_model.{name}": value * 0.9 for name, value in online.items()}
        state = {
            number: {"step": torch.tensor(1.0), "exp_avg": value * 0.1, "exp_avg_sq": value.square()}
            for number, value in enumerate(online.values() if index else ())
        }
        group = {"lr": 1e-4, "betas": (0.9, 0.99), "eps": 1e-8, "params": list(range(len(online)))}
        content |= {f"optim{index}": {"state": state, "param_groups": [group]}, f"scaler{index}": {}}
    torch.save(content | {"model": model, "ema": ema}, path)
    return kept


def peaks(command: list[str]) -> tuple[float, int, int]:
    """Seconds, peak resident and peak private memory in bytes of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    private, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            private.append(private_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024, max(private)


def private_memory(pid: int) -> int:
    """Anonymous memory of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    """Write, convert, print the table."""
    parser = argparse.ArgumentParser(description="Memory of a conversion.")
    parser.add_argument("--folder", type=Path, help="where to write (3.5 GB); default: a temporary folder")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        # In a process of its own: a child's peak starts at that of the process it was started from.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            kept = pool.submit(write_checkpoint, checkpoint).result()
        size = checkpoint.stat().st_size
        print(f"checkpoint {size / GB:.2f} GB; weights kept {kept / GB:.3f} GB (float32)")
        print("| | seconds | peak resident, GB | over weights kept | peak private, GB | over weights kept |")
        print("|---|---|---|---|---|---|")
        _, resident, private = peaks([sys.executable, "-c", IMPORTS])
        print(f"| imports alone | | {resident / GB:.2f} | | {private / GB:.2f} | |")
        for options in ([], ["--half"], ["--weights", "online"]):
            out = Path(folder) / f"model{'-'.join(options)}"
            command = [sys.executable, "-m", "satcascade", "convert", str(checkpoint), str(out), *options]
            seconds, resident, private = peaks(command)
            figures = (
                f"{resident / GB:.2f} | {resident / kept:.2f} | {private / GB:.2f} | {private / kept:.2f}"
            )
            print(f"| {' '.join(['convert', *options])} | {seconds:.1f} | {figures} |")


if __name__ == "__main__":
    main()
