"""Serving the page on this machine, until it is told to end; then nothing of it is left."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from satcascade.errors import SatcascadeError, UsageError
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.web.jobs import JobQueue

# Read by Gradio when it is imported and when the page is made.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
}
USUAL_PORT = 7860
_GRADIO = 6
_PORTS = 100


def serve(
    load: Callable[[], CascadePipeline],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = True,
    reports: Path | None = None,
) -> None:
    """Serve the page until the process is interrupted or terminated.

    Args:
        load: makes the model, on its device. It is called in the thread that computes: where two threads
            of a process have a team of OpenMP's each, their teams sleep between operations, and a picture
            takes half as long again.
        host: the address to listen on.
        port: None takes the first free one from 7860 on, 0 any.
        open_browser: show the page in the user's browser.
        reports: the folder under which reports are found; by default the current one.

    Raises:
        SatcascadeError: Gradio is not installed.
        UsageError: the address cannot be listened on.
    """
    os.environ.update(_ENVIRONMENT)
    check_gradio()
    number = free_port(host, port)
    with closing(JobQueue()) as jobs:
        *_, pipeline = jobs.run("server", "load", lambda _: load())
        pipeline.set_progress_bar_config(disable=True)
        _serve(pipeline, jobs, host, number, open_browser, Path.cwd() if reports is None else reports)


def _serve(
    pipeline: CascadePipeline, jobs: JobQueue, host: str, number: int, open_browser: bool, reports: Path
) -> None:
    with (
        _asked_to_end() as ended,
        tempfile.TemporaryDirectory(prefix="satcascade-web-", ignore_cleanup_errors=True) as folder,
    ):
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "page")
        from satcascade.web.app import build
        from satcascade.web.backend import Backend
        from satcascade.web.style import CSS, theme
        from satcascade.web.uploads import MOST_BYTES

        backend = Backend(pipeline, jobs, Path(folder) / "pictures")
        page = build(backend, reports)
        try:
            page.queue(max_size=64, default_concurrency_limit=None)
            page.launch(
                server_name=host,
                server_port=number,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                enable_monitoring=False,
                max_file_size=MOST_BYTES,
                footer_links=["settings"],
                theme=theme(),
                css=CSS,
            )
            threading.Thread(target=_warm_up, args=(backend,), daemon=True).start()
            address = f"http://{_shown(host)}:{number}"
            print(f"page at {address} (Ctrl+C ends it)", flush=True)
            if open_browser:
                webbrowser.open(address)
            # In pieces: on some systems a wait without end is not interrupted by signals.
            while not ended.wait(1):
                pass
        finally:
            # First what computes: the page's folder is removed after it.
            jobs.close()
            page.close(verbose=False)


def check_gradio() -> None:
    """Refuse to begin without Gradio.

    Raises:
        SatcascadeError: it is not installed, or too old.
    """
    # Not imported here: what Gradio is to do is said in the environment before.
    try:
        found = version("gradio")
    except PackageNotFoundError as error:
        raise SatcascadeError("the page needs Gradio: pip install 'satcascade[web]'") from error
    if int(found.split(".")[0]) < _GRADIO:
        raise SatcascadeError(
            f"the page needs Gradio {_GRADIO} or newer, not {found}: pip install 'satcascade[web]'"
        )


def free_port(host: str, port: int | None) -> int:
    """A port of ``host`` that can be listened on.

    Args:
        host: an address of this machine.
        port: the one wanted; None takes the first free one from 7860 on, 0 any.

    Raises:
        UsageError: there is none, or ``host`` is no address of this machine.
    """
    for number in range(USUAL_PORT, USUAL_PORT + _PORTS) if port is None else [port]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise UsageError(f"cannot listen on {host}: give an address of this machine") from error
            return int(probe.getsockname()[1])
    if port is not None:
        raise UsageError(f"port {port} cannot be had: give another with --port")
    raise UsageError(f"ports {USUAL_PORT} to {USUAL_PORT + _PORTS - 1} are taken: give another with --port")


def _warm_up(backend: Any) -> None:
    # What goes wrong here goes wrong again at the first picture, and is told there.
    with suppress(Exception):
        for _ in backend.jobs.run("server", "warm-up", backend.warm_up):
            pass


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """An event that is set when the process is interrupted or terminated.

    After that signals do nothing more: a second one must not cut off the cleaning up after the first, nor
    change the exit status.
    """
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ended.is_set() else handler)
