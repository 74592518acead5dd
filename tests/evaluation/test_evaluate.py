"""Whole evaluations of small bundles: what is written, what follows the images, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade import cli
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.report.data import Report
from satcascade.evaluation.run import EvaluationRequest, EvaluationWarning, evaluate

pytest.importorskip("efficientnet_lite_pytorch")
pytestmark = pytest.mark.filterwarnings("ignore::satcascade.evaluation.run.EvaluationWarning")


def write_bundle(folder: Path, dataset: PreparedDataset, rows: list[int], captions: list[str]) -> Path:
    """A bundle of real images."""
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        Image.fromarray(np.array(dataset.images[row])).save(folder / f"{number:03d}.png")
    (folder / "captions.txt").write_text("".join(caption + "\n" for caption in captions))
    return folder


@pytest.fixture(scope="module")
def bundle(prepared_synthetic: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images themselves: perfect, and copies every one."""
    rows = [int(row) for row in prepared_synthetic.indices("train")]
    captions = [prepared_synthetic.records[row].captions[0] for row in rows]
    return write_bundle(tmp_path_factory.mktemp("bundle") / "train", prepared_synthetic, rows, captions)


@pytest.fixture(scope="module")
def report(bundle: Path, prepared_synthetic: PreparedDataset, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("evaluation") / "report"
    request = EvaluationRequest(bundle, prepared_synthetic.path, out, split="train", metrics=METRICS)
    metrics = evaluate(request, progress=False)
    return metrics, Report.read(out)


METRICS = ("frechet", "kernel", "manifold", "memorisation")


def test_the_training_images_are_perfect_and_all_of_them_copies(report):
    metrics, _ = report
    assert metrics["n_generated"] == metrics["n_real"] == 32
    assert metrics["frechet_distance/efficientnet-lite0"] == pytest.approx(0, abs=1e-3)
    assert metrics["precision/efficientnet-lite0"] == metrics["recall/efficientnet-lite0"] == 1
    assert metrics["near_copy_rate"] == metrics["near_copy_rate_real"] == 1


def test_the_folder_holds_what_the_page_needs(report, prepared_synthetic):
    metrics, read = report
    assert read.metrics == metrics
    assert read.details.data["hash"] == prepared_synthetic.hash
    assert len(read.details.images) == 32
    records = [prepared_synthetic.records[row] for row in prepared_synthetic.indices("train")]
    for image in read.details.images:
        assert image.nearest is not None
        assert image.nearest.hash_distance == 0
        near = image.nearest
        row = records[int(image.file.removesuffix(".png"))].filename
        assert near.similarity_row == near.hash_row == near.feature_row == row
        assert read.thumbnail(image.file).is_file()
    assert (read.folder / "memorisation.png").is_file()
    assert any("1,000" in note for note in read.details.notes)
    assert set(read.details.timings) >= {"frechet/efficientnet-lite0", "memorisation"}


def test_few_images_are_warned_of(bundle, prepared_synthetic, tmp_path):
    request = EvaluationRequest(
        bundle, prepared_synthetic.path, tmp_path / "r", split="train", metrics=("frechet",)
    )
    with pytest.warns(EvaluationWarning, match="1,000"):
        evaluate(request, progress=False)


@pytest.mark.slow
def test_noise_on_the_images_moves_the_distances_and_hides_the_copies(
    report, bundle, prepared_synthetic, tmp_path
):
    shutil.copytree(bundle, tmp_path / "noisy")
    chance = np.random.default_rng(0)
    for path in (tmp_path / "noisy").glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(float)
        noisy = (pixels * 0.2 + chance.normal(100, 60, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path)
    request = EvaluationRequest(
        tmp_path / "noisy", prepared_synthetic.path, tmp_path / "r", split="train", metrics=METRICS
    )
    found, before = evaluate(request, progress=False), report[0]
    assert found["frechet_distance/efficientnet-lite0"] > before["frechet_distance/efficientnet-lite0"] + 10
    assert found["kernel_distance/efficientnet-lite0"] > before["kernel_distance/efficientnet-lite0"]
    assert found["near_copy_rate"] < 1


@pytest.mark.slow
def test_scene_accuracy_follows_the_captions_and_is_left_out_without_classes(
    bundle, prepared_synthetic, tmp_path
):
    asked = ("scene",)
    request = EvaluationRequest(
        bundle, prepared_synthetic.path, tmp_path / "right", split="train", metrics=asked
    )
    right = evaluate(request, progress=False)
    shutil.copytree(bundle, tmp_path / "wrong")
    lines = (bundle / "captions.txt").read_text().splitlines(keepends=True)
    (tmp_path / "wrong/captions.txt").write_text("".join(lines[7:] + lines[:7]))
    wrong = evaluate(
        EvaluationRequest(
            tmp_path / "wrong", prepared_synthetic.path, tmp_path / "w", split="train", metrics=asked
        ),
        progress=False,
    )
    assert wrong["scene_accuracy"] < right["scene_accuracy"]
    assert wrong["scene_accuracy_real"] == right["scene_accuracy_real"]
    shutil.copytree(bundle, tmp_path / "strange")
    strange = "".join(f"a picture of nothing, number {number}\n" for number in range(len(lines)))
    (tmp_path / "strange/captions.txt").write_text(strange)
    request = EvaluationRequest(tmp_path / "strange", prepared_synthetic.path, tmp_path / "s", split="train")
    found = evaluate(request, progress=False)
    assert "scene_accuracy" not in found
    notes = json.loads((tmp_path / "s/details.json").read_text())["notes"]
    assert any("scene class" in note for note in notes)


@pytest.mark.slow
def test_an_earlier_report_is_replaced_and_nothing_else_is(report, bundle, prepared_synthetic, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    request = EvaluationRequest(bundle, prepared_synthetic.path, out, split="train", metrics=("kernel",))
    with pytest.raises(UsageError, match="something else than a report"):
        evaluate(request, progress=False)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    evaluate(request, progress=False)
    evaluate(request, progress=False)
    assert not (out / "memorisation.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("beauty",)}, "unknown metric 'beauty': choose from frechet"),
        ({"metrics": ()}, "no metric"),
        ({"features": ()}, "no feature network"),
        ({"features": ("resnet",)}, "unknown feature network 'resnet'"),
        ({"split": "holdout"}, "no split 'holdout'"),
        ({"device": "cuda:77"}, "no device 'cuda:77' on this machine"),
        ({"bundle": Path("nowhere")}, "no folder of generated images at nowhere"),
        ({"data": Path("nowhere")}, "nowhere"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(
    bundle, prepared_synthetic, tmp_path, changes, message
):
    arguments = {"bundle": bundle, "data": prepared_synthetic.path, "out": tmp_path / "r"}
    with pytest.raises(SatcascadeError, match=message):
        evaluate(EvaluationRequest(**arguments | changes), progress=False)
    assert not (tmp_path / "r").exists()


def test_the_command_prints_json_and_nothing_else(bundle, prepared_synthetic, tmp_path, capsys):
    arguments = [
        "evaluate",
        bundle,
        "--data",
        prepared_synthetic.path,
        "--split",
        "train",
        "--metrics",
        "frechet",
    ]
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, arguments), "--device", "cpu", "--out", str(tmp_path / "report"), "--json"])
    assert end.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "report/metrics.json").read_text())
