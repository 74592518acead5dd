"""The report page: self-contained, complete for what was measured, and refusals in one line."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.report.data import Report, thumbnail_path
from satcascade.evaluation.report.figures import confusion_figure
from satcascade.evaluation.report.page import write_report

CLASSES = ["Pond", "Desert", "Forest"]
# Each with the text that the page must show for it.
METRICS = {
    "frechet_distance/efficientnet-lite0": (204.53, "204.53"),
    "frechet_distance_low/efficientnet-lite0": (198.11, "198.11"),
    "frechet_distance_high/efficientnet-lite0": (211.92, "211.92"),
    "kernel_distance/efficientnet-lite0": (0.1234, "0.1234"),
    "kernel_distance_std/efficientnet-lite0": (0.0071, "0.0071"),
    "precision/efficientnet-lite0": (0.611, "0.611"),
    "recall/efficientnet-lite0": (0.322, "0.322"),
    "density/efficientnet-lite0": (0.733, "0.733"),
    "coverage/efficientnet-lite0": (0.444, "0.444"),
    "scene_accuracy": (0.194, "0.194"),
    "scene_accuracy_real": (0.812, "0.812"),
    "zero_shot_accuracy": (0.155, "0.155"),
    "clip_score": (0.251, "0.251"),
    "clip_score_std": (0.0311, "0.031"),
    "clip_score_shuffled": (0.219, "0.219"),
    "clip_lift": (0.0321, "0.032"),
    "near_copy_rate": (0.0037, "0.0037"),
    "near_copy_rate_real": (0.0091, "0.0091"),
    "usefulness/real/5": (0.5171, "0.517"),
    "usefulness_std/real/5": (0.0123, "0.012"),
    "usefulness/real+synthetic/20": (0.6262, "0.626"),
    "usefulness/synthetic/100": (0.2373, "0.237"),
    "n_generated": (1204, "1,204"),
    "n_real": (1093, "1,093"),
}


def make_report(folder: Path, name: str = "tiny", **changes: object) -> Path:
    """A folder as 'satcascade evaluate' writes it, of 12 images; ``changes`` go into details.json."""
    (folder / "thumbnails").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = []
    for i in range(12):
        file, label = f"{i:04d}_x.png", CLASSES[i % 3]
        pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(thumbnail_path(folder, file), quality=60)
        images.append(
            {
                "file": file,
                "caption": f'picture {i} <b onclick="x">&',
                "label": label,
                "predicted": CLASSES[i * 7 % 3],
                "confidence": i / 12,
                "clip_score": 0.2 + i / 100,
                "nearest": {
                    "similarity_row": f"similar_{i}.jpg",
                    "similarity": 0.9,
                    "hash_row": f"hash_{i}.jpg",
                    "hash_distance": i,
                    "feature_row": f"feature_{i}.jpg",
                    "feature_distance": 3.14159,
                },
            }
        )
    Image.fromarray(rng.integers(0, 256, (900, 1200, 3), dtype=np.uint8)).save(folder / "memorisation.png")
    details = {
        "name": name,
        "bundle": "bundle-1",
        "data": {"source": "rsicd", "split": "test", "hash": "abc123"},
        "settings": {"base": {"guidance": 6.0, "steps": 20}, "guidance_interval": None},
        "versions": {"torch": "2.13.0"},
        "timings": {"sampling_seconds_per_image": 1.75, "scene_accuracy": 12.5},
        "classes": CLASSES,
        "per_class": {name: {"n": 4, "accuracy": 0.25 * i} for i, name in enumerate(CLASSES, 1)},
        "confusion": [[1, 2, 1], [1, 2, 1], [0, 1, 3]],
        "images": images,
        "notes": ["Only 12 images: <few>."],
    }
    (folder / "details.json").write_text(json.dumps({**details, **changes}))
    (folder / "metrics.json").write_text(json.dumps({key: value for key, (value, _) in METRICS.items()}))
    return folder


class Page(HTMLParser):
    """Collects tags and visible text, and fails where elements are not nested."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + "\n"


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report([make_report(folder / "a")], folder / "page.html").read_text()


