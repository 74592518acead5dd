"""One self-contained HTML page of what ``satcascade evaluate`` and ``satcascade sweep`` measured."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.evaluation.report import tables
from satcascade.evaluation.report.data import GeneratedImage, Report, Sweep
from satcascade.evaluation.report.figures import (
    FigureSvg,
    comparison_figures,
    confusion_figure,
    sweep_figures,
)
from satcascade.formats.report import MEMORISATION
from satcascade.io.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_SAMPLES = 24
_EXTREMES = 6
# In bytes: with at most 48 thumbnails the page stays under 3 MB.
_LARGEST_THUMBNAIL = 20_000
_LARGEST_SHEET = 900_000


@dataclass(frozen=True)
class Picture:
    """A generated image on the page: its data URI, what it is, and its measures as text."""

    uri: str
    image: GeneratedImage
    facts: str


@dataclass(frozen=True)
class Extremes:
    """The images with the highest and the lowest of a score."""

    title: str
    best: tuple[Picture, ...]
    worst: tuple[Picture, ...]


def write_report(
    folders: Sequence[Path], out: Path, sweeps: Sequence[Path] = (), figures: Path | None = None
) -> Path:
    """Write the page; the same input gives the same bytes.

    Args:
        folders: written by ``satcascade evaluate``; each is a column of the headline table, and the first one
            is what the rest of the page is about.
        out: the HTML file.
        sweeps: TSV files of ``satcascade sweep``, drawn as curves.
        figures: a folder for the page's figures, an SVG file each, besides; light or dark as the reader's
            system is.

    Returns:
        ``out``.

    Raises:
        UsageError: no folder is given.
        SatcascadeError: Jinja2 or matplotlib is not installed, or one of the files is missing or damaged.
    """
    if not folders:
        raise UsageError("no report given: name at least one folder that 'satcascade evaluate' wrote")
    for module, package in (("jinja2", "Jinja2"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(module) is None:
            raise SatcascadeError(f"the report needs {package}: pip install 'satcascade[eval]'")
    reports = [Report.read(folder) for folder in folders]
    tables = [Sweep.read(path) for path in sweeps]
    drawn = _Drawn.of(reports, tables)
    page = _page(reports, drawn)
    if figures is not None:
        for figure in drawn.all:
            with atomic_write(Path(figures) / f"{figure.name}.svg") as aside:
                aside.write_text(figure.svg, encoding="utf-8")
    with atomic_write(Path(out)) as aside:
        aside.write_text(page, encoding="utf-8")
    return Path(out)


@dataclass(frozen=True)
class _Drawn:
    """The figures of a page."""

    comparisons: list[FigureSvg]
    sweeps: list[tuple[Sweep, list[FigureSvg]]]
    confusion: FigureSvg | None

    @classmethod
    def of(cls, reports: Sequence[Report], sweeps: Sequence[Sweep]) -> _Drawn:
        """Draw them."""
        details = reports[0].details
        return cls(
            comparison_figures(reports, _column_names(reports)) if len(reports) > 1 else [],
            [(sweep, sweep_figures(sweep, f"sweep-{i}")) for i, sweep in enumerate(sweeps)],
            confusion_figure(details.classes, details.confusion) if details.confusion else None,
        )

    @property
    def all(self) -> list[FigureSvg]:
        """Each of them, in the order of the page."""
        swept = [figure for _, figures in self.sweeps for figure in figures]
        return [*self.comparisons, *swept, *([self.confusion] if self.confusion else [])]


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(reports: Sequence[Report], drawn: _Drawn) -> str:
    main = reports[0]
    details = main.details
    names = _column_names(reports)
    images = [image for image in details.images if main.thumbnail(image.file).is_file()]
    notes = list(details.notes)
    if len(images) < len(details.images):
        notes.append(
            f"{len(details.images) - len(images)} of {len(details.images)} images have no thumbnail in the "
            "report's folder and are not shown."
        )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            main=main,
            details=details,
            names=names,
            notes=notes,
            other_notes=[
                (name, report.details.notes)
                for name, report in zip(names[1:], reports[1:], strict=True)
                if report.details.notes
            ],
            headline=tables.headline(reports),
            class_rows=tables.class_rows(details),
            usefulness=tables.usefulness_table(main.metrics),
            comparisons=drawn.comparisons,
            sweeps=drawn.sweeps,
            confusion=drawn.confusion,
            samples=[_picture(main, image) for image in _spread(images, _SAMPLES)],
            extremes=_extremes(main, images),
            sheet=_sheet(main.folder / MEMORISATION),
            nearest=_nearest(details.images),
            number=tables.number,
            svg_uri=_svg_uri,
            flat=tables.flat,
        )
    )


def _column_names(reports: Sequence[Report]) -> list[str]:
    """The reports' names; those that are not alone in theirs get their folder's."""
    names = [report.details.name for report in reports]
    return [
        f"{name} ({report.folder.resolve().name})" if names.count(name) > 1 else name
        for name, report in zip(names, reports, strict=True)
    ]


def _spread(images: Sequence[GeneratedImage], most: int) -> list[GeneratedImage]:
    """At most ``most`` images, spread evenly over the classes, chosen by their place alone, not by score."""
    groups: dict[str | None, list[GeneratedImage]] = {}
    for image in images:
        groups.setdefault(image.label, []).append(image)
    middles = [group[len(group) // 2] for group in groups.values()]
    pool = middles if len(middles) >= most else list(images)
    count = min(most, len(pool))
    return [pool[i * len(pool) // count] for i in range(count)]


def _extremes(report: Report, images: Sequence[GeneratedImage]) -> list[Extremes]:
    scores: dict[str, Callable[[GeneratedImage], float | None]] = {
        "CLIP-score": lambda image: image.clip_score,
        "the probe's probability of the class asked for": lambda image: image.confidence,
    }
    extremes = []
    for title, score in scores.items():
        scored = [(value, image) for image in images if (value := score(image)) is not None]
        ranked = [image for _, image in sorted(scored, key=lambda pair: (-pair[0], pair[1].file))]
        count = min(_EXTREMES, len(ranked) // 2)
        if count:
            best, worst = ranked[:count], ranked[: -count - 1 : -1]
            extremes.append(
                Extremes(
                    title,
                    tuple(_picture(report, image) for image in best),
                    tuple(_picture(report, image) for image in worst),
                )
            )
    return extremes


def _nearest(images: Sequence[GeneratedImage]) -> list[GeneratedImage]:
    """The images nearest to a training image by perceptual hash, then by similarity."""
    known = [image for image in images if image.nearest and image.nearest.hash_distance is not None]

    def closeness(image: GeneratedImage) -> tuple[float, float, str]:
        assert image.nearest is not None
        return (image.nearest.hash_distance or 0, -(image.nearest.similarity or 0.0), image.file)

    return sorted(known, key=closeness)[:10]


def _picture(report: Report, image: GeneratedImage) -> Picture:
    facts = []
    if image.label is not None and image.predicted is not None:
        right = image.predicted == image.label
        wrong = f"{image.label}, taken for {image.predicted}"
        facts.append(f"recognised as {image.label}" if right else wrong)
    elif image.label is not None:
        facts.append(image.label)
    if image.confidence is not None:
        facts.append(f"probability {tables.number(image.confidence, 2)}")
    if image.clip_score is not None:
        facts.append(f"CLIP {tables.number(image.clip_score)}")
    uri = _data_uri(report.thumbnail(image.file), side=128, most=_LARGEST_THUMBNAIL)
    return Picture(uri, image, "; ".join(facts))


def _sheet(path: Path) -> str | None:
    return _data_uri(path, side=1600, most=_LARGEST_SHEET) if path.is_file() else None


def _data_uri(path: Path, side: int, most: int) -> str:
    """An image file as data URI: its own bytes where they are few, else a JPEG of at most ``most`` bytes.

    Raises:
        SatcascadeError: it is no whole image.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as file:
            kind = str(file.format).lower()
            file.load()
            if kind in ("png", "jpeg") and len(content) <= most:
                return _uri(kind, content)
            image = file.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise SatcascadeError(
            f"{path} is broken ({one_line(error)}): run 'satcascade evaluate' again"
        ) from error
    while True:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=82)
        if packed.tell() <= most:
            return _uri("jpeg", packed.getvalue())
        side = side * 3 // 4


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _svg_uri(figure: FigureSvg) -> str:
    """A figure as data URI: a document of its own, whose identifiers are not the page's."""
    return _uri("svg+xml", figure.svg.encode())
