"""Captions of parts of a scene, as people paint them: each with a brush of a colour of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from satcascade.errors import UsageError
from satcascade.sampling.regions import Regions
from satcascade.web.pictures import check_caption
from satcascade.web.uploads import check_pixels

# Told apart with any kind of colour vision (Okabe and Ito 2008), and so far from one another that
# what two of them mix to at an edge is nearest to one of the two.
BRUSHES = {"orange": "#d55e00", "blue": "#0072b2", "yellow": "#f0e442"}
# A pixel is painted where the brush covers at least so much of it, of 255.
_COVERED = 128


def painted_regions(
    background: str, captions: Mapping[str, str], layers: Sequence[Image.Image], size: tuple[int, int]
) -> Regions | str:
    """Which caption is where in a scene.

    Args:
        background: caption of what is not painted.
        captions: of the brushes, by their names in :data:`BRUSHES`; an empty one is none.
        layers: of the editor, with an alpha channel, later ones over earlier ones; resized to the scene.
        size: height and width of the scene in pixels.

    Returns:
        Captions of parts, or ``background`` where nothing is painted.

    Raises:
        UsageError: a brush has painted but has no caption, or the other way round; the background is to be
            seen and has none; or a layer has too many pixels.
    """
    written = {name: " ".join(caption.split()) for name, caption in captions.items()}
    numbers = _brush_numbers(layers, size)
    found = set(np.unique(numbers).tolist())
    for number, name in enumerate(BRUSHES, 1):
        if number in found and not written.get(name):
            raise UsageError(f"{name} is painted, but has no caption: say what is there, or erase it")
        if number not in found and written.get(name):
            raise UsageError(
                f"nothing is painted in {name}, the colour of '{written[name]}': paint where it is, or clear "
                "its caption"
            )
    if 0 in found:
        check_caption(background)
    if found == {0}:
        return background
    caption_of = dict(enumerate([" ".join(background.split()), *(written.get(name, "") for name in BRUSHES)]))
    distinct = list(dict.fromkeys(caption_of[number] for number in sorted(found)))
    table = np.zeros(len(caption_of), np.int64)
    for number in found:
        table[number] = distinct.index(caption_of[number])
    return Regions(tuple(distinct), table[numbers])


def _brush_numbers(layers: Sequence[Image.Image], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The number of the brush that painted each pixel, from 1 on in the order of the brushes; 0 for none."""
    height, width = size
    palette = np.array([[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in BRUSHES.values()])
    numbers = np.zeros(size, np.int64)
    for layer in layers:
        check_pixels(layer)
        pixels = np.asarray(layer.convert("RGBA").resize((width, height), Image.Resampling.NEAREST))
        colours = pixels[..., :3].astype(np.int32)
        distances = np.stack([np.square(colours - colour).sum(-1) for colour in palette])
        painted = pixels[..., 3] >= _COVERED
        numbers[painted] = distances.argmin(0)[painted] + 1
    return numbers
