"""Pieces of the page: escaped, labelled, and read out."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from satcascade.web.contact_sheet import write_sheet
from satcascade.web.jobs import Waiting
from satcascade.web.markup import failure, figure, grid, making, status, waiting
from satcascade.web.pictures import Making, Picture
from satcascade.web.previews import Progress

EVIL = "<img src=x onerror=alert(1)>\"'"


@pytest.mark.parametrize(
    "html",
    [
        figure(Image.new("RGB", (4, 4)), EVIL),
        figure(None, EVIL),
        status(EVIL),
        failure(EVIL),
        grid([[None]], [EVIL], [EVIL], EVIL),
    ],
)
def test_texts_are_escaped(html: str) -> None:
    assert "<img src=x" not in html
    assert "onerror=alert(1)&gt;" in html


def test_a_picture_stands_in_the_page_with_its_description() -> None:
    html = figure(Image.new("RGB", (5, 4), "red"), "a pond")
    assert 'alt="a pond"' in html
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (5, 4)


def test_what_goes_on_is_read_out_and_errors_are_alerts() -> None:
    assert 'role="status"' in status("Drawing")
    assert 'role="alert"' in failure("no caption")


@pytest.mark.parametrize(("before", "text"), [(1, "1 job is before"), (3, "3 jobs are before")])
def test_who_waits_is_told_for_how_many(before: int, text: str) -> None:
    assert text in waiting(Waiting(before))


def test_the_bar_counts_pictures_and_steps() -> None:
    made = (Picture(Path("a.png"), "a"),)
    html = making(Making(made, 2, Progress(5, 10, None, 1.0)))
    assert "picture 2 of 2, step 5 of 10" in html
    assert 'value="0.750"' in html
    assert 'value="1.000"' in making(Making(made, 1))


def test_a_grid_labels_its_rows_and_columns(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    html = grid([[tmp_path / "a.png", None]], ["guidance 1", "guidance 3"], ["seed 0"], "a pond")
    assert re.findall(r'<th scope="col">(.*?)</th>', html) == ["guidance 1", "guidance 3"]
    assert re.findall(r'<th scope="row">(.*?)</th>', html) == ["seed 0"]
    assert 'alt="a pond, guidance 1, seed 0"' in html
    assert html.count("<img") == 1


def test_a_sheet_has_its_pictures_in_their_places_and_room_for_labels(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        Image.new("RGB", (40, 40), name).save(tmp_path / f"{name}.png")
    path = tmp_path / "grid.png"
    red, blue = tmp_path / "red.png", tmp_path / "blue.png"
    long = "a caption that is a good deal longer than two pictures are wide"
    write_sheet(
        path, [[red, None], [None, blue]], ["guidance 1", "guidance 12.5"], ["seed 0", "seed 1"], long
    )
    with Image.open(path) as sheet:
        assert "no real place" in sheet.text["Notice"]
        assert sheet.text["Prompt"] == long
        colours = {colour: count for count, colour in sheet.getcolors(1 << 20)}
        assert colours[(255, 0, 0)] == colours[(0, 0, 255)] == 1600
        reds = [x for x in range(sheet.width) for y in (60,) if sheet.getpixel((x, y)) == (255, 0, 0)]
        blues = [x for x in range(sheet.width) for y in (105,) if sheet.getpixel((x, y)) == (0, 0, 255)]
        assert len(reds) == len(blues) == 40
        assert max(reds) < min(blues)
