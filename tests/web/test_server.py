"""Where the page listens, and what it needs."""

from __future__ import annotations

import socket
import threading
from importlib.metadata import PackageNotFoundError

import pytest

from forked import Forked
from satcascade.errors import SatcascadeError, UsageError
from satcascade.web import server
from satcascade.web.jobs import JobQueue
from satcascade.web.server import check_gradio, free_port
from tiny_cascade import tiny_latent_pipeline


def test_a_taken_port_is_refused_and_left_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {number} cannot be had: give another with --port"):
            free_port("127.0.0.1", number)


def test_the_first_free_port_is_found(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(server, "USUAL_PORT", taken.getsockname()[1])
        assert server.USUAL_PORT < free_port("127.0.0.1", None) < server.USUAL_PORT + 100


def test_any_port_can_be_asked_for() -> None:
    assert free_port("127.0.0.1", 0) > 0


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", None)


def test_a_missing_gradio_is_named_with_the_extra(monkeypatch) -> None:
    def missing(_: str) -> str:
        raise PackageNotFoundError("gradio")

    monkeypatch.setattr(server, "version", missing)
    with pytest.raises(SatcascadeError, match=r"pip install 'satcascade\[web\]'"):
        check_gradio()


def test_an_old_gradio_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(server, "version", lambda _: "5.49.1")
    with pytest.raises(SatcascadeError, match=r"Gradio 6 or newer, not 5\.49\.1"):
        check_gradio()


def test_only_the_modules_of_the_page_load_gradio() -> None:
    """The logic is used, and tested, without it."""
    code = (
        "import sys\n"
        "import satcascade.web.server, satcascade.web.pictures, satcascade.web.markup\n"
        "import satcascade.web.uploads, satcascade.web.reports, satcascade.cli\n"
        "assert 'gradio' not in sys.modules"
    )
    process = Forked(exec, code)
    assert process.wait() == 0, process.err


@pytest.fixture
def without_gradio(monkeypatch) -> None:
    monkeypatch.setattr(server, "check_gradio", lambda: None)
    monkeypatch.setattr(server, "_ENVIRONMENT", {})


@pytest.mark.usefixtures("without_gradio")
def test_the_model_is_loaded_where_it_computes(monkeypatch, tiny_text_encoder: str) -> None:
    threads = []

    def load():
        threads.append(threading.current_thread())
        return tiny_latent_pipeline(tiny_text_encoder)

    def show(_, jobs: JobQueue, *__) -> None:
        list(jobs.run("page", "draw", lambda _: threads.append(threading.current_thread())))

    monkeypatch.setattr(server, "_serve", show)
    server.serve(load, port=0)
    loading, computing = threads
    assert loading is computing is not threading.current_thread()


@pytest.mark.usefixtures("without_gradio")
def test_a_model_that_cannot_be_loaded_ends_the_command() -> None:
    def load():
        raise SatcascadeError("no model here")

    with pytest.raises(SatcascadeError, match="no model here"):
        server.serve(load, port=0)
