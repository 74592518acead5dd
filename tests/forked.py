"""Processes that start at once: forked from one that has imported torch and never computed.

For tests that need a process, to kill or to share work with, and not a fresh interpreter: importing takes ten
seconds of a CPU, and a server that has done it is forked from in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from satcascade import cli

_IMPORTED = (
    "torch.utils.tensorboard",
    "satcascade.cli",
    "satcascade.evaluation.run",
    "satcascade.generation.run",
    "satcascade.training.codec.run",
    "satcascade.training.run",
    "satcascade.zoo",
)


class Forked:
    """A function in a process of its own, with this one's environment, folder and number of threads.

    Args:
        function: of a module that can be imported.
        arguments: what it is called with.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ):
        self._texts = tempfile.TemporaryDirectory()
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(list(_IMPORTED))
        start = (os.environ | (environment or {}), str(Path.cwd()), torch.get_num_threads())
        self._process = processes.Process(
            target=_call, args=(*start, self._texts.name, function, arguments), daemon=True
        )
        self._process.start()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._text("out")

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._text("err")

    def poll(self) -> int | None:
        """Its exit status, None while it runs; minus the number of the signal that killed it."""
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int:
        """The exit status, after it has ended."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self.kill()
            raise TimeoutError(f"it still ran after {timeout} s: {self.err}")
        return status

    def kill(self) -> None:
        """End it as a machine that goes down would."""
        self._process.kill()
        self._process.join()

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self._process.pid, signal.SIGTERM)

    def _text(self, name: str) -> str:
        path = Path(self._texts.name, name)
        return path.read_text() if path.exists() else ""


def place(rank: int, processes: int) -> dict[str, str]:
    """What torchrun tells one of several processes of a machine."""
    return {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}


def two_of(function: Callable[..., object], *arguments: Any) -> list[Forked]:
    """Two processes that find each other as torchrun's do, after both have ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [Forked(function, *arguments, environment=place(rank, 2) | address) for rank in range(2)]
    for process in processes:
        assert process.wait() == 0, process.err
    return processes


def launch(processes: int, arguments: Sequence[str]) -> int:
    """What :func:`satcascade.cli.launch.launch` does, in processes that have imported everything already."""
    started = [
        Forked(cli.main, list(arguments), environment=place(rank, processes)) for rank in range(processes)
    ]
    status = max(process.wait() for process in started)
    for process in started:
        print(process.out, end="")
        print(process.err, end="", file=sys.stderr)
    return status


def _call(
    environment: dict[str, str],
    folder: str,
    threads: int,
    texts: str,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    """What a process does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(threads)
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        stream.flush()
        with Path(texts, name).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)
