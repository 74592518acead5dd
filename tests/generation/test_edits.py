"""Edits of an image file to a folder: what is kept of it, provenance, resume, shards, and bad files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade import cli
from satcascade.data.captions import Captions
from satcascade.errors import UsageError
from satcascade.generation.edit_source import EditSource, ResizedImageWarning
from satcascade.generation.run import GenerationRequest, generate
from satcascade.generation.shard import Shard
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.pipelines.edit import FullMaskWarning

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

CAPTION = "a pond in the forest"


@pytest.fixture
def pipeline(tiny_model: Path) -> CascadePipeline:
    return CascadePipeline.from_pretrained(tiny_model)


def picture(width: int = 32, height: int = 32) -> Image.Image:
    levels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    return saved(tmp_path / "tile.png", picture())


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def white(path: Path, size: tuple[int, int], *box: int) -> Path:
    """A mask with a white box: left, top, right, bottom."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return saved(path, mask)


def run(pipeline, out, source: EditSource, **changes):
    arguments = {"captions": Captions.of([CAPTION]), "per_caption": 3, "seed": 7, "batch_size": 2}
    return generate(
        pipeline, GenerationRequest(out=out, edit=source, **{**arguments, **changes}), progress=False
    )


def made(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def inside(size: tuple[int, int], left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


# What stays and what is new


def test_outside_of_a_mask_or_a_box_are_the_files_own_bytes(pipeline, tile, tmp_path):
    mask = white(tmp_path / "mask.png", (32, 32), 5, 8, 25, 20)
    run(pipeline, tmp_path / "mask", EditSource(tile, mask))
    run(pipeline, tmp_path / "box", EditSource(tile, box=(5, 8, 20, 12)))
    before, remade = np.asarray(picture()), inside((32, 32), 5, 8, 20, 12)
    pictures = made(tmp_path / "mask")
    assert len(pictures) == 3
    for after, same in zip(pictures, made(tmp_path / "box"), strict=True):
        np.testing.assert_array_equal(after[~remade], before[~remade])
        assert (after[remade] != before[remade]).mean() > 0.8
        np.testing.assert_array_equal(after, same)
    assert (pictures[0] != pictures[1]).any()


def test_of_a_larger_image_a_window_is_edited_and_the_whole_comes_back(pipeline, tmp_path):
    large = saved(tmp_path / "large.png", picture(100, 60))
    run(pipeline, tmp_path / "out", EditSource(large, box=(90, 4, 10, 12), feather=0))
    remade = inside((100, 60), 90, 4, 10, 12)
    for after in made(tmp_path / "out"):
        assert after.shape == (60, 100, 3)
        np.testing.assert_array_equal(after[~remade], np.asarray(picture(100, 60))[~remade])
        assert (after[remade] != np.asarray(picture(100, 60))[remade]).mean() > 0.8
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["edit"]["fit"] == "window 32 x 32 at 68,0"
    with Image.open(tmp_path / "out" / "_grid.png") as grid:
        assert grid.size == (2 * 100 + 4, 2 * 60 + 4)


@pytest.mark.parametrize(("size", "box"), [((50, 40), None), ((20, 24), (4, 4, 9, 9))])
def test_an_image_that_does_not_fit_is_cropped_and_resized_and_that_is_said(pipeline, tmp_path, size, box):
    image = saved(tmp_path / "image.png", picture(*size))
    with pytest.warns(ResizedImageWarning, match=f"is {size[0]} x {size[1]} px: it is cropped at its centre"):
        run(pipeline, tmp_path / "out", EditSource(image, box=box, strength=0.5), per_caption=1)
    assert made(tmp_path / "out")[0].shape == (32, 32, 3)


def test_strength_0_returns_the_image(pipeline, tile, tmp_path):
    run(pipeline, tmp_path / "out", EditSource(tile, strength=0), per_caption=1)
    np.testing.assert_array_equal(made(tmp_path / "out")[0], np.asarray(picture()))


# Provenance, going on, shards


def test_every_picture_says_what_was_edited(pipeline, tile, tmp_path):
    mask = white(tmp_path / "mask.png", (32, 32), 5, 8, 25, 20)
    run(pipeline, tmp_path / "out", EditSource(tile, mask, strength=0.75, resampling=2, feather=3))
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tile, mask)}
    expected = {
        "image": "tile.png",
        "image_sha256": digests[tile],
        "mask_sha256": digests[mask],
        "box": None,
        "fit": "as it is",
        "strength": 0.75,
        "resampling": 2,
        "feather": 3,
        "seamless": True,
    }
    for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["settings"]["edit"] == expected
        assert entry["caption"] == CAPTION
        with Image.open(tmp_path / "out" / entry["file"]) as image:
            text = dict(image.text)
        assert text["Source"] == f"tile.png (SHA-256 {digests[tile]})"
        assert text["Notice"].startswith("image edited by a model")
        assert json.loads(text["Settings"])["settings"]["edit"] == expected


