"""The commands for scenes: what they refuse, and what they print."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from satcascade import cli

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scene"], "give a caption, or captions of parts of the scene with --map YAML"),
        (["scene", " ", "--size", "64x64"], "a caption is empty"),
        (["scene", "a pond"], "give the size of the scene with --size, for example --size 1024x768"),
        (["scene", "a pond", "--size", "64"], "--size 64 is not possible"),
        (["scene", "a pond", "--size", "0x64"], "--size 0x64 is not possible"),
        (["scene", "a pond", "--size", "64x64", "--overlap", "0.9"], "--overlap 0.9 is not possible"),
        (["scene", "a pond", "--size", "64x64", "--batch-size", "0"], "--batch-size 0 is not possible"),
        (["scene", "a pond", "--size", "64x64", "--out", __file__], "is a file"),
        (["scene", "a pond", "--size", "64x64", "--model", "no-such"], "unknown model 'no-such'"),
        (["scene", "--map", "none.yaml"], "no map file none.yaml"),
        (["extend", "none.png", "a pond", "--left", "8"], "no image file none.png"),
        (["extend", __file__, "a pond"], "nothing to extend: give --left"),
        (["extend", __file__, "a pond", "--left", "-8"], "--left -8 is not possible: give 0 or more"),
        (["extend", __file__, "", "--left", "8"], "a caption is empty"),
        (
            ["extend", __file__, "a pond", "--left", "8", "--resampling", "0"],
            "--resampling 0 is not possible",
        ),
    ],
)
def test_bad_usage_is_refused_in_one_line_and_nothing_made(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_does_not_wrap_is_refused(run, tiny_model, tmp_path):
    out = tmp_path / "out"
    options = ("--size", "65x64", "--wrap", "--model", tiny_model, "--out", out)
    status, _, error = run("scene", "a pond", *options)
    assert (status, error.count("\n")) == (2, 1)
    assert "cannot wrap: both sides must be multiples of 2 and at least 32" in error


def test_a_scene_and_a_picture_that_grows(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--model", tiny_model, "--steps", 1, "--device", "cpu")
    status, printed, _ = run("scene", "a pond", "--size", "48x40", *options)
    assert status == 0
    assert printed.startswith("scenes/a-pond/a-pond.png (")
    assert run("scene", "a pond", "--size", "48x40", *options)[1] == "scenes/a-pond/a-pond.png was there\n"
    assert run("extend", "scenes/a-pond/a-pond.png", "forest", "--top", 8, "--out", "more", *options)[0] == 0
    with Image.open("more/forest.png") as image:
        assert image.size == (48, 48)
    joining = ("--left", 8, "--resampling", 2, "--no-seamless")
    assert run("extend", "scenes/a-pond/a-pond.png", "forest", *joining, "--out", "most", *options)[0] == 0
    settings = json.loads((tmp_path / "most" / "scene.json").read_text())["settings"]
    assert (settings["resampling"], settings["seamless"]) == (2, False)
    (tmp_path / "map.yaml").write_text("regions: [{box: [0, 0, 20, 40], caption: a river}]")
    arguments = ("scene", "forest", "--size", "48x40", "--map", "map.yaml")
    assert run(*arguments, *options)[1].startswith("scenes/map/forest-a-river.png (")