def test_every_metric_is_shown(html):
    text = Page(html).text
    missing = [key for key, (_, shown) in METRICS.items() if shown not in text]
    assert not missing
    for published in ("65.70", "0.275", "0.278", "0.030", "0.046", "about 230"):
        assert published in text


def test_the_page_is_self_contained(html):
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")) or (tag == "a" and name == "href")
    assert not {"script", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(re.findall(r"https?://[^\"<\s]+", html)) == {"https://doi.org/10.1007/s00521-024-10363-3"}


def test_captions_and_notes_are_escaped(html):
    page = Page(html)
    assert not any("onclick" in attributes for _, attributes in page.tags)
    assert 'picture 3 <b onclick="x">&' in page.text
    assert "Only 12 images: <few>." in page.text


def test_accessible_and_unique(html):
    page = Page(html)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    used |= {a["href"][1:] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    assert used <= set(identifiers)


def test_the_same_input_gives_the_same_page_under_3_mb(html, tmp_path):
    again = write_report([make_report(tmp_path / "a")], tmp_path / "page.html").read_text()
    assert again == html
    # The noise in the memorisation sheet is 3 MB as PNG.
    assert (tmp_path / "a" / "memorisation.png").stat().st_size > 3e6
    assert len(html.encode()) < 3e6


def test_each_nearest_training_image_stands_under_its_own_measure(html):
    text = " ".join(Page(html).text.split())
    assert "Nearest by hash Bits that differ Most similar Similarity Nearest by features Distance" in text
    assert "hash_3.jpg 3 similar_3.jpg 0.900 feature_3.jpg 3.14" in text
    assert "cosine of the features" not in html


def test_a_report_of_an_earlier_version_is_read(tmp_path):
    nearest = {"row": "train_1.jpg", "hash_distance": 4, "similarity": 0.87}
    image = {"file": "0.png", "caption": "a pond", "nearest": nearest}
    folder = make_report(tmp_path / "a", images=[image])
    (kept,) = Report.read(folder).details.images
    assert kept.nearest is not None
    assert (kept.nearest.similarity_row, kept.nearest.similarity) == ("train_1.jpg", 0.87)
    # Whose hash distance it is was not kept.
    assert (kept.nearest.hash_row, kept.nearest.hash_distance) == (None, 4)
    text = " ".join(Page(write_report([folder], tmp_path / "page.html").read_text()).text.split())
    assert "a pond \N{EN DASH} 4 train_1.jpg 0.870 \N{EN DASH} \N{EN DASH}" in text


@pytest.mark.parametrize("key", [None, *METRICS])
def test_missing_metrics_do_not_break_it(tmp_path, key):
    folder = make_report(tmp_path / "a", images=[], confusion=[], classes=[])
    kept = {name: value for name, (value, _) in METRICS.items() if key is not None and name != key}
    (folder / "metrics.json").write_text(json.dumps(kept))
    Page(write_report([folder], tmp_path / "page.html").read_text())


def test_a_report_of_nothing_but_a_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.json").write_text("{}")
    (tmp_path / "a" / "details.json").write_text('{"name": "bare"}')
    text = Page(write_report([tmp_path / "a"], tmp_path / "page.html").read_text()).text
    assert "Evaluation of bare" in text
    assert "65.70" in text


def test_reports_side_by_side_and_sweeps(tmp_path):
    folders = [make_report(tmp_path / "a", "first"), make_report(tmp_path / "b", "second")]
    sweep = tmp_path / "guided.tsv"
    sweep.write_text(
        "guidance\tscheduler\tn\tscene_accuracy\tfrechet_distance/efficientnet-lite0\n"
        "1\tddim\t64\t0.1\t230\n5\tddim\t64\t0.2\t200\n5\tdpm\t64\t0.21\t199\n1\tdpm\t64\t0.12\t226\n"
    )
    page = Page(write_report(folders, tmp_path / "page.html", [sweep]).read_text())
    headers = page.text[: page.text.index("published")]
    assert headers.index("first") < headers.index("second") < headers.rindex("RSDiff")
    drawn = [attributes["alt"] for tag, attributes in page.tags if attributes.get("class") == "drawing"]
    assert any("by guidance. scheduler ddim: 1 230, 5 200; scheduler dpm: 1 226, 5 199" in x for x in drawn)
    assert any("first 0.194, second 0.194" in x for x in drawn)


def test_figures_are_files_of_their_own_with_the_pages_words_and_colours(tmp_path):
    folders = [make_report(tmp_path / "a", "first"), make_report(tmp_path / "b", "second")]
    page = write_report(folders, tmp_path / "page.html", figures=tmp_path / "figures").read_text()
    files = sorted((tmp_path / "figures").iterdir())
    assert "confusion.svg" in [file.name for file in files]
    assert len(files) == page.count('src="data:image/svg+xml')
    labels = [attributes.get("alt") for _, attributes in Page(page).tags]
    for file in files:
        drawing = ElementTree.parse(file).getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        title = drawing.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert title.text in labels
        assert "--ink: #" in file.read_text()
        assert "prefers-color-scheme: dark" in file.read_text()


def test_a_figure_has_no_colour_but_the_pages():
    figure = confusion_figure(CLASSES, [[1, 2, 1], [1, 2, 1], [0, 1, 3]])
    assert confusion_figure(CLASSES, [[1, 2, 1], [1, 2, 1], [0, 1, 3]]) == figure
    shown = set(re.findall(r'\[style\*="((?:fill|stroke): #\w+)"\]', figure.svg))
    drawing = ElementTree.fromstring(figure.svg)
    styles = " ".join(element.get("style", "") for element in drawing.iter())
    drawn = set(re.findall(r"(?:fill|stroke): #\w+", styles))
    assert drawn
    assert drawn <= shown


def test_images_without_thumbnail_are_named_in_the_warnings(tmp_path):
    folder = make_report(tmp_path / "a")
    thumbnail_path(folder, "0003_x.png").unlink()
    page = Page(write_report([folder], tmp_path / "page.html").read_text())
    assert "1 of 12 images have no thumbnail" in page.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "is no report (no metrics.json)"),
        ("details.json", None, "is no report (no details.json)"),
        ("metrics.json", '{"clip_score": 0.2', "metrics.json is damaged"),
        ("metrics.json", '{"clip_score": "high"}', "clip_score is no number"),
        ("details.json", "[]", "it is no JSON object"),
        ("details.json", '{"name": "x", "images": [{"file": "y"}]}', "images.0.caption"),
        ("details.json", '{"name": "x", "classes": ["a"], "confusion": [[1, 2]]}', "not 1 rows of 1"),
        ("memorisation.png", "no image", "memorisation.png is broken"),
        ("thumbnails/0000_x.png.jpg", "no image", "0000_x.png.jpg is broken"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path, file, content, message):
    path = make_report(tmp_path / "a") / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SatcascadeError) as caught:
        write_report([tmp_path / "a"], tmp_path / "page.html")
    assert message in str(caught.value)
    assert "'satcascade evaluate'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("n\n", "no rows"), ("n\tx\n1\n", "row 1 has 1 fields for 2 columns"), (None, "no table")],
)
def test_damaged_sweeps_are_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.tsv").write_text(content)
    with pytest.raises(SatcascadeError, match=message):
        write_report([make_report(tmp_path / "a")], tmp_path / "page.html", [tmp_path / "s.tsv"])


def test_missing_folder_and_missing_extra(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no report given"):
        write_report([], tmp_path / "page.html")
    with pytest.raises(SatcascadeError, match="no report at"):
        write_report([tmp_path / "none"], tmp_path / "page.html")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    with pytest.raises(SatcascadeError, match=r"needs matplotlib: pip install 'satcascade\[eval\]'"):
        write_report([tmp_path / "none"], tmp_path / "page.html")
