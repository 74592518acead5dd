"""A model to the hub and back, by way of a stand-in for the hub on this machine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

from hub_server import Hub
from satcascade import cli, load_pipeline
from satcascade.errors import SatcascadeError, UsageError
from satcascade.publishing.push import plan_upload

TOKEN = "hf_ofthetest"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub(TOKEN) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The stand-in speaks the protocol of Git LFS, which the hub takes too.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_model_goes_to_the_hub_and_draws_the_same_from_there(hub, tiny_model, capsys):
    assert run("push", tiny_model, "someone/tiny") == 0, capsys.readouterr().err
    assert f"{hub.address}/someone/tiny" in capsys.readouterr().out
    stored = hub.repositories["someone/tiny"]
    assert not stored.private
    assert len(stored.commits) == 1
    assert {name: content for name, content in stored.files.items() if name != "README.md"} == files(
        tiny_model
    )

    fetched, local = load_pipeline("someone/tiny", device="cpu"), load_pipeline(tiny_model, device="cpu")
    assert fetched.weights_hash == local.weights_hash
    assert fetched.name == "someone/tiny"
    pictures = [np.asarray(pipe("a lake", seeds=[3]).images[0]) for pipe in (fetched, local)]
    np.testing.assert_array_equal(*pictures)


def test_a_private_model_needs_the_token_and_what_was_fetched_needs_no_hub(
    hub, tiny_model, monkeypatch, tmp_path
):
    assert run("push", tiny_model, "someone/secret", "--private") == 0
    assert hub.repositories["someone/secret"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SatcascadeError, match="the hub did not give a model of that name"):
        load_pipeline("someone/secret", device="cpu")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_pipeline("someone/secret", device="cpu")

    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_pipeline("someone/secret", device="cpu").name == "someone/secret"
    with pytest.raises(SatcascadeError, match="the hub did not give"):
        load_pipeline("someone/other", device="cpu")
    assert len(hub.requests) == asked


def test_a_dry_run_lists_what_would_go_and_sends_nothing(hub, tiny_model, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert run("push", tiny_model, "someone/tiny", "--dry-run", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["address"] is None
    there = {name: len(content) for name, content in files(tiny_model).items()}
    assert {name: size for name, size in listed["files"].items() if name != "README.md"} == there
    assert run("push", tiny_model, "someone/tiny", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == list(listed["files"])
    assert lines[-2].split() == ["in", "all", f"{sum(listed['files'].values()):,}"]
    assert not hub.requests


def test_the_card_says_what_the_model_is_and_what_was_measured(hub, tiny_model, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").write_text('{"n_generated": 8, "scene_accuracy": 0.25}')
    (report / "details.json").write_text('{"data": {"source": "rsicd", "split": "test"}}')
    Image.new("RGB", (8, 8)).save(tmp_path / "some.png")
    arguments = ("--license", "mit", "--metrics", report, "--pictures", tmp_path / "some.png")
    assert run("push", tiny_model, "someone/tiny", *arguments) == 0
    stored = hub.repositories["someone/tiny"].files
    assert stored["pictures/0.png"] == (tmp_path / "some.png").read_bytes()
    _, front, body = stored["README.md"].decode().split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["license"] == "mit"
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert "satellite-imagery" in data["tags"]
    (entry,) = data["model-index"]
    (result,) = entry["results"]
    assert result["dataset"]["name"] == "rsicd"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "n_generated": 8,
        "scene_accuracy": 0.25,
    }
    assert "| scene_accuracy | 0.2500 |" in body
    assert "](pictures/0.png)" in body
    parameters = sum(
        value.numel() for value in load_pipeline(tiny_model, device="cpu").unet.state_dict().values()
    )
    assert f"| `unet` | {parameters:,} |" in body


def test_a_card_that_is_there_is_kept_and_other_files_stay_at_home(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n\n# By hand\n")
    (folder / "notes.txt").write_text("mine")
    (folder / ".git").mkdir()
    (folder / ".git/config.json").write_text("{}")
    (folder / "metrics.json").write_text('{"scene_accuracy": 0.5}')
    upload = plan_upload(str(folder), "someone/tiny", pictures=[])
    assert str(upload.files["README.md"]).startswith(
        "---\nlicense: cc0-1.0\n---\n\n# By hand\n\n## Measured\n"
    )
    assert set(upload.files) == {*files(tiny_model), "README.md", "metrics.json"}


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "someone/", "some one/tiny", "someone/tiny..x"])
def test_what_is_no_name_on_the_hub_is_refused(name, tiny_model):
    with pytest.raises(UsageError, match="is no name on the hub"):
        plan_upload(str(tiny_model), name)


def test_refusals_are_one_line_and_leave_the_hub_as_it_was(hub, tiny_model, monkeypatch, capsys, tmp_path):
    for token, message in (
        ("hf_wrong", "error: the hub did not take someone/tiny"),
        (None, "error: no login to the hub"),
    ):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN")
        assert run("push", tiny_model, "someone/tiny") == 1
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
    assert not hub.repositories
    assert run("push", tiny_model, "someone/tiny", "--metrics", tmp_path) == 2
    assert run("push", tiny_model, "someone/tiny", "--pictures", tmp_path) == 2
