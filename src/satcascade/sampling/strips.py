"""Canvases through a codec in overlapping windows, so that memory does not grow with their area."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from satcascade.models.codec import Codec
from satcascade.sampling.windows import Windows

# Positions of what a stage diffuses: a window, what neighbours share, and what of that is context alone.
_WINDOW = 96
_OVERLAP = 40
# As far as a decoder of four blocks sees, of three convolutions each, with one before and one behind.
_CONTEXT = 14


def decoded_strips(codec: Codec, canvas: Tensor, wrap: bool = False) -> Iterator[tuple[int, Tensor]]:
    """The picture of a canvas, from top to bottom.

    Args:
        codec: of the stage that made it, on its device.
        canvas: (C, H, W).
        wrap: whether left and right, top and bottom are neighbours.

    Returns:
        For each strip its first row and (3, rows, W * factor) float32 in [-1, 1] on the CPU; strips follow
        one another without gaps.
    """
    if not wrap:
        yield from _strips(codec.decode, canvas, 1, codec.factor)
        return
    # Enlarged by what is round the corner, which then is cut off: every edge is decoded as if within.
    height, width = (side * codec.factor for side in canvas.shape[1:])
    for axis in (1, 2):
        length = canvas.shape[axis]
        canvas = canvas.index_select(axis, _round(length, _OVERLAP).to(canvas.device))
    margin = _OVERLAP * codec.factor
    for start, strip in _strips(codec.decode, canvas, 1, codec.factor):
        top, bottom = max(start, margin), min(start + strip.shape[1], margin + height)
        if top < bottom:
            yield top - margin, strip[:, top - start : bottom - start, margin : margin + width]


def encoded(codec: Codec, picture: Tensor) -> Tensor:
    """The canvas (C, H / factor, W / factor) of a picture (3, H, W) in [-1, 1], on the CPU."""
    return torch.cat([strip for _, strip in _strips(codec.encode, picture, codec.factor, 1)], dim=1)


def picture_of(codec: Codec, canvas: Tensor, wrap: bool = False) -> Tensor:
    """The whole picture (3, H * factor, W * factor) of a canvas, see :func:`decoded_strips`."""
    return torch.cat([strip for _, strip in decoded_strips(codec, canvas, wrap)], dim=1)


def _round(length: int, margin: int) -> Tensor:
    return torch.arange(-margin, length + margin) % length


def _strips(
    code: Callable[[Tensor], Tensor], source: Tensor, cell: int, made_cell: int
) -> Iterator[tuple[int, Tensor]]:
    """Strips of what ``code`` makes of windows of ``source``, whose positions are cells of either side."""
    rows, columns = (
        Windows(length, min(_WINDOW, length), _OVERLAP if length > _WINDOW else 0, context=_CONTEXT)
        for length in (side // cell for side in source.shape[1:])
    )
    row_weights, column_weights = rows.weights(made_cell), columns.weights(made_cell)
    places = columns.positions(made_cell)
    done, waiting = 0, torch.zeros(0)
    for number, top in enumerate(rows.starts):
        band = source[:, top * cell : (top + rows.size) * cell]
        parts = [
            code(band[None, :, :, left * cell : (left + columns.size) * cell])[0].float().cpu()
            for left in columns.starts
        ]
        strip = torch.zeros(len(parts[0]), rows.size * made_cell, columns.length * made_cell)
        for part, weight, place in zip(parts, column_weights, places, strict=True):
            strip[:, :, place] += part * weight
        strip *= row_weights[number][:, None]
        if number:
            # What the window above has begun.
            strip[:, : waiting.shape[1]] += waiting
        following = rows.starts[number + 1] if number + 1 < len(rows.starts) else rows.length
        ready = following * made_cell - done
        yield done, strip[:, :ready]
        done, waiting = done + ready, strip[:, ready:]
