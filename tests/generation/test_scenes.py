"""Scenes to a folder: the record of each, and a killed process that another goes on from."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forked import Forked
from satcascade import cli
from satcascade.config.stage_settings import StageSettings
from satcascade.errors import SatcascadeError, UsageError
from satcascade.generation.provenance import NOTICE
from satcascade.generation.scene_job import Extension
from satcascade.generation.scenes import SceneRequest, make_scene
from satcascade.io.hashing import sha256_of_file
from satcascade.io.locks import exclusive
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import SceneSettings

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STAGES = {"base": StageSettings(2), "sr": StageSettings(1)}


@pytest.fixture
def pipeline(tiny_model: Path) -> CascadePipeline:
    return CascadePipeline.from_pretrained(tiny_model)


def request(out: Path, **changes) -> SceneRequest:
    arguments = {"prompt": "a pond", "size": (40, 64), "seed": 3, "stages": STAGES}
    return SceneRequest(out=out, **{**arguments, **changes})


def make(pipeline: CascadePipeline, out: Path, **changes):
    return make_scene(pipeline, request(out, **changes), progress=False)


def test_a_scene_leaves_a_picture_that_says_how_it_was_made(pipeline, tmp_path):
    report = make(pipeline, tmp_path / "out")
    assert report.file == tmp_path / "out" / "a-pond.png"
    assert (report.made, report.resumed) == (True, None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "a-pond.png", "manifest.jsonl", "scene.json"
    ]  # fmt: skip
    with Image.open(report.file) as image:
        assert image.size == (64, 40)
        assert image.text["Prompt"] == "a pond"
        assert image.text["Notice"] == NOTICE
    (line,) = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert (line["file"], line["caption"], line["run_seed"]) == ("a-pond.png", "a pond", 3)
    assert line["settings"]["size"] == "64x40"
    assert line["settings"]["base"]["steps"] == 2
    # And can be made again from that.
    again = pipeline.scene(line["caption"], (40, 64), seed=line["seed"], settings=STAGES)
    assert np.array_equal(np.asarray(again), np.asarray(Image.open(report.file)))


def test_a_scene_that_is_there_is_not_made_again(pipeline, tmp_path, monkeypatch):
    make(pipeline, tmp_path)
    before = (tmp_path / "a-pond.png").stat().st_mtime_ns
    assert not make(pipeline, tmp_path).made
    assert (tmp_path / "a-pond.png").stat().st_mtime_ns == before
    # But one that is cut short is.
    whole = (tmp_path / "a-pond.png").read_bytes()
    (tmp_path / "a-pond.png").write_bytes(whole[:-40])
    assert make(pipeline, tmp_path).made
    assert (tmp_path / "a-pond.png").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": "a desert"}, "captions was"),
        ({"size": (40, 70)}, "size was 64x40, now 70x40"),
        ({"seed": 4}, "seed was 3, now 4"),
        ({"scene": SceneSettings(overlap=0.25)}, "overlap was 0.5, now 0.25"),
        ({"prompt": Regions(("a pond",), np.zeros((40, 64), np.int64))}, "another map"),
        ({"stages": {"base": StageSettings(3), "sr": StageSettings(1)}}, "base.steps was 2, now 3"),
    ],
)
def test_another_scene_in_the_same_folder_is_refused(pipeline, tmp_path, changes, named):
    make(pipeline, tmp_path)
    with pytest.raises(UsageError, match=named):
        make(pipeline, tmp_path, **changes)


def test_windows_at_once_do_not_make_another_scene(pipeline, tmp_path):
    make(pipeline, tmp_path)
    assert not make(pipeline, tmp_path, scene=SceneSettings(batch_size=1)).made


def test_a_folder_of_other_files_is_refused(pipeline, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="is not empty and holds no scene"):
        make(pipeline, tmp_path)


def test_two_processes_do_not_make_one_scene(pipeline, tmp_path):
    with (
        exclusive(tmp_path / ".lock", "busy"),
        pytest.raises(SatcascadeError, match="another process is making"),
    ):
        make(pipeline, tmp_path)


@pytest.mark.parametrize("changes", [{"prompt": "  "}, {"size": None}, {"seed": -1}])
def test_impossible_requests_are_refused(tmp_path, changes):
    with pytest.raises(UsageError):
        request(tmp_path, **changes)


class StoppedError(Exception):
    pass


# Six windows a stage, one at a time: two steps of the base stage are twelve calls of its network.
@pytest.mark.parametrize(
    ("calls_before", "resumed"), [(6, ("base", 1)), (11, ("base", 1)), (14, ("base", 2)), (20, ("sr", 1))]
)
def test_a_stopped_scene_goes_on_where_it_was(pipeline, tmp_path, monkeypatch, calls_before, resumed):
    stages = {"base": StageSettings(2), "sr": StageSettings(2)}
    options = {"stages": stages, "scene": SceneSettings(batch_size=1)}
    whole = make(pipeline, tmp_path / "whole", **options)
    calls = []

    def stopping(network, forward):
        def counted(*args, **more):
            if len(calls) >= calls_before:
                raise StoppedError
            calls.append(1)
            return forward(*args, **more)

        monkeypatch.setattr(network, "forward", counted)

    with monkeypatch.context() as monkeypatch:
        stopping(pipeline.unet, pipeline.unet.forward)
        stopping(pipeline.sr_unet, pipeline.sr_unet.forward)
        with pytest.raises(StoppedError):
            make(pipeline, tmp_path / "cut", save_every=0, **options)
    assert (tmp_path / "cut" / ".state.safetensors").exists()
    report = make(pipeline, tmp_path / "cut", **options)
    assert report.resumed == resumed
    assert report.file.read_bytes() == whole.file.read_bytes()
    assert not (tmp_path / "cut" / ".state.safetensors").exists()


def test_a_damaged_state_is_named(pipeline, tmp_path):
    (tmp_path / ".state.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(SatcascadeError, match=r"\.state\.safetensors is damaged .* begins anew"):
        make(pipeline, tmp_path)


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from(tiny_model, tmp_path):
    def started(name: str) -> Forked:
        options = {"out": tmp_path / name, "model": tiny_model, "device": "cpu", "size": "64x40", "seed": 3}
        steps = {"base-steps": 60, "sr-steps": 2, "save-every": 0}
        return Forked(
            cli.main, ["scene", "a pond", *(f"--{key}={value}" for key, value in (options | steps).items())]
        )

    killed = started("cut")
    while not (tmp_path / "cut" / ".state.safetensors").exists():
        assert killed.poll() is None, killed.err
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not list((tmp_path / "cut").glob("*.png"))
    for name in ("cut", "whole"):
        done = started(name)
        assert done.wait() == 0, done.err
        assert ("resumed at step" in done.out) == (name == "cut")
    cut, whole = ((tmp_path / name / "a-pond.png").read_bytes() for name in ("cut", "whole"))
    assert cut == whole


# A picture that grows


def test_a_picture_that_grew_says_of_what(pipeline, tmp_path):
    source = tmp_path / "mine.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    Image.fromarray(pixels).save(source)
    report = make(pipeline, tmp_path / "out", size=None, extension=Extension(source, left=16, bottom=8))
    with Image.open(report.file) as image:
        assert image.size == (56, 40)
        assert np.array_equal(np.asarray(image)[:32, 16:], pixels)
        assert image.text["Source"] == f"mine.png sha256:{sha256_of_file(source)}"
        assert image.text["Notice"].startswith("extended by a model")
    Image.fromarray(255 - pixels).save(source)
    with pytest.raises(UsageError, match="another image"):
        make(pipeline, tmp_path / "out", size=None, extension=Extension(source, left=16, bottom=8))


def test_how_a_picture_was_joined_is_recorded_and_another_join_refused(pipeline, tmp_path):
    source = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)).save(source)
    extension = Extension(source, right=8, resampling=2)
    make(pipeline, tmp_path / "out", size=None, extension=extension)
    settings = json.loads((tmp_path / "out" / "scene.json").read_text())["settings"]
    assert (settings["resampling"], settings["seamless"]) == (2, True)
    for changes, named in (
        ({"resampling": 3}, "resampling was 2, now 3"),
        ({"seamless": False}, "seamless was"),
    ):
        with pytest.raises(UsageError, match=named):
            make(pipeline, tmp_path / "out", size=None, extension=replace(extension, **changes))
    with pytest.raises(UsageError, match="resampling 0 is not possible"):
        replace(extension, resampling=0)


def test_growing_by_nothing_is_refused(tmp_path):
    extension = Extension(tmp_path / "mine.png")
    for sides in ({}, {"left": -3}):
        with pytest.raises(UsageError, match="nothing to extend"):
            request(tmp_path, size=None, extension=replace(extension, **sides))
