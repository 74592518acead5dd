"""Sweeps: what is in the table, what a kill leaves behind, what is chosen, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cheap_features import cheap_sweep, pixel_network
from forked import Forked
from satcascade import cli
from satcascade.data.prepare import prepare
from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation import comparison
from satcascade.evaluation.report.data import Sweep
from satcascade.evaluation.report.figures import sweep_figures
from satcascade.sweep.request import SweepRequest
from satcascade.sweep.run import sweep
from satcascade.training.run import train
from synthetic import make_synthetic_rsicd

pytest.importorskip("matplotlib")
# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array:DeprecationWarning", "ignore::satcascade.evaluation.run.EvaluationWarning"
)


@pytest.fixture(autouse=True)
def _cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "load_features", pixel_network)


@pytest.fixture(scope="module")
def data(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of 120 images of 32 pixels, 12 of them validation."""
    folder = tmp_path_factory.mktemp("sweep")
    source = make_synthetic_rsicd(folder / "source", images=120, size=32)
    prepare(source, folder / "prepared", image_size=32, encoder=tiny_text_encoder, progress=False)
    return folder / "prepared"


@pytest.fixture
def request_of(data: Path, tiny_model: Path, tmp_path: Path):
    def request_of(**changes: object) -> SweepRequest:
        usual = {
            "data": data,
            "out": tmp_path / "out",
            "model": str(tiny_model),
            "n": 8,
            "metrics": ("frechet",),
            "device": "cpu",
        }
        return SweepRequest(**{**usual, **changes})

    return request_of


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(table: Sweep, *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in columns) for row in table.rows]


def without_seconds(table: Sweep) -> list[dict[str, str]]:
    return [{key: text for key, text in row.items() if key != "seconds_per_image"} for row in table.rows]


def test_the_grid_is_measured_and_the_table_says_with_what(request_of, tiny_model):
    report = sweep(
        request_of(guidance=(1.0, 3.0), scheduler=("dpm++", "unipc"), metrics=("frechet", "scene")),
        progress=False,
    )
    assert (report.made, report.kept) == (4, 0)
    table = Sweep.read(report.out / "sweep.tsv")
    assert rows(table, "cond_scale", "scheduler", "sr_scheduler") == [
        ("1", "dpm++", "dpm++"),
        ("3", "dpm++", "dpm++"),
        ("1", "unipc", "unipc"),
        ("3", "unipc", "unipc"),
    ]
    # What was not varied is the model's own.
    same = rows(
        table, "checkpoint", "step", "base_steps", "sr_steps", "sr_cond_scale", "size", "n_gen", "n_real"
    )
    assert set(same) == {(str(tiny_model), "", "4", "3", "1", "32", "8", "12")}
    # RSDiff's columns are all there; its fid is on an Inception network alone.
    assert {"step", "epoch", "cond_scale", "fid", "feature", "size", "n_gen"} <= set(table.columns)
    assert set(rows(table, "fid", "feature")) == {("", "")}
    for row in table.rows:
        assert float(row["seconds_per_image"]) > 0
        assert 0 <= float(row["scene_accuracy"]) <= 1
        low, value, high = (
            float(row[f"frechet_distance{end}/efficientnet-lite0"]) for end in ("_low", "", "_high")
        )
        assert low < value < high
    assert len(set(rows(table, "frechet_distance/efficientnet-lite0"))) == 4
    # Each folder is one that the other commands take, with its report.
    for folder in report.out.glob("*_guidance-*"):
        assert len(list(folder.glob("0*.png"))) == 8
        metrics = json.loads((report.out / "reports" / folder.name / "metrics.json").read_text())
        assert f"{metrics['frechet_distance/efficientnet-lite0']:.8g}" in [
            row["frechet_distance/efficientnet-lite0"] for row in table.rows
        ]
    drawn = [figure.text for figure in sweep_figures(table, "sweep")]
    assert any("Frechet distance, EfficientNet-Lite0 by cond_scale. scheduler" in text for text in drawn)
    with Image.open(report.out / "sweep.png") as figure:
        assert figure.size[0] > 600


