"""Pieces of the page in HTML: a picture as it appears, what is going on, a grid with labels.

Pictures stand in the page itself, as data URIs, so that no step of sampling leaves a file behind.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from satcascade.web.jobs import Waiting
from satcascade.web.pictures import Making

# Pixels a side.
_MOST_SHOWN = 1024


def data_uri(image: Image.Image) -> str:
    """An image as a data URI: a JPEG, for the eye only, no larger than screens show it."""
    shown = image.convert("RGB")
    shown.thumbnail((_MOST_SHOWN, _MOST_SHOWN))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(image: Image.Image | None, alt: str) -> str:
    """The large picture of a tab, or its empty place.

    Args:
        image: the picture.
        alt: what it shows, for those who do not see it; shown in the empty place.
    """
    if image is None:
        return f'<div class="sc-stage sc-empty"><p>{escape(alt)}</p></div>'
    shape = f"--ratio: {image.width / image.height:.4f}"
    return f'<div class="sc-stage"><img src="{data_uri(image)}" alt="{escape(alt)}" style="{shape}"></div>'


def file_figure(path: Path, alt: str) -> str:
    """:func:`figure` of an image file."""
    with Image.open(path) as image:
        return figure(image, alt)


def status(text: str = "", share: float | None = None) -> str:
    """One line that says what is going on, read out as it changes.

    Args:
        text: the line.
        share: how much is done, 0 to 1; None shows no bar.
    """
    bar = "" if share is None else f'<progress max="1" value="{share:.3f}" aria-hidden="true"></progress>'
    return f'<div class="sc-status" role="status" aria-live="polite"><span>{escape(text)}</span>{bar}</div>'


def failure(text: str) -> str:
    """One line that says what went wrong and what to do."""
    return f'<div class="sc-status sc-failure" role="alert"><span>{escape(text)}</span></div>'


def waiting(news: Waiting) -> str:
    """The status of a job whose turn has not come."""
    jobs = "1 job is" if news.before == 1 else f"{news.before} jobs are"
    return status(f"Waiting: {jobs} before this one")


def making(news: Making) -> str:
    """The status of pictures in the making."""
    done, total = len(news.made), news.total
    progress = news.progress
    part = progress.step / progress.steps if progress is not None else 0.0
    which = f"picture {done + 1} of {total}, " if total > 1 else ""
    step = f"{progress.unit} {progress.step} of {progress.steps}" if progress is not None else "begun"
    text = f"Drawing: {which}{step}" if done < total else "Drawn"
    return status(text, min(1.0, (done + part) / total))


def grid(
    cells: Sequence[Sequence[Path | None]], columns: Sequence[str], rows: Sequence[str], caption: str
) -> str:
    """A table of pictures with labels.

    Args:
        cells: image files by row and column; None where there is none yet.
        columns: labels of the columns.
        rows: labels of the rows.
        caption: what all pictures show.
    """
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(
            _cell(path, f"{caption}, {column}, {label}") for column, path in zip(columns, line, strict=True)
        )
        + "</tr>"
        for label, line in zip(rows, cells, strict=True)
    )
    return (
        f'<div class="sc-grid" tabindex="0" role="region" aria-label="Grid of pictures"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(path: Path | None, alt: str) -> str:
    if path is None:
        return '<td><div class="sc-blank"></div></td>'
    with Image.open(path) as image:
        return f'<td><img src="{data_uri(image)}" alt="{escape(alt)}"></td>'
