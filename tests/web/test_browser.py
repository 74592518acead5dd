"""The page in a real browser, from a real process: what people do with it, and what it asks of others."""

from __future__ import annotations

import io
import json
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageColor

from page_server import PageServer
from satcascade.generation.jobs import image_seed
from satcascade.generation.provenance import read_png_text
from satcascade.web.painted_regions import BRUSHES

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'satcascade[web]'")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

# A machine that does much else at once is slow; a page that hangs is found all the same.
_PATIENCE = 240_000
expect.set_options(timeout=_PATIENCE)


@pytest.fixture(scope="module")
def server(tiny_text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    from tiny_cascade import tiny_latent_pipeline, tiny_unet

    folder = tmp_path_factory.mktemp("page")
    # Slow enough that a long job is there still when another page asks for one.
    unet = tiny_unet(0, in_channels=6, sample_size=8, patch_size=1, widths=(64, 128), blocks=(4, 4))
    tiny_latent_pipeline(tiny_text_encoder, unet=unet).save_pretrained(folder / "model")
    server = PageServer(folder / "model", folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright_api.sync_playwright() as playwright:
        # WebGL in software, which the editor draws with.
        options = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Visit:
    """A page of its own in the browser, and the hosts that it asked for something."""

    def __init__(self, browser, server: PageServer, width: int = 1280, scheme: str = "light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.hosts: set[str] = set()
        self.context.on("request", self._note)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.page.goto(server.address)
        expect(self.button("Draw")).to_be_enabled()

    def _note(self, request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def status(self, tab: str = "draw"):
        return self.page.locator(f"#{tab}-status")

    def draw(self, caption: str, number: int = 1, steps: int | None = None) -> None:
        self.page.locator("#draw-caption textarea").fill(caption)
        self.number("#draw-number", number)
        if steps is not None:
            if not self.page.locator("#draw-base-steps").is_visible():
                self.page.get_by_text("Steps, guidance, solver").first.click()
            self.number("#draw-base-steps", steps)
        self.button("Draw").click()

    def draw_long(self, caption: str) -> None:
        """Begin what takes a while: again, where the page had not taken the number of steps over yet."""
        steps = None
        while steps != str(LONG["steps"]):
            expect(self.button("Draw")).to_be_enabled()
            before, found = self.status().inner_text(), None
            self.draw(caption, **LONG)
            while found is None:
                self.page.wait_for_timeout(50)
                now = self.status().inner_text()
                found = re.search(r"step \d+ of (\d+)|drawn", now) if now != before else None
            steps = found[1]

    def scene(self, caption: str, width: int, height: int) -> None:
        self.page.get_by_role("tab", name="Scene").click()
        self.page.locator("#scene-caption textarea").fill(caption)
        self.number("#scene-width", width)
        self.number("#scene-height", height)
        self.button("Make the scene").click()

    def stroke(self, canvas, left: float, right: float, down: float) -> None:
        """From left to right over a canvas, in shares of it."""
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        height = box["y"] + down * box["height"]
        self.page.mouse.move(box["x"] + left * box["width"], height)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + right * box["width"], height, steps=8)
        self.page.mouse.up()

    def download(self, button: str, path: Path) -> None:
        with self.page.expect_download() as download:
            self.page.locator(button).click()
        download.value.save_as(path)

    def number(self, slider: str, value: int) -> None:
        field = self.page.locator(f"{slider} input[type=number]")
        ranges = self.page.locator(f"{slider} input[type=range]")
        field.fill(str(value))
        field.press("Tab")
        # What is filled in while an accordion opens is overwritten: the slider says what was taken over.
        while any(each.input_value() != str(value) for each in ranges.all()):
            self.page.wait_for_timeout(200)
            field.fill(str(value))
            field.press("Tab")


@pytest.fixture
def visit(browser, server: PageServer) -> Iterator[Visit]:
    visit = Visit(browser, server)
    yield visit
    visit.context.close()


LONG = {"number": 16, "steps": 100}


def test_draw_shows_a_picture_and_gives_it_with_its_provenance(visit: Visit, tmp_path: Path) -> None:
    visit.draw("a pond")
    expect(visit.status()).to_have_text("Drawn")
    expect(visit.page.locator("#draw-stage img")).to_have_attribute("alt", "seed 0: a pond")
    expect(visit.page.locator("#draw-gallery img").first).to_be_visible()
    visit.download("#draw-download", tmp_path / "pond.png")
    text = read_png_text(tmp_path / "pond.png")
    assert (text["Prompt"], text["Seed"]) == ("a pond", str(image_seed(0, 0)))
    assert "no real place" in text["Notice"]


@pytest.mark.slow
def test_several_pictures_come_in_a_zip_and_the_dice_give_another_seed(visit: Visit, tmp_path: Path) -> None:
    visit.page.locator("#draw-dice").click()
    seed = visit.page.locator("#draw-seed input")
    expect(seed).not_to_have_value("0")
    visit.draw("a pond", number=3)
    expect(visit.status()).to_have_text("3 pictures drawn")
    expect(visit.page.locator("#draw-gallery button img")).to_have_count(3)
    visit.download("#draw-download", tmp_path / "ponds.zip")
    with zipfile.ZipFile(tmp_path / "ponds.zip") as archive:
        assert len(archive.namelist()) == 3
        first = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        assert first.text["Seed"] == str(image_seed(int(seed.input_value()), 0))


@pytest.mark.slow
def test_the_keyboard_alone_draws(visit: Visit) -> None:
    visit.page.get_by_label("Caption").first.focus()
    visit.page.keyboard.type("a pond")
    visit.page.keyboard.press("Enter")
    expect(visit.status()).to_have_text("Drawn")


@pytest.mark.slow
def test_an_example_fills_in_the_caption(visit: Visit) -> None:
    from satcascade.web.controls import EXAMPLES

    visit.page.get_by_role("button", name=EXAMPLES[-1]).first.click()
    expect(visit.page.locator("#draw-caption textarea")).to_have_value(EXAMPLES[-1])


@pytest.mark.slow
def test_an_empty_caption_is_refused_in_a_line(visit: Visit) -> None:
    visit.draw(" ")
    expect(visit.page.get_by_role("alert").first).to_have_text(
        "the caption is empty: describe the scene in words"
    )
    expect(visit.button("Draw")).to_be_enabled()


def test_cancel_stops_and_leaves_the_page_ready(visit: Visit) -> None:
    visit.draw_long("a pond")
    expect(visit.status()).to_contain_text("step")
    expect(visit.button("Draw")).to_be_disabled()
    visit.page.locator("#draw-cancel").click()
    expect(visit.status()).to_have_text("Cancelled")
    expect(visit.button("Draw")).to_be_enabled()
    expect(visit.page.locator("#draw-cancel")).to_be_disabled()
    visit.draw("a lake")
    expect(visit.status()).to_have_text("Drawn")


@pytest.mark.slow
def test_two_pages_take_turns(visit: Visit, browser, server: PageServer) -> None:
    other = Visit(browser, server)
    visit.draw_long("a pond")
    expect(visit.status()).to_contain_text("step")
    other.draw("a lake")
    expect(other.status()).to_contain_text("1 job is before this one")
    # The other page's cancel is the other page's own.
    other.page.locator("#draw-cancel").click()
    expect(other.status()).to_have_text("Cancelled")
    expect(visit.status()).to_contain_text("step")
    other.draw("a lake")
    visit.page.locator("#draw-cancel").click()
    expect(visit.status()).to_have_text("Cancelled")
    expect(other.status()).to_have_text("Drawn")
    other.context.close()


@pytest.mark.slow
def test_a_reload_in_the_middle_ends_the_job_and_the_page_begins_anew(visit: Visit) -> None:
    visit.draw_long("a pond")
    expect(visit.status()).to_contain_text("step")
    visit.page.reload()
    expect(visit.button("Draw")).to_be_enabled()
    visit.draw("a lake")
    expect(visit.status()).to_have_text("Drawn")
    expect(visit.page.locator("#draw-gallery button img")).to_have_count(1)


@pytest.mark.slow
def test_compare_labels_its_grid(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Compare").click()
    visit.page.locator("#compare-caption textarea").fill("a pond")
    visit.page.get_by_label("Guidance scales").fill("1, 4")
    visit.page.get_by_label("Seeds").fill("0, 5")
    visit.button("Compare").click()
    expect(visit.status("compare")).to_have_text("4 pictures drawn")
    table = visit.page.locator("#compare-stage")
    expect(table.get_by_role("columnheader")).to_have_text(["guidance 1", "guidance 4"])
    expect(table.get_by_role("rowheader")).to_have_text(["seed 0", "seed 5"])
    expect(table.get_by_role("img", name="a pond, guidance 4, seed 5")).to_be_visible()
    visit.page.get_by_label("Guidance scales").fill("1, much")
    visit.button("Compare").click()
    expect(visit.status("compare")).to_contain_text("give numbers with commas")


@pytest.mark.slow
def test_a_brush_stroke_remakes_what_it_covers_alone(visit: Visit, tmp_path: Path) -> None:
    # Of the model's size: the picture is edited as it is.
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "my field.png")
    visit.page.get_by_role("tab", name="Edit").click()
    visit.page.locator("#edit-upload").locator("xpath=..").locator("input[type=file]").set_input_files(
        tmp_path / "my field.png"
    )
    expect(visit.status("edit")).to_have_text("Paint over what is to change")
    canvas = visit.page.locator("#edit-editor canvas").first
    expect(canvas).to_be_visible()
    visit.page.locator("#edit-caption textarea").fill("a pond")
    visit.button("Edit").click()
    expect(visit.status("edit")).to_contain_text("nothing is painted over")
    visit.stroke(canvas, 0.41, 0.59, 1 / 3)
    visit.button("Edit").click()
    expect(visit.status("edit")).to_have_text("Edited")
    visit.download("#edit-download", tmp_path / "edited.png")
    before, after = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("my field.png", "edited.png")
    )
    changed = (before != after).any(axis=2)
    # A stroke in the upper half: something there, and nothing below it.
    assert 0 < changed.sum() < changed.size / 2
    assert not changed[20:].any()
    assert "my-field.png" in read_png_text(tmp_path / "edited.png")["Source"]


def test_a_file_that_is_no_picture_is_refused_in_a_line(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not a picture")
    visit.page.get_by_role("tab", name="Edit").click()
    visit.page.locator("#edit-upload").locator("xpath=..").locator("input[type=file]").set_input_files(
        tmp_path / "bad.png"
    )
    expect(visit.status("edit")).to_contain_text("it is no image")


@pytest.mark.slow
def test_a_drawn_picture_can_be_edited(visit: Visit) -> None:
    visit.draw("a pond")
    expect(visit.status()).to_have_text("Drawn")
    visit.page.get_by_role("tab", name="Edit").click()
    visit.page.locator("#edit-take").click()
    expect(visit.status("edit")).to_have_text("Paint over what is to change")
    visit.page.locator("#edit-caption textarea").fill("a lake")
    visit.page.get_by_label("the whole picture").check()
    visit.button("Edit").click()
    expect(visit.status("edit")).to_have_text("Edited")


@pytest.mark.slow
def test_a_scene_has_its_size_and_says_how_it_was_made(visit: Visit, tmp_path: Path) -> None:
    visit.scene("a pond", 15, 48)
    expect(visit.status("scene")).to_contain_text("15 x 48 pixels is not possible here")
    visit.scene("a pond", 72, 48)
    expect(visit.status("scene")).to_have_text("Scene drawn")
    expect(visit.page.locator("#scene-stage img")).to_have_attribute("alt", "seed 0: a pond")
    visit.download("#scene-download", tmp_path / "scene.png")
    assert Image.open(tmp_path / "scene.png").size == (72, 48)
    text = read_png_text(tmp_path / "scene.png")
    assert (text["Prompt"], text["Seed"]) == ("a pond", str(image_seed(0, 0)))
    settings = json.loads(text["Settings"])["settings"]
    assert settings["size"] == "72x48"
    assert "map" not in settings


@pytest.mark.slow
def test_what_each_brush_painted_has_its_caption(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Scene").click()
    visit.page.locator("#scene-parts").get_by_role("button", name="Captions of parts").click()
    canvas = visit.page.locator("#scene-editor canvas").first
    expect(canvas).to_be_visible()
    visit.page.get_by_label("Caption of what is orange").fill("a road")
    visit.scene("forest", 64, 64)
    expect(visit.status("scene")).to_contain_text("nothing is painted in orange, the colour of 'a road'")
    visit.stroke(canvas, 0.4, 0.6, 0.35)
    visit.page.get_by_label("blue", exact=True).check()
    # The palette of the canvas has the colour of the brush.
    blue = "rgb({}, {}, {})".format(*ImageColor.getrgb(BRUSHES["blue"]))
    expect(visit.page.locator("#scene-editor").get_by_role("button", name="Color", exact=True)).to_have_css(
        "color", blue
    )
    visit.stroke(canvas, 0.4, 0.6, 0.65)
    visit.button("Make the scene").click()
    expect(visit.status("scene")).to_contain_text("blue is painted, but has no caption")
    visit.page.get_by_label("Caption of what is blue").fill("a river")
    visit.button("Make the scene").click()
    expect(visit.status("scene")).to_have_text("Scene drawn")
    visit.download("#scene-download", tmp_path / "scene.png")
    text = read_png_text(tmp_path / "scene.png")
    assert text["Prompt"] == "forest; a road; a river"
    assert "map" in json.loads(text["Settings"])["settings"]


@pytest.mark.slow
def test_a_scene_can_be_cancelled(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Scene").click()
    visit.page.locator("#scene-more").get_by_role("button").first.click()
    visit.number("#scene-base-steps", 100)
    cancelled = False
    while not cancelled:
        visit.scene("a pond", 128, 128)
        expect(visit.status("scene")).to_contain_text("window")
        visit.page.locator("#scene-cancel").click()
        expect(visit.status("scene")).to_have_text(re.compile("Cancelled|Scene drawn"))
        # On a busy machine the last window may have been drawn by then: again.
        cancelled = "Cancelled" in visit.status("scene").inner_text()
    expect(visit.button("Make the scene")).to_be_enabled()


@pytest.mark.slow
def test_a_report_that_is_none_is_refused_in_a_line(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Report").click()
    visit.page.locator("#report-open").click()
    expect(visit.page.locator("#report-status")).to_contain_text("no report is chosen")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_narrow_screen(browser, server: PageServer, scheme: str) -> None:
    visit = Visit(browser, server, width=390, scheme=scheme)
    for tab in ("Draw", "Edit", "Scene", "Compare", "Report"):
        visit.page.get_by_role("tab", name=tab).click()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness < 80) == (scheme == "dark"), background
    visit.context.close()


@pytest.mark.slow
def test_every_field_has_a_name_for_screen_readers(visit: Visit) -> None:
    for tab in ("Draw", "Edit", "Scene", "Compare", "Report"):
        visit.page.get_by_role("tab", name=tab).click()
        nameless = visit.page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, select, button')]
                .filter(e => e.offsetParent && e.type !== 'hidden' && e.type !== 'file')
                .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.innerText?.trim()
                    || e.getAttribute('aria-labelledby') || e.title || e.placeholder))
                .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], tab


@pytest.mark.slow
def test_nothing_is_asked_of_another_machine(visit: Visit, server: PageServer) -> None:
    visit.draw("a pond")
    expect(visit.status()).to_have_text("Drawn")
    for tab in ("Edit", "Scene", "Compare", "Report"):
        visit.page.get_by_role("tab", name=tab).click()
        visit.page.wait_for_timeout(300)
    assert visit.hosts == {urlsplit(server.address).netloc}
    assert server.connections == []


def test_it_listens_on_this_machine_alone_and_shows_no_files_of_it(server: PageServer) -> None:
    assert urlsplit(server.address).hostname == "127.0.0.1"
    for path in ("/etc/hostname", str(Path(__file__))):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{server.address}/gradio_api/file={path}", timeout=60)
        assert refusal.value.code in (403, 404)


@pytest.mark.slow
def test_nothing_is_left_when_it_is_ended(tiny_model: Path, tmp_path: Path, browser) -> None:
    server = PageServer(tiny_model, tmp_path)
    visit = Visit(browser, server)
    visit.draw("a pond")
    expect(visit.status()).to_have_text("Drawn")
    assert list(server.temporary.glob("satcascade-web-*"))
    assert server.stop() == 0
    visit.context.close()
    assert list(server.temporary.iterdir()) == []
    assert "Traceback" not in server.errors
