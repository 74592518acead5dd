"""Pictures behind the tabs: those of ``satcascade sample``, with news on the way, stopped within a step."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

from recorder import Recorder
from satcascade.config.stage_settings import StageSettings
from satcascade.data.captions import Captions
from satcascade.errors import UsageError
from satcascade.generation.edit_source import EditSource
from satcascade.generation.jobs import image_seed
from satcascade.generation.provenance import read_png_text
from satcascade.generation.run import GenerationRequest, generate
from satcascade.web.jobs import JobCancelledError, Waiting
from satcascade.web.pictures import DrawRequest, EditRequest, bundle, make_pictures


def test_pictures_are_those_of_the_command_line(backend, tmp_path):
    stages = {"base": StageSettings(3, 2.5), "sr": StageSettings(2)}
    made = make_pictures(backend, [DrawRequest("a pond", 7, 2, stages)], Recorder())
    generate(
        backend.pipeline,
        GenerationRequest(Captions.of(["a pond"]), tmp_path / "out", 2, 7, batch_size=1, stages=stages),
        progress=False,
    )
    for index, picture in enumerate(made.made):
        assert picture.path.read_bytes() == (tmp_path / "out" / f"{index:04d}_a-pond.png").read_bytes()


def test_a_picture_says_how_it_was_made(backend):
    made = make_pictures(backend, [DrawRequest("a  pond", 7)], Recorder())
    text = read_png_text(made.made[0].path)
    assert text["Prompt"] == "a pond"
    assert text["Seed"] == str(image_seed(7, 0))
    assert "no real place" in text["Notice"]
    assert made.made[0].label == "seed 7: a pond"


def test_news_count_steps_and_pictures(backend):
    job = Recorder()
    requests = [DrawRequest("a pond", seed) for seed in (0, 1)]
    made = make_pictures(backend, requests, job)
    steps = sum(len(stage.steps) for stage in backend.pipeline.prepare({}))
    counted = [(len(news.made), news.progress and news.progress.step) for news in job.news]
    one = [*range(1, steps + 1)]
    assert counted == [*((0, step) for step in one), (1, None), *((1, step) for step in one), (2, None)]
    assert {news.progress.steps for news in job.news if news.progress} == {steps}
    assert made == job.news[-1]


def test_the_first_step_shows_a_picture_of_the_models_size_or_its_first_stages(backend):
    job = Recorder()
    make_pictures(backend, [DrawRequest("a pond")], job)
    preview = job.news[0].progress.preview
    assert preview.size == (backend.pipeline.prepare({})[0].image_size,) * 2
    assert len(np.unique(np.asarray(preview))) > 1


@pytest.mark.parametrize("step", [1, 3])
def test_a_cancelled_job_stops_within_a_step_and_the_model_works_on(backend, step):
    before = make_pictures(backend, [DrawRequest("a pond")], Recorder()).made[0].path.read_bytes()
    job = Recorder(cancel_after=step)
    with pytest.raises(JobCancelledError):
        make_pictures(backend, [DrawRequest("a pond", 1)], job)
    assert len(job.news) == step
    after = make_pictures(backend, [DrawRequest("a pond")], Recorder()).made[0].path.read_bytes()
    assert after == before


def test_cancelling_between_pictures_stops_too(backend):
    steps = sum(len(stage.steps) for stage in backend.pipeline.prepare({}))
    job = Recorder(cancel_after=steps + 1)
    with pytest.raises(JobCancelledError):
        make_pictures(backend, [DrawRequest("a pond", number=3)], job)
    assert len(job.news) == steps + 1


def test_by_way_of_the_queue(backend):
    requests = [DrawRequest("a pond")]
    *_, made = backend.jobs.run("visit", "draw", lambda job: make_pictures(backend, requests, job))
    assert not isinstance(made, Waiting)
    assert made.made[0].path.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"caption": "  "}, "caption is empty"),
        ({"caption": "x" * 501}, "501 characters"),
        ({"caption": "a pond", "seed": -1}, "seed -1 is out of range"),
        ({"caption": "a pond", "number": 0}, "give 1 to 16"),
        ({"caption": "a pond", "number": 17}, "give 1 to 16"),
        ({"caption": "a pond", "stages": {"base": StageSettings(steps=0)}}, "base steps: 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        DrawRequest(**arguments)


def test_an_edit_keeps_what_is_not_painted_and_names_its_source(backend, tmp_path):
    size = backend.size
    rng = np.random.default_rng(0)
    picture, mask = tmp_path / "field.png", tmp_path / "mask.png"
    Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(picture)
    painted = np.zeros((size, size), np.uint8)
    painted[: size // 2] = 255
    Image.fromarray(painted).save(mask)
    job = Recorder()
    request = EditRequest("a pond", source=EditSource(picture, mask, strength=1.0))
    (made,) = make_pictures(backend, [request], job).made
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (picture, made.path))
    assert np.array_equal(after[size // 2 :], before[size // 2 :])
    assert not np.array_equal(after[: size // 2], before[: size // 2])
    assert "field.png" in read_png_text(made.path)["Source"]


def test_a_weaker_edit_takes_the_steps_it_says(backend, tmp_path):
    picture = tmp_path / "field.png"
    Image.new("RGB", (backend.size,) * 2, "green").save(picture)
    job = Recorder()
    make_pictures(backend, [EditRequest("a pond", source=EditSource(picture, strength=0.5))], job)
    told = [news.progress for news in job.news if news.progress]
    assert [progress.step for progress in told] == [*range(1, told[0].steps + 1)]
    assert told[0].steps < sum(len(stage.steps) for stage in backend.pipeline.prepare({}))


def test_one_picture_is_downloaded_as_it_is_and_several_as_a_zip(backend):
    one = make_pictures(backend, [DrawRequest("a pond")], Recorder()).made
    assert bundle(one, "pictures") == one[0].path
    two = make_pictures(backend, [DrawRequest("a pond", number=2)], Recorder()).made
    with zipfile.ZipFile(bundle(two, "pictures")) as archive:
        assert archive.namelist() == [picture.path.name for picture in two]
        assert archive.read(archive.namelist()[1]) == two[1].path.read_bytes()


def test_warming_up_leaves_nothing_behind(backend):
    *_, result = backend.jobs.run("server", "warm-up", backend.warm_up)
    assert result is None
    assert not backend.folder.exists()
