"""Locks: between real processes, after a killed one, and where no lock can be made."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from satcascade.errors import SatcascadeError
from satcascade.io.locks import exclusive, waiting

# Says "mine", and holds the lock until its input ends; or says why it has no lock.
_HOLD = """
import os, sys
from pathlib import Path
from satcascade.errors import SatcascadeError
from satcascade.io.locks import exclusive, waiting
if os.geteuid() == 0 and "nobody" in sys.argv:
    os.setuid(65534)  # whom permissions bind: root they do not
path = Path(sys.argv[2])
try:
    with exclusive(path, "taken") if sys.argv[1] == "exclusive" else waiting(path):
        print("mine", flush=True)
        sys.stdin.read()
except SatcascadeError as error:
    print(error, flush=True)
"""
# Has the lock again and again, and adds to a number in a file, which no two could do at once.
_COUNT = """
import sys
from pathlib import Path
from satcascade.io.locks import waiting
counter = Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with waiting(Path(sys.argv[1])):
        before = int(counter.read_text())
        counter.write_text("")
        counter.write_text(str(before + 1))
"""


@contextmanager
def asking(kind: str, path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for a lock."""
    command = [sys.executable, "-c", _HOLD, kind, str(path), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def release(process: subprocess.Popen[str]) -> None:
    process.stdin.close()
    process.wait()


def test_a_lock_is_refused_while_another_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with asking("exclusive", path) as first:
        assert said(first) == "mine"
        with asking("exclusive", path) as second:
            assert said(second) == "taken"
        with pytest.raises(SatcascadeError, match=r"^wait for it$"), exclusive(path, "wait for it"):
            pass
        release(first)
    with exclusive(path, "taken"):
        pass
    assert path.read_bytes() == b""


def test_the_file_stays_so_that_those_who_wait_have_one_and_the_same(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with exclusive(path, "taken"):
        # Opened while it is held, as by a process that waits.
        waiter = path.open("a")
    with waiter, exclusive(path, "taken"):
        assert os.fstat(waiter.fileno()).st_ino == path.stat().st_ino


def test_those_who_wait_have_the_lock_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with ExitStack() as stack:
        processes = [stack.enter_context(asking("waiting", path)) for _ in range(3)]
        while processes:
            # The first to speak has it; nobody else speaks, or can have it, until it lets go.
            (pipe,) = select.select([process.stdout for process in processes], [], [], 60)[0]
            owner = next(process for process in processes if process.stdout is pipe)
            processes.remove(owner)
            assert said(owner) == "mine"
            with pytest.raises(SatcascadeError, match="taken"), exclusive(path, "taken"):
                pass
            assert select.select([process.stdout for process in processes], [], [], 0)[0] == []
            release(owner)


def test_counting_under_the_lock_loses_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", _COUNT, str(tmp_path / ".lock"), str(counter), "20"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert counter.read_text() == "40"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with asking("exclusive", path) as process:
        assert said(process) == "mine"
        process.send_signal(signal.SIGKILL)
        process.wait()
        with exclusive(path, "taken"):
            assert path.exists()


def test_a_lock_ends_with_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), exclusive(tmp_path / ".lock", "taken"):
        raise ValueError("inside")
    with exclusive(tmp_path / ".lock", "taken"):
        pass


@pytest.mark.parametrize("kind", ["exclusive", "waiting"])
def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line(kind: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "read-only"
        folder.mkdir(mode=0o555)
        Path(parent).chmod(0o755)
        with asking(kind, folder / ".lock", "nobody") as process:
            assert said(process) == f"{folder} cannot be written to (Permission denied)"
        assert list(folder.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(SatcascadeError, match="out cannot be written to"),
        waiting(tmp_path / "out" / ".lock"),
    ):
        pass


def test_a_full_disk_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from filelock import FileLock

    def full(lock: FileLock) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileLock, "acquire", full)
    with pytest.raises(SatcascadeError, match="no space left on the device"), waiting(tmp_path / ".lock"):
        pass