@pytest.mark.slow
def test_the_best_row_is_that_of_the_measure_asked_for(request_of):
    by_distance = sweep(request_of(guidance=(1.0, 4.0), metrics=("frechet", "manifold")), progress=False)
    key = "frechet_distance/efficientnet-lite0"
    assert float(by_distance.best[key]) == min(float(row[key]) for row in by_distance.table.rows)
    assert (by_distance.made, by_distance.kept) == (2, 0)
    by_density = sweep(
        request_of(guidance=(1.0, 4.0), metrics=("frechet", "manifold"), by="density"), progress=False
    )
    key = "density/efficientnet-lite0"
    assert (by_density.made, by_density.kept, by_density.by) == (0, 2, key)
    assert float(by_density.best[key]) == max(float(row[key]) for row in by_density.table.rows)
    assert f"best by {key}, {float(by_density.best[key]):.4g}: cond_scale " in by_density.summary()


def test_another_grid_adds_rows_and_none_is_made_twice(request_of):
    first = sweep(request_of(guidance=(1.0, 3.0)), progress=False)
    # The model's own guidance is 3, its own steps are 4 and 3.
    second = sweep(request_of(base_steps=(4, 2)), progress=False)
    assert (second.made, second.kept) == (1, 1)
    assert second.table.rows[:2] == first.table.rows
    assert rows(second.table, "cond_scale", "base_steps") == [("1", "4"), ("3", "4"), ("3", "2")]
    assert sweep(request_of(steps=(2,)), progress=False).table.rows[-1]["sr_steps"] == "2"


def test_settings_that_vary_together_are_drawn_as_one(tmp_path):
    # A table of RSDiff's.
    (tmp_path / "fid_curve.tsv").write_text(
        "epoch\tstep\tfid\tfeature\tsize\tn_gen\n100\t13700\t276.8343\t2048\t128\t64\n"
        "200\t27400\t227.1223\t2048\t128\t64\n"
    )
    (figure,) = sweep_figures(Sweep.read(tmp_path / "fid_curve.tsv"), "sweep")
    assert figure.text == "fid by epoch (with step). 100 276.8, 200 227.1."


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_what_an_uninterrupted_one_makes(request_of, data, tiny_model, tmp_path):
    whole = sweep(request_of(out=tmp_path / "whole", guidance=(1.0, 2.0), n=12, batch_size=2), progress=False)
    process = Forked(cheap_sweep, request_of(guidance=(1.0, 2.0), n=12, batch_size=2))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*guidance-2*/0*.png")):
        assert process.poll() is None, process.err
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    left = Sweep.read(tmp_path / "out" / "sweep.tsv")
    assert rows(left, "cond_scale") == [("1",)]
    started = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/0*.png")}
    assert 12 < len(started) < 24
    resumed = sweep(request_of(guidance=(1.0, 2.0), n=12, batch_size=2), progress=False)
    assert (resumed.made, resumed.kept) == (1, 1)
    assert resumed.table.rows[0] == left.rows[0]
    assert {path: path.stat().st_mtime_ns for path in started} == started
    assert without_seconds(resumed.table) == without_seconds(whole.table)
    ours, theirs = files(resumed.out), files(whole.out)
    assert not [name for name in ours if name.endswith(".part")]
    pictures = {name for name in theirs if "/0" in name and name.endswith(".png")}
    assert len(pictures) == 24
    assert all(ours[name] == theirs[name] for name in pictures)


# Checkpoints


