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
from pathlib import Path

from satcascade.io.tables import markdown_table

# Of a process of its own; its first argument is this folder.
PROGRAM = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import torch
from sampling_speed import median_seconds
from satcascade.zoo import load_pipeline

model, runs, threads, beside = sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)


def sample():
    pipeline = load_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    print(median_seconds(lambda: pipeline("a lake with a curved shore", seeds=[0]), runs))


if beside:
    torch.randn(1_000_000).half()  # gives this thread a team
    worker = threading.Thread(target=sample)
    worker.start()
    worker.join()
else:
    sample()
"""

ROWS = {
    "one thread": (1, False),
    "two threads": (2, False),
    "two threads, another has computed": (2, True),
}


def picture_seconds(model: str, runs: int, threads: int, beside: bool) -> float:
    """Median seconds of a picture in a process of its own.

    Args:
        model: a model folder, or the built-in model's name.
        runs: pictures that are counted.
        threads: that it computes on.
        beside: sample in a second thread, when the first has computed.
    """
    arguments = [str(Path(__file__).parent), model, str(runs), str(threads), str(int(beside))]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
            value = picture_seconds(arguments.model, arguments.runs, threads, beside)
            seconds[name] = min(value, seconds.get(name, value))
    rows = [[name, f"{value:.2f}", f"{value / seconds['one thread']:.2f}"] for name, value in seconds.items()]
    print(markdown_table([["seconds a picture", "seconds", "ratio"], *rows]), end="")


if __name__ == "__main__":
    main()
