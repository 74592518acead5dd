"""Maps of captions as users write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade.data.scene_map import read_scene_map
from satcascade.errors import UsageError


def written(folder: Path, text: str) -> Path:
    (folder / "map.yaml").write_text(text)
    return folder / "map.yaml"


def coloured(folder: Path, colours=((0, 0, 255), (0, 255, 0))) -> None:
    pixels = np.array(colours, np.uint8)[None].repeat(3, axis=0)
    Image.fromarray(pixels).save(folder / "labels.png")


def test_boxes_over_a_background(tmp_path):
    path = written(
        tmp_path, "background: dense  forest\nregions:\n  - {box: [1, 0, 2, 1], caption: a wide river}\n"
    )
    regions = read_scene_map(path, (2, 4), None)
    assert regions.captions == ("dense forest", "a wide river")
    assert regions.labels.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]


def test_the_background_may_come_from_the_command(tmp_path):
    path = written(tmp_path, "regions: [{box: [0, 0, 1, 1], caption: a river}]")
    assert read_scene_map(path, (2, 2), "forest").captions == ("forest", "a river")


def test_colours_of_an_image(tmp_path):
    coloured(tmp_path)
    path = written(
        tmp_path, 'image: labels.png\ncolours: {"#0000FF": a river, "#00ff00": forest, "#000000": sea}'
    )
    regions = read_scene_map(path, None, None)
    assert regions.labels.shape == (3, 2)
    assert [regions.captions[number] for number in regions.labels[0]] == ["a river", "forest"]
    larger = read_scene_map(path, (6, 8), None)
    assert larger.labels.shape == (6, 8)
    assert [regions.captions[number] for number in larger.labels[5]] == ["a river"] * 4 + ["forest"] * 4


def test_a_colour_without_caption_is_named(tmp_path):
    coloured(tmp_path, [(0, 0, 255), (0, 255, 0), (9, 9, 9)])
    path = written(tmp_path, 'image: labels.png\ncolours: {"#0000ff": a river}')
    with pytest.raises(
        UsageError, match=r"labels\.png has the colour #00ff00 \(and 1 more\), which has no caption"
    ):
        read_scene_map(path, None, None)


@pytest.mark.parametrize(
    ("text", "size", "caption", "message"),
    [
        ("[", (2, 2), None, "cannot be read as YAML"),
        ("- a\n- b", (2, 2), None, "must have the keys background and regions, or image and colours"),
        ("{}", (2, 2), None, "must have the keys"),
        ("{background: sea, colour: blue}", (2, 2), None, "it has background, colour"),
        ("background: sea", (2, 2), "forest", "has a background: leave out 'forest'"),
        ("regions: []", (2, 2), None, "background has no caption"),
        ("{background: ' ', regions: []}", (2, 2), None, "background has no caption"),
        ("background: sea", None, None, "give the size of the scene"),
        ("{background: sea, regions: 3}", (2, 2), None, "regions must be a list"),
        ("{background: sea, regions: [{box: [0, 0, 1, 1]}]}", (2, 2), None, "region 1 must have the keys"),
        ("{background: sea, regions: [{box: 3, caption: a}]}", (2, 2), None, "the box of region 1 must be"),
        ("{background: sea, regions: [{box: [0, 0, 1, true], caption: a}]}", (2, 2), None, "must be"),
        ("{background: sea, regions: [{box: [0, 0, 1, 1], caption: }]}", (2, 2), None, "region 1 has no"),
        ("{background: sea, regions: [{box: [0, 0, 3, 1], caption: a}]}", (2, 2), None, "does not lie in"),
        ("{image: labels.png, colours: {}}", None, None, "colours must be a table"),
        ("{image: labels.png, colours: {red: a}}", None, None, "'red' is not a colour"),
        ("{image: labels.png, colours: {'#0000ff': }}", None, None, "colour #0000ff has no caption"),
        ("{image: none.png, colours: {'#0000ff': a}}", None, None, "label map .* cannot be read"),
        ("{image: labels.png, colours: {'#0000ff': a}}", None, "sea", "leave out 'sea'"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(tmp_path, text, size, caption, message):
    coloured(tmp_path)
    with pytest.raises(UsageError, match=message):
        read_scene_map(written(tmp_path, text), size, caption)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_scene_map(tmp_path / "none.yaml", None, None)