def test_a_run_goes_on_where_it_stopped_and_shards_unite(pipeline, tile, tmp_path):
    source = EditSource(tile, box=(3, 3, 20, 20))
    run(pipeline, tmp_path / "whole", source)
    expected = files(tmp_path / "whole")
    for number in (2, 1):
        run(pipeline, tmp_path / "union", source, shard=Shard(number, 2))
    assert files(tmp_path / "union") == expected
    next((tmp_path / "union").glob("0001*.png")).unlink()
    report = run(pipeline, tmp_path / "union", source)
    assert (report.made, report.kept) == (1, 2)
    assert files(tmp_path / "union") == expected


def test_a_folder_of_another_edit_is_refused(pipeline, tile, tmp_path):
    run(pipeline, tmp_path / "out", EditSource(tile, strength=0.5))
    (tmp_path / "other").mkdir()
    other = saved(tmp_path / "other" / "tile.png", picture().rotate(90))
    for source, difference in (
        (EditSource(tile, strength=0.6), "edit.strength was 0.5, now 0.6"),
        (EditSource(other, strength=0.5), "edit.image_sha256 was "),
        (EditSource(tile, box=(0, 0, 9, 9), strength=0.5), "edit.box was None, now [0, 0, 9, 9]"),
    ):
        with pytest.raises(UsageError, match=re.escape(f"made with other settings ({difference}")):
            run(pipeline, tmp_path / "out", source)
    with pytest.raises(UsageError, match="made with other settings"):
        generate(
            pipeline,
            GenerationRequest(captions=Captions.of([CAPTION]), out=tmp_path / "out", per_caption=3, seed=7),
            progress=False,
        )


# Files that cannot be edited


def deep_rgb(path: Path) -> Path:
    """A PNG of 16 bits and three channels, which Pillow would show as 8: the header of one is enough."""
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[24] = 16
    path.write_bytes(bytes(content))
    return path


def transparent(path: Path) -> Path:
    image = picture().convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 0))
    return saved(path, image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (transparent, "bad.png has transparent pixels (an alpha channel): flatten it"),
        (deep_rgb, "bad.png has more than 8 bits a channel"),
        (lambda path: saved(path, Image.new("I;16", (32, 32))), "bad.png has more than 8 bits a channel"),
        (lambda path: saved(path, Image.new("L", (32, 32))), "bad.png has one band"),
        (lambda path: path.write_text("years of work") and path, "bad.png cannot be read as an image"),
        (lambda path: path, "no image file"),
    ],
)
def test_an_image_that_cannot_be_edited_is_refused(pipeline, tmp_path, make, message):
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        run(pipeline, tmp_path / "out", EditSource(make(tmp_path / "bad.png")))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (((16, 16), (0, 0, 9, 9)), "mask.png is 16 x 16 px, "),
        (((32, 32), (0, 0, 0, 0)), "mask.png is black everywhere, so that nothing would be remade"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(pipeline, tile, tmp_path, mask, message):
    file = white(tmp_path / "mask.png", mask[0], *mask[1])
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        run(pipeline, tmp_path / "out", EditSource(tile, file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("size", "box", "message"),
    [
        ((32, 32), (20, 0, 20, 5), "box 20,0,20,5 lies outside of"),
        ((32, 32), (0, 0, 0, 5), "box 0,0,0,5 is not possible"),
        ((32, 32), (-1, 0, 3, 5), "box -1,0,3,5 is not possible"),
        ((90, 90), (0, 0, 60, 5), "the part to remake spans 60 x 5 px, the model makes 32 x 32"),
        ((90, 20), (0, 0, 5, 5), "lies outside of the square at its centre"),
    ],
)
@pytest.mark.filterwarnings("ignore::satcascade.generation.edit_source.ResizedImageWarning")
def test_a_box_that_does_not_fit_is_refused(pipeline, tmp_path, size, box, message):
    image = saved(tmp_path / "image.png", picture(*size))
    with pytest.raises(UsageError, match=re.escape(message)):
        run(pipeline, tmp_path / "out", EditSource(image, box=box))


def test_a_box_around_everything_is_warned_of(pipeline, tile, tmp_path):
    with pytest.warns(FullMaskWarning, match="the mask is white everywhere"):
        run(pipeline, tmp_path / "out", EditSource(tile, box=(0, 0, 32, 32)), per_caption=1)


def test_mask_and_box_at_once_are_refused(tile):
    with pytest.raises(UsageError, match="a mask or a box"):
        EditSource(tile, tile, (0, 0, 3, 3))
    with pytest.raises(UsageError, match=r"strength 1\.5 is out of range"):
        EditSource(tile, strength=1.5)


# The command


def test_the_command_edits_goes_on_and_warns(tiny_model, tmp_path, capsys):
    image = saved(tmp_path / "image.png", picture(40, 40))
    command = [
        "edit",
        image,
        CAPTION,
        "--strength",
        "0.5",
        "-n",
        "2",
        "--model",
        tiny_model,
        "--device",
        "cpu",
    ]
    command += ["--out", tmp_path / "out", "--seed", "3"]
    for kept in ("", ", 2 were there"):
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in command])
        said = capsys.readouterr()
        assert end.value.code == 0
        assert f"images in {tmp_path / 'out'}" in said.out
        assert kept in said.out
        assert f"warning: {image} is 40 x 40 px: it is cropped at its centre" in said.err
    assert len(made(tmp_path / "out")) == 2
