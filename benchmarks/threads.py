"""Seconds a picture with one and with two threads, and beside another thread that has computed before.

    python benchmarks/threads.py [--model builtin] [--runs 5]

Each row is a process of its own. GNU's OpenMP keeps the threads of a team awake between operations only
while all teams of the process together have no more threads than the machine has cores; a second team, of a
thread that computed something large once and lives on, makes both go to sleep after each operation. That
costs most where operations are small. Rows are run in turn, --rounds times, and the best of each is shown:
cores are shared with others on many machines.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

PROGRAM = """
import statistics, sys, threading, time
import torch
from satcascade.zoo import load_pipeline

model, runs, threads, beside = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)


def sample():
    pipeline = load_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    seconds = []
    for run in range(runs + 1):
        start = time.perf_counter()
        pipeline("a lake with a curved shore", seeds=[run])
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds[1:]))


if beside:
    torch.randn(1_000_000).half()  # gives this thread a team
    worker = threading.Thread(target=sample)
    worker.start()
    worker.join()
else:
    sample()
"""

ROWS = {
    "one thread": (1, 0),
    "two threads": (2, 0),
    "two threads, another has computed": (2, 1),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, (threads, beside) in ROWS.items():
            command = [sys.executable, "-c", PROGRAM, arguments.model, str(arguments.runs)]
            command += [str(threads), str(beside)]
            value = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            seconds[name] = min(value, seconds.get(name, value))
    print(f"{'seconds a picture':<36} {'seconds':>8} {'ratio':>6}")
    for name, value in seconds.items():
        print(f"{name:<36} {value:8.2f} {value / seconds['one thread']:6.2f}")


if __name__ == "__main__":
    main()
