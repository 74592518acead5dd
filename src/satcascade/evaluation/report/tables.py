"""What the tables of the report page say: rows of plain texts, made of the numbers of the reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from satcascade.evaluation.measures.registry import COLUMNS, Column
from satcascade.evaluation.report.data import Details, Report

# RSDiff's published headline (Sebaq and ElHelw 2024, doi 10.1007/s00521-024-10363-3) on the RSICD test split.
RSDIFF_N = 1093
RSDIFF: dict[str, float] = {
    "frechet_distance/inception-2048": 65.70,
    "frechet_distance/inception-768": 0.275,
    "clip_score": 0.278,
    "clip_score_std": 0.030,
    "clip_score_shuffled": 0.232,
    "clip_lift": 0.046,
    "n_generated": RSDIFF_N,
    "n_real": RSDIFF_N,
}
RSDIFF_SECONDS = 230.0

NETWORKS = {
    "inception-2048": "Inception, 2048 features",
    "inception-768": "Inception, 768 features",
    "efficientnet-lite0": "EfficientNet-Lite0, 1,280 features",
}
USEFULNESS = {"real": "Real", "real+synthetic": "Real and generated", "synthetic": "Generated"}


@dataclass(frozen=True)
class Cell:
    """A value as text, empty where there is none, and small lines below it: interval, counts, references."""

    value: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the headline table: title, what it is, which way is better, a cell for each column."""

    title: str
    hint: str
    better: str
    cells: tuple[Cell, ...]


def number(value: float, decimals: int = 3) -> str:
    """A number as text, with thousands set apart and a true minus sign."""
    text = f"{value:,.{decimals}f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]
    return text.replace("-", "\N{MINUS SIGN}")


def headline(reports: Sequence[Report]) -> list[Row]:
    """The rows for which a report or RSDiff's publication has a value; RSDiff's is the last cell of each."""
    metrics = [report.metrics for report in reports] + [RSDIFF]
    rows = []
    for measure, column in COLUMNS.values():
        if measure.per_network:
            for network in networks(metrics, column.key):
                cells = tuple(_network_cell(each, column, network) for each in metrics)
                rows.append(Row(column.title, network_title(network), column.better, cells))
        elif any(column.key in each for each in metrics):
            cells = tuple(_single_cell(each, column) for each in metrics)
            rows.append(Row(column.title, column.hint, column.better, cells))
    seconds = [_seconds_cell(report.details.timings) for report in reports]
    rows.append(
        Row(
            "Seconds an image",
            "of sampling; it depends on the machine",
            "lower",
            (*seconds, Cell(f"about {number(RSDIFF_SECONDS, 0)}", ("one RTX 4090",))),
        )
    )
    return rows


def networks(metrics: Sequence[dict[str, float]], stem: str) -> list[str]:
    """The feature networks that a measure has values of, the well-known ones first."""
    prefix = f"{stem}/"
    names = {key[len(prefix) :] for each in metrics for key in each if key.startswith(prefix)}
    return [name for name in NETWORKS if name in names] + sorted(names - NETWORKS.keys())


def network_title(network: str) -> str:
    """How the page calls a feature network."""
    return NETWORKS.get(network, network)


def _network_cell(metrics: dict[str, float], column: Column, network: str) -> Cell:
    stem, decimals = column.key, column.decimals
    value = metrics.get(f"{stem}/{network}")
    if value is None:
        return Cell()
    # Distances on some networks are small.
    if abs(value) < 10:
        decimals = max(decimals, 3)
    lines = []
    low, high = (metrics.get(f"{stem}_{end}/{network}") for end in ("low", "high"))
    if low is not None and high is not None:
        lines.append(f"95\N{NO-BREAK SPACE}%: {number(low, decimals)} to {number(high, decimals)}")
    elif (std := metrics.get(f"{stem}_std/{network}")) is not None:
        lines.append(f"\N{PLUS-MINUS SIGN} {number(std, decimals)}")
    counts = [number(metrics[key], 0) for key in ("n_generated", "n_real") if key in metrics]
    if counts:
        lines.append("N " + " against ".join(counts))
    return Cell(number(value, decimals), tuple(lines))


