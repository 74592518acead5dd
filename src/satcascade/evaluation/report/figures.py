"""Figures of the report page, SVG in the page's own colours, light or dark; those of a sweep also as PNG.

An SVG is what matplotlib wrote, with a title and a style added: the style shows what was drawn in a
placeholder colour in one of the page's, which is another one where the reader's system is dark.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from satcascade.evaluation.measures.registry import COLUMNS, column_of
from satcascade.evaluation.report.data import Report, Sweep
from satcascade.evaluation.report.tables import network_title, networks
from satcascade.io.files import atomic_write

# Drawn in these placeholders, shown in the page's variables: no other colour is used in a figure.
_INK, _RULE = "#010203", "#010204"
_SERIES = ("#010205", "#010206", "#010207", "#010208", "#010209")
# The page's light colours, for a file of its own.
_LIGHT = ("#1f6f9f", "#b4541a", "#3c7d3f", "#7c4d9e", "#8a6d00")
_LIGHT_RULE = "#d5d9dd"
_VARIABLES = {_INK: "--ink", _RULE: "--rule"} | {x: f"--series-{i}" for i, x in enumerate(_SERIES, 1)}
_COLOURS = Path(__file__).parent / "templates" / "colours.css.j2"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "satcascade",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _RULE,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
}
_NOT_SWEPT = ("n", "n_gen", "n_generated", "n_real", "split", "seed", "size", "feature", "best")
_BOUNDS = ("_low", "_high", "_std")


@dataclass(frozen=True)
class FigureSvg:
    """A figure: its name, the SVG document, and what it shows in words."""

    name: str
    svg: str
    text: str


@dataclass(frozen=True)
class _Series:
    """One line: its points, and each one's reach below and above, 0 where unknown."""

    name: str
    x: list[float]
    y: list[float]
    below: list[float]
    above: list[float]


@dataclass(frozen=True)
class _Curves:
    """What is drawn over one axis: numbers, or where they have ``labels``, named places."""

    title: str
    xlabel: str
    series: list[_Series]
    labels: list[str] | None = None


P = ParamSpec("P")
R = TypeVar("R")


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function draw in this page's style, whatever the user's own matplotlib settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        # Any: the keys of matplotlib's settings are literals of its own.
        style: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE, "backend": mpl.rcParams["backend"]}
        with mpl.rc_context(style):
            return draw(*args, **kwargs)

    return drawn


@_styled
def confusion_figure(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> FigureSvg:
    """The confusion matrix, each row as shares of its sum: darker is more."""
    n = len(classes)
    figure, axes = _figure(1.6 + 0.19 * n, 1.3 + 0.19 * n)
    from matplotlib.patches import Rectangle

    for row, counts in enumerate(confusion):
        total = sum(counts) or 1
        for column, count in enumerate(counts):
            if count:
                share = 0.08 + 0.92 * count / total
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=_SERIES[0], alpha=share, linewidth=0))
    axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xlabel="recognised as", ylabel="asked for")
    ticks = [i + 0.5 for i in range(n)]
    axes.set_xticks(ticks, [_plain(name) for name in classes], rotation=90)
    axes.set_yticks(ticks, [_plain(name) for name in classes])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(True)
    text = f"Confusion matrix of {n} scene classes; the table above names the commonest confusion of each."
    return _svg(figure, text, "confusion")


def comparison_figures(reports: Sequence[Report], names: Sequence[str]) -> list[FigureSvg]:
    """A small figure for each measure that at least two reports have, in the order of the reports."""
    columns = [report.metrics for report in reports]
    keys = [
        (column.key, network)
        for measure, column in COLUMNS.values()
        if column.figure
        for network in (networks(columns, column.key) if measure.per_network else [""])
    ]
    figures: list[FigureSvg] = []
    for stem, network in keys:
        key = _key(stem, network)
        have = [i for i, metrics in enumerate(columns) if key in metrics]
        if len(have) < 2:
            continue
        bounds = [_bounds(columns[i], stem, network) for i in have]
        below, above = [low for low, _ in bounds], [high for _, high in bounds]
        series = _Series("", [float(i) for i in have], [columns[i][key] for i in have], below, above)
        curves = _Curves(_title(stem, network), "", [series], list(names))
        figures.append(_curves_svg(curves, f"compare-{len(figures)}"))
    return figures


