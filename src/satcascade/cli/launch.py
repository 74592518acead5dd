"""The same command in several processes of this machine, which find each other as torchrun's do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def launched() -> bool:
    """Whether this is one of several processes already: of :func:`launch`, or of the user's own torchrun."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def place() -> tuple[int, int, int]:
    """The number of this process among all, how many there are, and its number on this machine, from 0."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run a command in several processes and wait for them; the exit status, 0 if all of them did it.

    SIGINT and SIGTERM end them all, each as it would end alone.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*launcher, str(processes), "-m", "satcascade", *arguments]
    # In a session of its own, where Ctrl-C reaches it once: by what is passed on here.
    process = subprocess.Popen(command, start_new_session=True)
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        if not received:
            process.terminate()
        received.append(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else status
