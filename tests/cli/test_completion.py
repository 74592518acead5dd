"""Completion in the shell, asked for as the shell's script does."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from satcascade import cli
from satcascade.config.preset import preset_names
from satcascade.diffusion.solvers import SOLVERS


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def completed(line: str) -> list[str]:
        """What bash would be offered for the last word of a line."""
        monkeypatch.setenv("_SATCASCADE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        with pytest.raises(SystemExit) as end:
            cli.main([])
        assert not end.value.code
        return capsys.readouterr().out.split()

    return completed


def test_commands_and_options_are_completed(completed):
    assert {"sample", "sweep"} <= set(completed("satcascade s"))
    assert completed("satcascade sample --sched") == ["--scheduler"]


def test_names_of_models_presets_and_solvers_are_completed(completed):
    assert completed("satcascade sample --model ") == ["builtin", "rsdiff"]
    assert completed("satcascade sweep --model r") == ["rsdiff"]
    assert completed("satcascade push b") == ["builtin"]
    assert set(completed("satcascade train base --preset ")) == set(preset_names())
    assert completed("satcascade train base --preset la") == ["latent"]
    assert set(completed("satcascade sample --scheduler ")) == set(SOLVERS)


def test_what_has_no_name_is_left_to_the_shell(completed):
    assert completed("satcascade sample --model ./mod") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_reads_the_script_that_is_shown():
    command = f"{sys.executable} -c 'from satcascade.cli import main; main()' --show-completion; exit $?"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "_SATCASCADE_COMPLETE=complete_bash" in done.stdout
    # bash itself reads it.
    read = f"{done.stdout}\ncomplete -p satcascade"
    done = subprocess.run(["bash", "-c", read], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(" satcascade")
