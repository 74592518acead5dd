"""The command that enlarges images: what it refuses, and what it prints."""

from __future__ import annotations

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
        (["upscale", "none.png"], "no image or folder none.png"),
        (["upscale", __file__, "--caption", " "], "a caption is empty"),
        (["upscale", __file__, "--guidance", "2"], "--guidance is guidance by a caption"),
        (["upscale", __file__, "--overlap", "1"], "--overlap 1.0 is not possible"),
        (["upscale", __file__, "--out", __file__], "is a file"),
        (["upscale", __file__, "--model", "no-such"], "unknown model 'no-such'"),
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


def test_an_image_is_enlarged(run, tiny_model, tmp_path):
    Image.new("RGB", (16, 20), "green").save(tmp_path / "mine.png")
    options = ("--model", tiny_model, "--steps", 1, "--device", "cpu", "--out", tmp_path / "out")
    status, printed, _ = run("upscale", tmp_path / "mine.png", *options)
    assert status == 0
    assert printed.startswith(f"1 images in {tmp_path / 'out'} (")
    with Image.open(tmp_path / "out" / "mine.png") as image:
        assert image.size == (32, 40)
    assert ", 1 were there)" in run("upscale", tmp_path / "mine.png", *options)[1]
