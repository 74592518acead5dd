"""Which caption is where in a scene, as users write it: YAML with boxes, or with the colours of an image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from satcascade.errors import UsageError, one_line
from satcascade.sampling.regions import Regions

_COLOUR = re.compile(r"#[0-9a-f]{6}")


def read_scene_map(path: Path, size: tuple[int, int] | None, caption: str | None) -> Regions:
    """Read a map of captions.

    Either boxes over a background, in pixels from the top left corner::

        background: dense forest
        regions:
          - {box: [0, 128, 512, 64], caption: a wide river}    # x, y, width, height

    or an image each of whose colours has a caption, drawn to the size of the scene::

        image: map.png                                         # beside the YAML file
        colours: {"#0000ff": a wide river, "#00ff00": dense forest}

    Args:
        path: the YAML file.
        size: height and width of the scene; None takes those of the image.
        caption: of the background, where the file has none.

    Raises:
        UsageError: the file or its image cannot be read, is of another form, has a caption too few (a colour
            of the image, the background) or one too many, or a box lies outside the scene.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"map {path} cannot be read as YAML ({one_line(error)})") from error
    keys = set(content) if isinstance(content, dict) else set()
    if keys == {"image", "colours"}:
        if caption is not None:
            raise UsageError(f"map {path} has a caption for every colour: leave out '{caption}'")
        regions = _of_colours(path, str(content["image"]), content["colours"])
        return regions if size is None else regions.resized(*size)
    if not keys or not keys <= {"background", "regions"}:
        raise UsageError(
            f"map {path} must have the keys background and regions, or image and colours "
            f"(it has {', '.join(sorted(map(str, keys))) or 'none'})"
        )
    if caption is not None and "background" in keys:
        raise UsageError(f"map {path} has a background: leave out '{caption}'")
    background = _caption(path, "background", content.get("background", caption))
    if size is None:
        raise UsageError(f"map {path} has boxes: give the size of the scene")
    boxes = content.get("regions") or []
    if not isinstance(boxes, list):
        raise UsageError(f"map {path}: regions must be a list of boxes with captions")
    return Regions.of_boxes(
        background, [_box(path, number, box) for number, box in enumerate(boxes, 1)], *size
    )


def _box(path: Path, number: int, entry: Any) -> tuple[tuple[int, int, int, int], str]:
    if not isinstance(entry, dict) or set(entry) != {"box", "caption"}:
        raise UsageError(f"map {path}: region {number} must have the keys box and caption")
    box = entry["box"]
    if not isinstance(box, list) or len(box) != 4 or not all(type(each) is int for each in box):
        raise UsageError(f"map {path}: the box of region {number} must be [x, y, width, height] in pixels")
    return (box[0], box[1], box[2], box[3]), _caption(path, f"region {number}", entry["caption"])


def _caption(path: Path, what: str, caption: Any) -> str:
    if not isinstance(caption, str) or not caption.strip():
        raise UsageError(f"map {path}: {what} has no caption")
    return " ".join(caption.split())


def _of_colours(path: Path, name: str, colours: Any) -> Regions:
    if not isinstance(colours, dict) or not colours:
        raise UsageError(f'map {path}: colours must be a table such as "#00ff00": dense forest')
    codes: dict[int, str] = {}
    for colour, caption in colours.items():
        if not _COLOUR.fullmatch(str(colour).lower()):
            raise UsageError(f"map {path}: '{colour}' is not a colour: write it as \"#00ff00\", in quotes")
        codes[int(str(colour)[1:], 16)] = _caption(path, f"colour {colour}", caption)
    image = path.parent / name
    try:
        with Image.open(image) as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(np.int64)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UsageError(f"label map {image} of {path} cannot be read ({one_line(error)})") from error
    found, places = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    captions = list(dict.fromkeys(codes.values()))
    missing = [code for code in found.tolist() if code not in codes]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(
            f"label map {image} has the colour #{missing[0]:06x}{more}, which has no caption in {path}: "
            "give it one under colours (a PNG without smoothed edges has no others)"
        )
    numbers = np.array([captions.index(codes[code]) for code in found.tolist()])
    return Regions(tuple(captions), numbers[places.reshape(pixels.shape[:2])])
