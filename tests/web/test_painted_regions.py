"""What was painted on the canvas of a scene, as captions of its parts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from satcascade.errors import UsageError
from satcascade.web import uploads
from satcascade.web.painted_regions import BRUSHES, painted_regions

Box = tuple[int, int, int, int]
CAPTIONS = {"orange": "a  road", "blue": "a river", "yellow": "sand"}


def layer(size: tuple[int, int], *painted: tuple[str, Box], alpha: int = 255) -> Image.Image:
    image = Image.new("RGBA", size)
    for brush, box in painted:
        image.paste((*ImageColor.getrgb(BRUSHES[brush]), alpha), box)
    return image


def test_each_brush_has_its_caption_and_the_rest_the_background():
    # Painted at another size than the scene's.
    painted = layer((64, 32), ("blue", (0, 0, 32, 16)), ("orange", (48, 16, 64, 32)))
    captions = CAPTIONS | {"yellow": " "}
    regions = painted_regions("dense forest", captions, [painted], (64, 128))
    assert regions.captions == ("dense forest", "a road", "a river")
    expected = np.zeros((64, 128), np.int64)
    expected[:32, :64] = 2
    expected[32:, 96:] = 1
    assert np.array_equal(regions.labels, expected)


@pytest.mark.parametrize("layers", [[], [layer((16, 16))]])
def test_where_nothing_is_painted_there_is_one_caption(layers):
    assert painted_regions("a pond", dict.fromkeys(BRUSHES, ""), layers, (8, 8)) == "a pond"


def test_later_layers_lie_over_earlier_ones():
    below, above = layer((8, 8), ("blue", (0, 0, 8, 8))), layer((8, 8), ("yellow", (0, 0, 4, 8)))
    captions = {"blue": "a river", "yellow": "sand"}
    regions = painted_regions("forest", captions, [below, above], (8, 8))
    assert [regions.captions[number] for number in regions.labels[0, [0, 7]]] == ["sand", "a river"]


def test_brushes_of_one_caption_are_one_part():
    painted = layer((8, 8), ("blue", (0, 0, 4, 8)), ("yellow", (4, 0, 6, 8)))
    regions = painted_regions("forest", {"blue": "a river", "yellow": "a  river"}, [painted], (8, 8))
    assert regions.captions == ("forest", "a river")
    assert regions.labels[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_a_pixel_that_is_hardly_covered_is_not_painted():
    faint = layer((8, 8), ("blue", (0, 0, 8, 8)), alpha=100)
    assert painted_regions("forest", {}, [faint], (8, 8)) == "forest"


@given(st.sampled_from([*combinations(BRUSHES, 2)]), st.floats(0, 1))
def test_where_two_colours_run_into_one_another_there_is_no_third(brushes, share):
    one, other = (np.array(ImageColor.getrgb(BRUSHES[brush])) for brush in brushes)
    row = np.rint([one, one + share * (other - one), other]).astype(np.uint8)
    captions = dict(zip(brushes, ("a road", "a river"), strict=True))
    regions = painted_regions("forest", captions, [Image.fromarray(row[None]).convert("RGBA")], (1, 3))
    # A third brush would be refused, having no caption; the background is nowhere.
    assert regions.captions == ("a road", "a river")
    assert regions.labels[0].tolist() in ([0, 0, 1], [0, 1, 1])


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({}, "blue is painted, but has no caption"),
        ({"blue": "  "}, "blue is painted, but has no caption"),
        ({"blue": "a river", "yellow": "sand"}, "nothing is painted in yellow, the colour of 'sand'"),
    ],
)
def test_a_brush_without_a_caption_and_a_caption_without_a_brush_are_refused(captions, message):
    with pytest.raises(UsageError, match=message):
        painted_regions("forest", captions, [layer((8, 8), ("blue", (0, 0, 4, 8)))], (8, 8))


def test_a_layer_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_PIXELS", 63)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UsageError, match="8 x 8 pixels"):
        painted_regions("forest", {}, [Image.new("RGBA", (8, 8))], (8, 8))
