"""Scenes behind their tab: those of ``satcascade scene``, with news on the way, stopped between windows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from recorder import Recorder
from satcascade.config.stage_settings import StageSettings
from satcascade.data.scene_map import read_scene_map
from satcascade.errors import UsageError
from satcascade.generation.provenance import read_png_text
from satcascade.generation.scene_job import SceneSpec
from satcascade.generation.scenes import SceneRequest, make_scene
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import Scene, SceneSettings
from satcascade.web.jobs import JobCancelledError
from satcascade.web.scenes import check_scene, make_scene_picture

STAGES = {"base": StageSettings(2, 2.5), "sr": StageSettings(1)}
# Two rows of three windows in either stage.
SIZE = (48, 64)


def spec(prompt: str | Regions = "a pond", size: tuple[int, int] = SIZE, **changes) -> SceneSpec:
    return SceneSpec(prompt, size, **({"seed": 7, "stages": STAGES} | changes))


def windows_of(backend, wanted: SceneSpec) -> int:
    return Scene(backend.pipeline.prepare(wanted.stages), wanted.size, wanted.scene).calls(None)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_scene_is_that_of_the_command_line(backend, tmp_path, wrap):
    wanted = spec(size=(64, 64) if wrap else (45, 70), scene=SceneSettings(wrap=wrap))
    check_scene(backend, wanted)
    (made,) = make_scene_picture(backend, wanted, Recorder()).made
    same = {name: getattr(wanted, name) for name in ("prompt", "size", "seed", "scene", "stages")}
    report = make_scene(backend.pipeline, SceneRequest(**same, out=tmp_path / "out"), progress=False)
    assert made.path.name == report.file.name == "a-pond.png"
    assert made.path.read_bytes() == report.file.read_bytes()
    assert made.label == "seed 7: a pond"
    text = read_png_text(made.path)
    assert text["Prompt"] == "a pond"
    assert "no real place" in text["Notice"]


def test_a_scene_of_parts_is_that_of_a_painted_map(backend, tmp_path):
    labels = np.zeros(SIZE, np.int64)
    labels[20:, 10:50] = 1
    painted = np.zeros((*SIZE, 3), np.uint8)
    painted[labels == 1] = (0, 0, 255)
    Image.fromarray(painted).save(tmp_path / "painted.png")
    (tmp_path / "map.yaml").write_text(
        'image: painted.png\ncolours: {"#000000": dense forest, "#0000ff": a river}\n'
    )
    prompt = read_scene_map(tmp_path / "map.yaml", SIZE, None)
    out = tmp_path / "out"
    request = SceneRequest(prompt, SIZE, seed=7, stages=STAGES, out=out)
    report = make_scene(backend.pipeline, request, progress=False)
    wanted = spec(Regions(("dense forest", "a river"), labels))
    (made,) = make_scene_picture(backend, wanted, Recorder()).made
    assert made.path.read_bytes() == report.file.read_bytes()
    assert read_png_text(made.path)["Prompt"] == "dense forest; a river"


def test_news_count_windows_and_keep_the_last_preview(backend):
    job = Recorder()
    make_scene_picture(backend, spec(), job)
    told = [news.progress for news in job.news]
    total = windows_of(backend, spec())
    assert {(progress.steps, progress.unit) for progress in told} == {(total, "window")}
    counts = [progress.step for progress in told]
    assert counts == sorted(counts)
    assert counts[-1] == total
    # The first step of the first stage is shown, and stays until another preview is there.
    first = next(number for number, progress in enumerate(told) if progress.preview is not None)
    assert counts[first] == 6
    assert all(progress.preview is not None for progress in told[first:])
    stages = backend.pipeline.prepare(STAGES)
    reduction = stages[-1].image_size // stages[0].image_size
    assert told[first].preview.size == (64 // reduction, 48 // reduction)
    assert len(np.unique(np.asarray(told[first].preview))) > 1


# In the first step between its windows, after it, and in the second.
@pytest.mark.parametrize("news", [1, 3, 4])
def test_a_cancelled_scene_stops_between_windows_and_the_model_works_on(backend, news):
    before = make_scene_picture(backend, spec(), Recorder()).made[0].path.read_bytes()
    job = Recorder(cancel_after=news)
    with pytest.raises(JobCancelledError):
        make_scene_picture(backend, spec(seed=8), job)
    assert len(job.news) == news
    after = make_scene_picture(backend, spec(), Recorder()).made[0].path.read_bytes()
    assert after == before


# The models of these tests make pictures of 32 px.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (32, 15)}, "15 x 32 pixels is not possible here: give sides from 16 to 256"),
        ({"size": (257, 32)}, "32 x 257 pixels is not possible here"),
        ({"size": (128, 136)}, "136 x 128 .* as many pixels as 128 x 128 has.*satcascade scene"),
        ({"size": (45, 64), "scene": SceneSettings(wrap=True)}, "cannot wrap: both sides must be multiples"),
        ({"prompt": "x" * 501}, "501 characters"),
    ],
)
def test_what_cannot_be_made_is_refused_before_its_turn(backend, changes, message):
    with pytest.raises(UsageError, match=message):
        check_scene(backend, spec(**changes))


@pytest.mark.parametrize("size", [(16, 16), (128, 128), (64, 256), (37, 91)])
def test_other_sizes_are_not(backend, size):
    check_scene(backend, spec(size=size))
