"""A real ``satcascade web`` beside the tests, which notes where it connects to."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# Imported by Python when it starts: the process notes where it connects to.
_WATCH = """
import os, socket
_connect = socket.socket.connect

def connect(self, address):
    host = address[0] if isinstance(address, tuple) else "local"
    if host not in ("127.0.0.1", "::1", "localhost", "local"):
        with open(os.environ["SATCASCADE_TEST_CONNECTIONS"], "a") as file:
            file.write(f"{address}\\n")
    return _connect(self, address)

socket.socket.connect = connect
"""


class PageServer:
    """The process.

    Args:
        model: folder of the model.
        folder: where it is started, and keeps its temporary files.

    Attributes:
        address: of the page.
    """

    def __init__(self, model: Path, folder: Path, *arguments: str):
        self._watch = folder / "watch"
        self._watch.mkdir(parents=True)
        (self._watch / "sitecustomize.py").write_text(_WATCH)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._connections = folder / "connections.txt"
        path = [str(self._watch), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "satcascade", "web", "--port", "0", "--no-open"]
        self._process = subprocess.Popen(
            [*command, "--model", str(model), *arguments],
            cwd=folder,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path),
                "SATCASCADE_TEST_CONNECTIONS": str(self._connections),
                "TMPDIR": str(self.temporary),
            },
            stdout=subprocess.PIPE,
            stderr=(folder / "errors.txt").open("w"),
            text=True,
        )
        self._errors = folder / "errors.txt"
        self.address = self._line(600).split()[2]

    @property
    def connections(self) -> list[str]:
        """Where it connected to, but for this machine."""
        return self._connections.read_text().splitlines() if self._connections.exists() else []

    @property
    def errors(self) -> str:
        """What it wrote to its error stream."""
        return self._errors.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, as people and programs do who ask twice; its exit status."""
        for _ in range(2):
            if self._process.poll() is None:
                self._process.send_signal(number)
                time.sleep(0.3)
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _line(self, seconds: float) -> str:
        lines: queue.Queue[str] = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=lambda: lines.put(self._process.stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=seconds)
        except queue.Empty:
            line = ""
        if "http://" not in line:
            self._process.kill()
            raise AssertionError(f"the page did not come up: {line}{self.errors}")
        return line
