"""``satcascade runs``: what it tells of real run folders, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image

from satcascade.cli import main
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.training.run import train
from satcascade.training.summary import differences, plot, summarize, table


@pytest.fixture(scope="module")
def preset(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cascade of 16 and 32 px."""
    model = {
        "patch_size": 4,
        "widths": [16],
        "blocks": [1],
        "attention": [True],
        "head_dim": 16,
        "cond_dim": 16,
        "text_dim": 16,
    }
    training = {"steps": 8, "batch_size": 4, "checkpoint_every": 4, "log_every": 2, "sample_every": 0}
    training |= {"learning_rate": 0.003, "precision": "float32", "warmup_steps": 2, "decay_steps": 2}
    noise = {"low_res_noise": {"low": 0.0, "high": 8.0}}
    stages = {
        "base": {"model": model | {"sample_size": 16}, "training": training},
        "sr": {"model": model | {"sample_size": 32, "low_res": True}, "training": training | noise},
        "sampling": {"base": {"steps": 2, "guidance_scale": 2.0}, "sr": {"steps": 2}, "low_res_log_snr": 3.0},
    }
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "text_encoder": tiny_text_encoder, **stages}))
    return str(path)


@pytest.fixture(scope="module")
def runs(preset: str, prepared_synthetic: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``first``, ``second`` that starts from it with other settings, and a joint one."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, *overrides: str, init_from: Path | None = None, joint: bool = False) -> None:
        train(
            ["base", "sr"] if joint else ["base"],
            preset=preset,
            data=prepared_synthetic.path,
            out=folder / name,
            overrides=overrides,
            init_from=init_from,
            device="cpu",
            quiet=True,
        )

    run("first")
    run("second", "training.steps=6", "training.learning_rate=1e-5", init_from=folder / "first")
    run("joint", "training.steps=2", joint=True)
    return folder


def test_a_run_is_told_as_its_files_have_it(runs: Path, prepared_synthetic: PreparedDataset) -> None:
    (summary,) = summarize([runs / "first"])
    told = summary.rows()
    metrics = [json.loads(line) for line in (runs / "first/metrics.jsonl").read_text().splitlines()]
    assert told["stage"] == "base"
    assert told["preset"] == "tiny"
    assert told["started from"] == "random weights"
    assert told["steps"] == "8 of 8"
    assert told["images seen"] == "32"
    assert told["loss, last step"] == f"{metrics[-1]['loss']:.4g}"
    assert told["loss, last 100"] == f"{sum(row['loss'] for row in metrics) / 8:.4g}"
    assert told["gradient norm"] == f"{sum(row['grad_norm'] for row in metrics) / 8:.4g}"
    assert told["learning rate"] == f"{metrics[-1]['learning_rate']:.4g}"
    assert told["checkpoints"] == "4, 8"
    assert told["data"] == f"{prepared_synthetic.hash[:12]} train"
    assert float(told["images/s"]) > 0
    assert summary.speed[0] == [2, 4, 6, 8]


def test_a_run_describes_where_its_code_and_data_are_from(runs: Path) -> None:
    description = json.loads((runs / "first/run.json").read_text())
    assert {"settings", "versions", "git", "source", "encoder"} <= description.keys()
    here = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert (
        description["git"] is None if here.returncode else description["git"]["commit"] == here.stdout.strip()
    )


def test_the_state_of_git_does_not_tell_runs_apart(
    runs: Path,
    preset: str,
    prepared_synthetic: PreparedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def go_on(steps: int) -> dict[str, object]:
        train(
            ["base"],
            preset=preset,
            data=prepared_synthetic.path,
            out=tmp_path / "run",
            overrides=[f"training.steps={steps}"],
            device="cpu",
            quiet=True,
        )
        return json.loads((tmp_path / "run/run.json").read_text())["git"]

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert go_on(2) is None
    (work / "notes").write_text("one")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "one"]
    for arguments in (["init", "-q"], ["add", "."], commit):
        subprocess.run(["git", *arguments], check=True)
    clean = go_on(4)
    assert clean["changed"] is False
    (work / "notes").write_text("two")
    assert go_on(6) == {"commit": clean["commit"], "changed": True}
    assert summarize([tmp_path / "run"])[0].rows()["git"] == f"{clean['commit'][:12]} with changes"


def test_several_runs_stand_side_by_side_with_what_differs(runs: Path) -> None:
    found = summarize([runs / "first", runs / "second"])
    changed = differences(found)
    assert changed == {
        "training.schedule.steps": (8, 6),
        "training.optimizer.learning_rate": changed["training.optimizer.learning_rate"],
    }
    assert changed["training.optimizer.learning_rate"][1] == 1e-5
    text = table(found)
    rows = {line[:15].strip(): line for line in text.splitlines()}
    assert rows["started from"].split()[-1] == "first"
    assert "8 of 8" in rows["steps"]
    assert "6 of 6" in rows["steps"]
    assert "training.optimizer.learning_rate" in text
    assert "training.batch_size" not in text
    assert "the same settings" in table([found[0], found[0]])


def test_a_folder_of_both_stages_is_two_runs(runs: Path) -> None:
    found = summarize([runs / "joint"])
    assert [summary.run.name for summary in found] == ["base", "sr"]
    assert [summary.rows()["stage"] for summary in found] == ["base", "sr"]


def test_a_run_that_is_going_on_may_have_half_a_line(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text((runs / "first/run.json").read_text())
    (empty,) = summarize([run])
    assert empty.rows()["steps"] == "0 of 8"
    assert empty.rows()["loss, last 100"] == "-"
    lines = (runs / "first/metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:3], lines[3][:20]]))
    (summary,) = summarize([run])
    assert summary.rows()["steps"] == "3 of 8"
    assert summary.rows()["checkpoints"] == "none"
    (run / "metrics.jsonl").write_text('{"no": "step"}\n')
    with pytest.raises(SatcascadeError, match=r"metrics\.jsonl is damaged"):
        summarize([run])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_curves_are_drawn(suffix: str, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / f"curves{suffix}"
    plot(summarize([runs / "first", runs / "second"]), path)
    assert path.stat().st_size > 1000
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.size == (1200, 900)
    elif suffix == ".svg":
        assert "images seen" in path.read_text() or "<path" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_no_figure_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no kind of figure: give a file that ends in \.png"):
        plot(summarize([runs / "first"]), tmp_path / "curves.txt")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text((runs / "first/run.json").read_text())
    with pytest.raises(SatcascadeError, match="no step yet"):
        plot(summarize([run]), tmp_path / "curves.png")


def test_the_command_prints_and_draws(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["runs", str(runs / "first"), str(runs / "second"), "--plot", str(tmp_path / "curves.png")])
    assert caught.value.code == 0
    output = capsys.readouterr()
    assert "settings that differ" in output.out
    assert output.err == ""
    assert (tmp_path / "curves.png").exists()
    with pytest.raises(SystemExit):
        main(["runs", str(runs / "first"), str(runs / "second"), "--json", "--plot", str(tmp_path / "c.svg")])
    told = json.loads(capsys.readouterr().out)
    assert [each["run"] for each in told] == [(runs / name).as_posix() for name in ("first", "second")]
    lines = (runs / "first/metrics.jsonl").read_text().splitlines()
    assert told[0]["last"] == json.loads(lines[-1])
    assert told[0]["step"] == told[0]["checkpoints"][-1] == json.loads(lines[-1])["step"]
    assert told[0]["settings"]["training.batch_size"] == 4
    assert (tmp_path / "c.svg").exists()
    with pytest.raises(SystemExit) as caught:
        main(["runs", str(tmp_path)])
    assert caught.value.code == 2
    assert "holds no training run" in capsys.readouterr().err