def sweep_figures(sweep: Sweep, prefix: str) -> list[FigureSvg]:
    """A small figure for each measure of a sweep, over the setting with the most values.

    The other settings that vary make a line each. Settings that vary together count as one.

    Args:
        sweep: its table.
        prefix: of the figures' names, another one for each sweep of a page.
    """
    return [_curves_svg(curves, f"{prefix}-{i}") for i, curves in enumerate(_sweep_curves(sweep))]


@_styled
def write_sweep_png(sweep: Sweep, path: Path) -> bool:
    """Write the figures of :func:`sweep_figures` as one PNG, which appears whole.

    Returns:
        Whether there was anything to draw: no setting varies in a sweep of one row.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = _sweep_curves(sweep)
    if not drawn:
        return False
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    with mpl.rc_context({"grid.color": _LIGHT_RULE, "axes.edgecolor": _LIGHT_RULE}):
        figure = Figure(figsize=(3.5 * columns, 2.7 * rows), layout="constrained")
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for curves, axes in zip(drawn, places, strict=False):
            _draw(axes, curves, _LIGHT)
        for axes in places[len(drawn) :]:
            axes.set_visible(False)
        with atomic_write(path) as aside:
            figure.savefig(aside, format="png", dpi=130, facecolor="white")
    return True


def _sweep_curves(sweep: Sweep) -> list[_Curves]:
    settings = _settings(sweep)
    if not settings:
        return []

    def worth(column: str) -> tuple[int, bool]:
        """How good an axis a setting is: by its values, and among equals by whether they are numbers."""
        return len({row[column] for row in sweep.rows}), _is_number(sweep, column)

    along = max(settings, key=worth)
    xlabel = settings[along]
    others = [column for column in settings if column != along]
    values = list(dict.fromkeys(row[along] for row in sweep.rows))
    labels = None if _is_number(sweep, along) else values
    measures: list[_Curves] = []
    for column in _measures(sweep):
        lines: dict[str, list[tuple[float, float, float, float]]] = {}
        stem, _, network = column.partition("/")
        for row in sweep.rows:
            y, x = _float(row[column]), _float(row[along])
            x = float(values.index(row[along])) if labels else x
            if x is None or y is None:
                continue
            numbers = {key: value for key, text in row.items() if (value := _float(text)) is not None}
            name = ", ".join(f"{other} {row[other]}" for other in others)
            lines.setdefault(name, []).append((x, y, *_bounds(numbers, stem, network)))
        series = []
        for name, points in lines.items():
            xs, ys, below, above = (list(part) for part in zip(*sorted(points), strict=True))
            series.append(_Series(name, xs, ys, below, above))
        if series:
            measures.append(_Curves(_title(stem, network), xlabel, series, labels))
    return measures


def _elsewhere() -> dict[str, str]:
    """Our name of a column by that which RSDiff's tables have for it."""
    return {column.elsewhere: column.key for _, column in COLUMNS.values() if column.elsewhere}


def _is_measure(column: str) -> bool:
    stem = _stem(column)
    return stem in COLUMNS or stem in _elsewhere() or stem in ("seconds", "seconds_per_image")


def _measures(sweep: Sweep) -> list[str]:
    """The columns that are drawn; a name of RSDiff's only where ours is not there."""
    columns = [column for column in sweep.columns if _is_measure(column)]
    ours = {_stem(column) for column in columns}
    return [column for column in columns if _elsewhere().get(column) not in ours]


def _settings(sweep: Sweep) -> dict[str, str]:
    """The settings that vary, each with what to call it; of those that vary together the first, or a number.

    They stand before the first measure.
    """
    kept: dict[tuple[int, ...], list[str]] = {}
    for column in itertools.takewhile(lambda column: not _is_measure(column), sweep.columns):
        texts = [row[column] for row in sweep.rows]
        if column not in _NOT_SWEPT and len(set(texts)) > 1:
            kept.setdefault(tuple(texts.index(text) for text in texts), []).append(column)
    named = {}
    for columns in kept.values():
        chosen = next((column for column in columns if _is_number(sweep, column)), columns[0])
        together = ", ".join(column for column in columns if column != chosen)
        named[chosen] = f"{chosen} (with {together})" if together else chosen
    return named


