"""The progress display: on the error stream, a bar a task, and nothing where nothing is to be shown."""

from __future__ import annotations

import pytest

from satcascade.io.progress import ProgressDisplay


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def test_each_task_has_a_bar_on_the_error_stream(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(transient=False) as display:
        images, captions = display.task("images", 10), display.task("captions", 7, completed=5)
        images.advance(3)
        images.advance()
        captions.advance(2)
    shown = capfd.readouterr()
    assert shown.out == ""
    last = shown.err[shown.err.rindex("images") :]
    assert "4/10" in last
    assert "captions" in last
    assert "7/7" in last


def test_the_state_of_a_task_can_be_set_and_put_in_words(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(transient=False) as display:
        display.task("training", 100, completed=20).update(40, "loss 0.5")
    last = capfd.readouterr().err.rpartition("training")[2]
    assert "40/100" in last
    assert "loss 0.5" in last


def test_a_task_of_unknown_length_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(transient=False) as display, display.task("checking", None) as task:
        task.advance(3)
    assert "3/?" in capfd.readouterr().err


def test_lines_are_printed_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display.task("training", 2)
        display.print("[bold] is 1/2 of the name")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "[bold] is 1/2 of the name" in shown.err


def test_nothing_is_shown_where_nothing_is_to_be(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(shown=False) as display:
        task = display.task("images", 10)
        task.advance(10)
        task.update(10, "done")
    assert capfd.readouterr() == ("", "")


def test_transient_bars_are_gone_in_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display.task("images", 1).advance()
    # What clears a line of a terminal.
    assert capfd.readouterr().err.endswith("\x1b[2K")


def test_an_error_inside_ends_the_display() -> None:
    display = ProgressDisplay()
    with pytest.raises(ValueError, match="inside"), display:
        raise ValueError("inside")
    with display:
        pass
