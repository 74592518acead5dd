"""Sets in Karpathy's caption layout: one JSON file with all images, their splits and sentences.

::

    {"dataset": ..., "images": [{"filename": "airport_1.jpg", "split": "train",
                                 "sentences": [{"raw": "many planes ..."}, ...]}, ...]}

A sentence without ``raw`` is made of its ``tokens``, a space between two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from satcascade.data.sources.image_files import find_images, locate_image, name_in, require_inside
from satcascade.data.sources.sample import Problem, Sample, Source
from satcascade.data.sources.sentences import sentence_text
from satcascade.data.sources.text_files import read_text
from satcascade.errors import SatcascadeError

RSICD_CLASSES = (
    "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial",
    "DenseResidential", "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential",
    "Mountain", "Park", "Parking", "Playground", "Pond", "Port", "RailwayStation", "Resort", "River",
    "School", "SparseResidential", "Square", "Stadium", "StorageTanks", "Viaduct",
)  # fmt: skip
_RSICD_PREFIX = {name.lower(): name for name in RSICD_CLASSES}


def rsicd_label(filename: str) -> str | None:
    """The class that RSICD's file names carry before their number; None for a bare number.

    ``airport_1.jpg`` is ``Airport``; ``00720.jpg`` has no class.
    """
    match = re.match(r"([A-Za-z]+)_\d+\.", Path(filename).name)
    return _RSICD_PREFIX.get(match[1].lower(), match[1]) if match else None


def read_rsicd(folder: Path, annotations: Path) -> Source:
    """RSICD, the Remote Sensing Image Captioning Dataset, as its authors publish it.

    Format: ``dataset_rsicd.json`` beside a folder ``RSICD_images`` of 10,921 JPEG images of 224 x 224
    pixels, at various ground resolutions, from Google Earth, Baidu Map, MapABC and Tianditu. Five
    sentences an image (about 18,000 distinct, as many images repeat theirs), 30 scene classes.

    Splits: train 8,734, val 1,094, test 1,093.

    Labels: the ``label`` of an image entry where there is one; else the class in front of the number in
    the file name, as in ``airport_1.jpg``; names that are bare numbers have none.

    Size: about 550 MB. Use: research, under the terms of the imagery's owners.

    Citation: Lu, Wang, Zheng, Li, "Exploring Models and Data for Remote Sensing Image Caption
    Generation", IEEE Transactions on Geoscience and Remote Sensing 56(4), 2018,
    doi 10.1109/TGRS.2017.2776321.

    Args:
        folder: the data set's folder.
        annotations: its JSON file.

    Raises:
        SatcascadeError: the JSON file is not in the layout, or there is no folder of images.
    """
    return _read("rsicd", folder, annotations, rsicd_label)


def read_ucm(folder: Path, annotations: Path) -> Source:
    """UC Merced captions (UCM-captions), and any other set in the same layout (Sydney captions).

    Format: ``dataset.json`` (any one ``*.json`` in Karpathy's layout) beside ``imgs`` or ``images``, 2,100
    TIFF images of 256 x 256 pixels at 0.3 m a pixel, USGS National Map aerial imagery of 21 land-use
    classes, 100 images each. Five sentences an image.

    Splits: train 1,680, val 210, test 210.

    Labels: the ``label`` of an image entry where there is one; the published file has none.

    Size: about 400 MB. Use: the imagery is in the public domain.

    Citations: Yang and Newsam, "Bag-of-Visual-Words and Spatial Extensions for Land-Use
    Classification", ACM SIGSPATIAL GIS, 2010 (images); Qu, Li, Tao, Lu, "Deep Semantic Understanding
    of High Resolution Remote Sensing Image", CITS, 2016, doi 10.1109/CITS.2016.7546397 (captions).

    Args:
        folder: the data set's folder.
        annotations: its JSON file.

    Raises:
        SatcascadeError: the JSON file is not in the layout, or there is no folder of images.
    """
    return _read("ucm", folder, annotations, lambda filename: None)


def find_annotations(path: Path) -> Path | None:
    """The JSON file of captions: ``path`` itself, or the first ``dataset*.json`` in it; None without one."""
    if path.is_file():
        return path if path.suffix == ".json" else None
    return next(iter(sorted(path.glob("dataset*.json"))), None)


def is_rsicd(annotations: Path) -> bool:
    """Whether a file of annotations is RSICD's, by its name or by the data set's name in it."""
    if "rsicd" in annotations.name.lower():
        return True
    try:
        start = read_text(annotations, characters=10_000)
    except (OSError, UnicodeError):
        return False  # the reader says what is wrong
    return re.search(r'"dataset":\s*"rsicd"', start, re.IGNORECASE) is not None


def _read(kind: str, folder: Path, annotations: Path, label_of: Callable[[str], str | None]) -> Source:
    require_inside(folder, annotations)
    entries = _entries(annotations)
    names = [str(entry.get("filename", "")) for entry in entries]
    images = find_images(folder, names)
    samples, problems = [], []
    for row, (name, entry) in enumerate(zip(names, entries, strict=True)):
        if not name:
            problems.append(Problem("row without file name", f"images[{row}] of {annotations.name}"))
            continue
        image = locate_image(folder, images, name)
        if isinstance(image, Problem):
            problems.append(image)
            continue
        label = entry.get("label")
        samples.append(
            Sample(
                filename=name_in(images, image),
                split=str(entry.get("split", "")),
                label=label_of(image.name) if label in (None, "") else str(label),
                captions=tuple(map(sentence_text, entry.get("sentences") or ())),
                image=image,
            )
        )
    return Source(str(folder), kind, samples, problems)


def _entries(annotations: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(annotations))
    except (OSError, ValueError, RecursionError) as error:
        raise SatcascadeError(f"{annotations} cannot be read as JSON ({error}): fetch it again") from error
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise SatcascadeError(
            f"{annotations} is not in Karpathy's caption layout: it needs a list 'images' of objects with "
            "'filename', 'split' and 'sentences'"
        )
    return entries