def _single_cell(metrics: dict[str, float], column: Column) -> Cell:
    key, decimals = column.key, column.decimals
    if key not in metrics:
        return Cell()
    lines = []
    if (std := metrics.get(f"{key}_std")) is not None:
        lines.append(f"\N{PLUS-MINUS SIGN} {number(std, decimals)} over images")
    if (real := metrics.get(f"{key}_real")) is not None:
        lines.append(f"real images {number(real, decimals)}")
    if "n_generated" in metrics:
        lines.append(f"N {number(metrics['n_generated'], 0)}")
    return Cell(number(metrics[key], decimals), tuple(lines))


def _seconds_cell(timings: dict[str, float]) -> Cell:
    value = timings.get("sampling_seconds_per_image")
    return Cell() if value is None else Cell(number(value, 2 if value < 10 else 1))


@dataclass(frozen=True)
class ClassRow:
    """A scene class: images, share recognised (0..1), also as text, CLIP-score, commonest mistake."""

    name: str
    n: int
    share: float
    accuracy: str
    clip_score: str
    taken_for: str


def class_rows(details: Details) -> list[ClassRow]:
    """The scene classes, those recognised best first."""
    rows = []
    for name, result in details.per_class.items():
        share = result.accuracy if result.accuracy is not None else math.nan
        rows.append(
            ClassRow(
                name,
                result.n,
                min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0,
                number(share) if math.isfinite(share) else "",
                "" if result.clip_score is None else number(result.clip_score),
                _taken_for(details, name),
            )
        )
    return sorted(rows, key=lambda row: (-row.share, row.name))


def _taken_for(details: Details, name: str) -> str:
    """The commonest wrong answer for a class, with its count."""
    if name not in details.classes or not details.confusion:
        return ""
    own = details.classes.index(name)
    counts = [0 if other == own else count for other, count in enumerate(details.confusion[own])]
    most = max(counts, default=0)
    return f"{details.classes[counts.index(most)]} ({most})" if most else ""


@dataclass(frozen=True)
class UsefulnessTable:
    """Accuracy on real images by what a classifier was trained on: sizes; title and cells of each row."""

    sizes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def usefulness_table(metrics: dict[str, float]) -> UsefulnessTable | None:
    """The keys ``usefulness/TRAINED_ON/SIZE`` as a table; None where there are none.

    ``usefulness/TRAINED_ON`` alone, where no real image was learnt from, is the same at every size.
    """
    keys = [key.split("/") for key in metrics if key.startswith("usefulness/")]
    sized = {(parts[1], parts[2]) for parts in keys if len(parts) == 3}
    alone = {parts[1] for parts in keys if len(parts) == 2}
    measured = sized | {(name, size) for name in alone for _, size in sized}
    if not measured:
        return None
    sizes = sorted({size for _, size in measured}, key=lambda size: (not size.isdecimal(), len(size), size))
    names = {name: title for name, title in USEFULNESS.items() if any(name == row for row, _ in measured)}
    names |= {name: name for name in sorted({row for row, _ in measured}) if name not in names}
    rows = []
    for name, title in names.items():
        cells = []
        for size in sizes:
            value, std = (
                metrics.get(f"{stem}/{name}/{size}", metrics.get(f"{stem}/{name}"))
                for stem in ("usefulness", "usefulness_std")
            )
            lines = () if std is None else (f"\N{PLUS-MINUS SIGN} {number(std)}",)
            cells.append(Cell() if value is None else Cell(number(value), lines))
        rows.append((title, tuple(cells)))
    return UsefulnessTable(tuple(sizes), tuple(rows))


def flat(nested: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of dotted name and text."""
    pairs = []
    for key, value in nested.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return pairs