@pytest.fixture(scope="module")
def base_run(data: Path, tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a base stage with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    model = {
        "architecture": "compact",
        "sample_size": 16,
        "widths": [16, 32],
        "blocks": [1, 1],
        "attention": [False, True],
        "head_dim": 16,
        "cond_dim": 24,
        "text_dim": 16,
    }
    training = {"steps": 4, "batch_size": 6, "learning_rate": 0.01, "warmup_steps": 1, "decay_steps": 0}
    training |= {"checkpoint_every": 2, "log_every": 2, "sample_every": 30, "precision": "float32"}
    sr = {**model, "low_res": True, "self_attention": False, "sample_size": 32}
    preset = {
        "name": "tiny",
        "text_encoder": tiny_text_encoder,
        "base": {"model": model, "training": training},
        "sr": {"model": sr, "training": training | {"low_res_noise": {"low": 0.0, "high": 8.0}}},
        "sampling": {"base": {"steps": 3, "guidance_scale": 2.0}, "sr": {"steps": 2}, "low_res_log_snr": 3.0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(preset))
    train(["base"], preset=str(folder / "tiny.yaml"), data=data, out=folder / "run", device="cpu", quiet=True)
    return folder / "run"


@pytest.mark.slow
def test_models_and_checkpoints_of_a_run_are_compared(request_of, base_run, tiny_model, data, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "other")
    before = files(base_run)
    one = sweep(request_of(checkpoints=(f"{base_run}@4", str(tmp_path / "other"))), progress=False)
    # The stage's own sampling is the run's, the rest that of the model; 96 training images, 6 a step.
    assert rows(one.table, "step", "epoch", "cond_scale", "base_steps", "sr_steps") == [
        ("4", "0.25", "2", "3", "3"),
        ("", "", "3", "4", "3"),
    ]
    both = sweep(request_of(checkpoints=(str(base_run),)), progress=False)
    assert (both.made, both.kept) == (1, 1)
    assert both.table.rows[-1]["checkpoint"] == f"{base_run}@2"
    assert len(set(rows(both.table, "frechet_distance/efficientnet-lite0"))) == 3
    assert files(base_run) == before
    with pytest.raises(UsageError, match="has no checkpoint of step 3: it has 2, 4"):
        sweep(request_of(checkpoints=(f"{base_run}@3",)), progress=False)


def test_a_checkpoint_whose_weights_have_changed_is_refused(request_of, tmp_path, tiny_model):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path / "mine")
    sweep(request_of(checkpoints=(str(tmp_path / "mine"),)), progress=False)
    path = next((tmp_path / "mine" / "unet").glob("*.safetensors"))
    save_file({key: value + 1 for key, value in load_file(path).items()}, path)
    with pytest.raises(UsageError, match=r"other weights of .*mine"):
        sweep(request_of(checkpoints=(str(tmp_path / "mine"),), guidance=(1.0,)), progress=False)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "the test split is for the final table"),
        ({"guidance": ()}, "no value for guidance"),
        ({"checkpoints": ()}, "no value for checkpoint"),
        ({"scheduler": ("dpm++", "magic")}, "unknown scheduler 'magic'"),
        ({"guidance": (-1.0,)}, "guidance: -1.0"),
        ({"steps": (0,)}, "0 steps"),
        ({"steps": (2,), "sr_steps": (2,)}, "give either, not both"),
        ({"steps": (1001,)}, "1001 sampling steps"),
        ({"n": 3}, "3 images are too few for frechet: give 4 or more"),
        ({"n": 5, "metrics": None}, "5 images are too few for manifold: give 6 or more"),
        ({"n": 13}, "13 images are more than the 12 rows of split 'val'"),
        ({"split": "holdout"}, "no split 'holdout'"),
        ({"metrics": ("beauty",)}, "unknown metric 'beauty'"),
        ({"metrics": ("usefulness",)}, "nothing to choose by"),
        (
            {"by": "recall"},
            "cannot choose by 'recall': what is measured is frechet_distance/efficientnet-lite0",
        ),
        ({"model": "nowhere"}, "unknown model 'nowhere'"),
        ({"checkpoints": ("nowhere",)}, "unknown model 'nowhere'"),
        ({"checkpoints": ("nowhere@1",)}, "nowhere holds no training run"),
        ({"checkpoints": ("nowhere@last",)}, "'nowhere@last' is no checkpoint: give RUN@STEP"),
        ({"data": Path("nowhere")}, "no prepared set at nowhere"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(request_of, tmp_path, changes, message):
    with pytest.raises(SatcascadeError, match=message) as caught:
        sweep(request_of(**changes), progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def small_sweep(data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one row; not to be changed."""
    out = tmp_path_factory.mktemp("swept") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "load_features", pixel_network)
        sweep(
            SweepRequest(data, out, str(tiny_model), n=8, metrics=("frechet",), device="cpu"), progress=False
        )
    return out


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"n": 9}, "n was 8, now 9"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"split": "train"}, "split was val, now train"),
        ({"metrics": ("frechet", "kernel")}, r"metrics was \['frechet'\], now \['frechet', 'kernel'\]"),
        ({"precision": "bfloat16"}, "precision was float32, now bfloat16"),
        ({"checkpoints": ("MODEL",)}, r"model was .*, now None"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(
    small_sweep, request_of, tiny_model, changes, difference
):
    changes = {
        key: tuple(str(tiny_model) if text == "MODEL" else text for text in value)
        if key == "checkpoints"
        else value
        for key, value in changes.items()
    }
    before = files(small_sweep)
    with pytest.raises(UsageError, match=rf"made with other settings \({difference}"):
        sweep(request_of(out=small_sweep, **changes), progress=False)
    assert files(small_sweep) == before


def test_another_model_a_strange_folder_and_damaged_files_are_refused(
    small_sweep, request_of, tiny_text_encoder, tmp_path
):
    from tiny_cascade import tiny_pipeline, tiny_unet

    tiny_pipeline(tiny_text_encoder, unet=tiny_unet(5)).save_pretrained(tmp_path / "second")
    with pytest.raises(UsageError, match=r"model was tiny .*, now second "):
        sweep(request_of(out=small_sweep, model=str(tmp_path / "second")), progress=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no sweep"):
        sweep(request_of(out=tmp_path / "thesis"), progress=False)
    assert files(tmp_path / "thesis") == {"thesis.tex": b"years of work"}
    shutil.copytree(small_sweep, tmp_path / "out")
    (tmp_path / "out" / "sweep.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(SatcascadeError, match=r"sweep\.tsv is damaged \(no column checkpoint\)"):
        sweep(request_of(), progress=False)
    (tmp_path / "out" / "sweep.tsv").unlink()
    again = sweep(request_of(), progress=False)
    assert without_seconds(again.table) == without_seconds(Sweep.read(small_sweep / "sweep.tsv"))
    # All its images were there: nobody has measured how long they took.
    assert again.table.rows[0]["seconds_per_image"] == ""
    (tmp_path / "out" / "sweep.json").write_text("{")
    with pytest.raises(SatcascadeError, match=r"sweep\.json is damaged"):
        sweep(request_of(), progress=False)


def test_the_command_prints_the_table_and_refuses_in_one_line(data, tiny_model, tmp_path, capsys):
    def command(*arguments: object) -> tuple[int, str, str]:
        given = ["sweep", "--data", data, "--model", tiny_model, "--out", tmp_path / "o", *arguments]
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in given])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    grid = ("--guidance", "1,2", "--number", 8, "--metrics", "frechet", "--device", "cpu")
    status, out, err = command(*grid)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["cond_scale", "frechet_distance", "seconds_per_image"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[3].startswith("best by frechet_distance/efficientnet-lite0, ")
    status, told, _ = command(*grid, "--json")
    told = json.loads(told)
    assert status == 0
    assert [row["cond_scale"] for row in told["rows"]] == [1, 2]
    measured = [row["frechet_distance/efficientnet-lite0"] for row in told["rows"]]
    assert told["by"] == "frechet_distance/efficientnet-lite0"
    assert told["best"]["frechet_distance/efficientnet-lite0"] == min(measured)
    assert told["best"] in told["rows"]
    # One warning of the few images, however many rows.
    assert sum("warning:" in line for line in err.splitlines()) == 1
    for arguments, message in (
        (("--split", "test"), "the test split is for the final table"),
        (("--guidance", ""), "--guidance '' is not possible"),
        (("--steps", "10,x"), "--steps '10,x' is not possible"),
        (("--scheduler", ","), "no value for scheduler"),
        (("--scheduler", "magic"), "unknown scheduler 'magic'"),
        (("--model", "nowhere"), "unknown model 'nowhere'"),
    ):
        status, _, err = command(*arguments)
        assert status == 2
        assert len(err.splitlines()) == 1
        assert err.startswith("error: ")
        assert message in err
