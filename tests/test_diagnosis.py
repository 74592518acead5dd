"""What an installation has and lacks, and how the command tells it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from satcascade import cli, diagnosis
from satcascade.errors import SatcascadeError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *arguments])
    return int(end.value.code or 0), capsys.readouterr().out


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Makes packages look as if they were not installed, or in another version."""

    def without(**versions: str | None) -> None:
        def found(name: str) -> str:
            if name not in versions:
                return version(name)
            if versions[name] is None:
                raise PackageNotFoundError(name)
            return str(versions[name])

        monkeypatch.setattr(diagnosis, "version", found)

    return without


def test_this_installation_can_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SATCASCADE_CACHE", str(tmp_path))
    (tmp_path / "some").write_bytes(bytes(1234))
    status, out = run(capsys, "--json")
    told = json.loads(out)
    assert (status, told["ok"], told["problems"]) == (0, True, [])
    assert told["versions"]["torch"] == torch.__version__
    assert told["devices"][-1]["name"] == "cpu"
    assert told["folders"]["cache"]["path"] == str(tmp_path)
    assert told["folders"]["cache"]["used"] == 1234
    assert told["folders"]["cache"]["free"] > 0
    assert told["folders"]["cache"]["writable"]
    assert set(told["extras"]) == {"train", "geo", "eval", "web"}
    status, out = run(capsys)
    assert status == 0
    assert out.splitlines()[0].split() == ["satcascade", version("satcascade")]
    assert out.splitlines()[-1] == "ready to draw"


def test_an_extra_that_is_missing_is_named_and_hinders_no_picture(without, capsys):
    without(rasterio=None)
    status, out = run(capsys)
    assert status == 0
    (line,) = (line for line in out.splitlines() if line.startswith("extra geo"))
    assert "not installed: pip install 'satcascade[geo]'" in line
    assert "missing: rasterio>=1.3" in line


@pytest.mark.parametrize(("found", "words"), [(None, "diffusers>="), ("0.1", "(there is 0.1)")])
def test_a_missing_or_old_requirement_is_a_problem(found, words, without, capsys):
    without(diffusers=found)
    assert any(words in line for line in diagnosis.missing())
    assert not any("diffusers" in line for line in diagnosis.missing("geo"))


def test_what_is_missing_is_told_and_not_stumbled_over(without, monkeypatch, capsys):
    without(torch=None, diffusers=None)
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None if name == "torch" else object())
    status, out = run(capsys)
    assert status == 1
    assert "problem: torch>=2.4 is missing: install satcascade again" in out
    assert "problem: diffusers>=" in out
    assert "torch            not installed" in out
    assert "\ncpu " not in out


def test_a_local_build_and_a_prerelease_fit(without):
    without(torch="2.13.0+cpu", diffusers="9.0.dev0")
    assert not list(diagnosis.missing())


def test_without_weights_the_status_is_1(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(diagnosis, "BUILTIN", tmp_path)
    status, out = run(capsys)
    assert status == 1
    assert f"problem: model folder {tmp_path} holds no weights" in out
    assert out.splitlines()[-1] == "no picture can be drawn"
    status, out = run(capsys, "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_little_space_is_noted(monkeypatch):
    usage = diagnosis.shutil.disk_usage("/")._replace(free=10**9)
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: usage)
    found = diagnosis.diagnose()
    assert not found.problems
    assert all("1.0 GB are free" in note for note in found.notes)
    assert len(found.notes) == 3


def test_a_gpu_comes_before_the_cpu(monkeypatch):
    class Properties:
        name = "Some GPU"
        total_memory = 24 * 10**9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    devices = list(diagnosis._devices())
    assert [device.name for device in devices] == ["cuda:0", "cuda:1", "cpu"]
    assert devices[0].memory == 24 * 10**9
    assert not devices[0].bfloat16


def test_damaged_weights_are_a_problem(monkeypatch):
    def damaged(_: object) -> None:
        raise SatcascadeError("weights file x is damaged")

    monkeypatch.setattr(diagnosis, "check_weights", damaged)
    assert diagnosis.diagnose().problems == ("weights file x is damaged",)