def _is_number(sweep: Sweep, column: str) -> bool:
    return all(_float(row[column]) is not None for row in sweep.rows)


@_styled
def _curves_svg(curves: _Curves, prefix: str) -> FigureSvg:
    labels = curves.labels
    figure, axes = _figure(3.5, 2.6 if labels is None else 2.9)
    _draw(axes, curves, _SERIES)
    points = "; ".join(
        f"{line.name + ': ' if line.name else ''}"
        + ", ".join(
            f"{labels[int(x)] if labels else f'{x:g}'} {y:.4g}" for x, y in zip(line.x, line.y, strict=True)
        )
        for line in curves.series
    )
    by = f" by {curves.xlabel}" if curves.xlabel else ""
    return _svg(figure, f"{curves.title}{by}. {points}.", prefix)


def _draw(axes: Any, curves: _Curves, colours: Sequence[str]) -> None:
    labels = curves.labels
    for number, line in enumerate(curves.series):
        axes.errorbar(
            line.x,
            line.y,
            yerr=[line.below, line.above] if any(line.below + line.above) else None,
            # Beyond the colours there are, the marker tells lines apart.
            color=colours[number % len(colours)],
            marker="os^Dv"[number // len(colours) % 5],
            # Places on a named axis are in no order that a line could follow.
            linestyle="-" if labels is None else "none",
            capsize=2,
            elinewidth=1,
            label=_plain(line.name),
        )
    axes.set_title(_plain(curves.title))
    axes.set_xlabel(_plain(curves.xlabel))
    axes.grid(axis="y", linewidth=0.6)
    axes.tick_params(length=0)
    if labels is not None:
        short = [_plain(label if len(label) <= 16 else f"{label[:15]}…") for label in labels]
        axes.set_xticks(range(len(labels)), short, rotation=30, ha="right")
        axes.margins(x=0.15)
    if len(curves.series) > 1:
        axes.legend()


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any, text: str, name: str) -> FigureSvg:
    file = io.StringIO()
    # Without these, matplotlib writes no metadata: the same figure gives the same bytes on any day.
    figure.savefig(
        file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    document, end = file.getvalue().rsplit("</svg>", 1)
    return FigureSvg(name, f"{document}<title>{escape(text)}</title>{_style_element()}</svg>{end}", text)


@functools.cache
def _style_element() -> str:
    """The page's colours, and which of them stands for which placeholder."""
    rules = [
        f'[style*="{what}: {colour}"] {{ {what}: var({variable}) !important; }}'
        for colour, variable in _VARIABLES.items()
        for what in ("fill", "stroke")
    ]
    background = "svg { background: var(--paper); } text { font-family: sans-serif !important; }"
    return "\n".join(
        ["<style>", _COLOURS.read_text(encoding="utf-8").strip(), background, *rules, "</style>"]
    )


def _bounds(values: dict[str, float], stem: str, network: str) -> tuple[float, float]:
    """How far a value reaches below and above, by its interval or its standard deviation.

    That of a CLIP-score is of single images, not of the mean, and is not drawn.
    """
    y = values[_key(stem, network)]
    low, high, std = (values.get(_key(stem + end, network)) for end in _BOUNDS)
    if low is not None and high is not None:
        return max(y - low, 0.0), max(high - y, 0.0)
    return (std, std) if std is not None and stem in COLUMNS and COLUMNS[stem][0].per_network else (0.0, 0.0)


def _key(stem: str, network: str) -> str:
    return f"{stem}/{network}" if network else stem


def _stem(column: str) -> str:
    return column.partition("/")[0]


def _title(stem: str, network: str) -> str:
    column = column_of(stem)
    title = column.title if column else stem.replace("_", " ")
    return f"{title}, {network_title(network).partition(',')[0]}" if network else title


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
