"""A grid of sampling settings and checkpoints, each cell generated and measured: what is best on validation.

::

    OUT/sweep.json       what all rows share (model, data, images, seed, measures); written first
    OUT/sweep.tsv        a row for each cell that is done; written whole each time
    OUT/sweep.png        each measure over what was swept
    OUT/CELL/            the images of a cell, a folder as ``satcascade sample`` writes it
    OUT/reports/CELL/    its evaluation, as ``satcascade evaluate`` writes it
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from satcascade.data.captions import Captions
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.comparison import RealSide
from satcascade.evaluation.measures.probe import class_names
from satcascade.evaluation.measures.registry import needing
from satcascade.evaluation.networks.features import INCEPTIONS
from satcascade.evaluation.report.data import Sweep
from satcascade.evaluation.report.figures import write_sweep_png
from satcascade.evaluation.run import evaluate
from satcascade.generation.run import GenerationRequest, generate
from satcascade.hardware.devices import pick_device
from satcascade.io.folders import DescribedFolder
from satcascade.io.locks import exclusive
from satcascade.sweep.grid import Cell, Grid
from satcascade.sweep.request import SWEPT, SweepRequest
from satcascade.sweep.table import FIGURE, KEY, TABLE, SweepReport, best_row, cell_text, read_table

DESCRIPTION = "sweep.json"
FORMAT = 1


def sweep(request: SweepRequest, progress: bool = True) -> SweepReport:
    """Generate and measure each cell of a grid that has no row yet.

    Everything that can be refused is, before the first image. A row is written when its cell is measured, so
    that a sweep that is killed is resumed where it was; images are resumed one by one. More rows may be added
    to a folder by another grid.

    Args:
        request: what to try.
        progress: show progress on the error stream.

    Raises:
        UsageError: the folder holds a sweep with other settings (the difference is named) or something else,
            the split has fewer rows than images are asked for, or there is no such model or checkpoint.
        SatcascadeError: a model or feature network cannot be had, another process works on the folder, or the
            disk is full.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SatcascadeError("a sweep needs matplotlib: pip install 'satcascade[eval]'")
    work = _Work(request, progress)
    cells = work.grid.cells()
    # A folder of other files is left as it was, without a lock in it.
    work.folder.check_new()
    with exclusive(work.out / ".sweep.lock", f"another process works on {work.out}: wait for it or end it"):
        work.open_folder()
        done = work.done()
        made = work.make([cell for cell in cells if cell.key not in done])
        table = work.table()
        figure = write_sweep_png(table, work.out / FIGURE)
    by = work.request.chosen_by()
    return SweepReport(work.out, table, best_row(table, by), by, made, len(cells) - made, figure)


class _Work:
    """A sweep as its request and its folder define it."""

    def __init__(self, request: SweepRequest, progress: bool):
        self.progress, self.out = progress, Path(request.out)
        self.folder = DescribedFolder(self.out, DESCRIPTION, "sweep")
        self.dataset = PreparedDataset.open(request.data)
        self.metrics = self._metrics(request.metrics)
        self.request = replace(request, metrics=self.metrics)
        rows = len(self.dataset.indices(request.split))
        if request.n > rows:
            raise UsageError(
                f"{request.n} images are more than the {rows} rows of split '{request.split}' of "
                f"{request.data}: ask for at most as many"
            )
        self.captions = Captions.from_data(request.data, request.split, draw=request.n)
        self.grid = Grid(self.request, self.dataset)

    def _metrics(self, metrics: tuple[str, ...] | None) -> tuple[str, ...]:
        """What is measured, which the set must have the classes and training images for."""
        labels = [record.label for record in self.dataset.records]
        if metrics is None:
            left_out = needing(SWEPT, "scene classes") if None in labels else []
            metrics = tuple(name for name in SWEPT if name not in left_out)
        if needing(metrics, "scene classes"):
            class_names(labels)
        if needing(metrics, "training images"):
            self.dataset.indices("train")
        return metrics

    def settings(self) -> dict[str, Any]:
        """What all rows share."""
        request = self.request
        model = None
        if request.checkpoints is None or any(source.run for source in self.grid.sources):
            model = f"{Path(request.model).name} ({self.grid.hashes[request.model]})"
        return {
            "model": model,
            "data": self.dataset.hash,
            "split": request.split,
            "n": request.n,
            "seed": request.seed,
            "precision": request.precision,
            "metrics": sorted(self.metrics),
            "features": list(request.features),
            "clip": request.clip if needing(self.metrics, "CLIP") else None,
        }

    def open_folder(self) -> None:
        """Describe the sweep in its folder, or check that the folder's description is the same."""
        settings = self.settings()
        weights = {source.label: self.grid.hashes[source.label] for source in self.grid.sources}
        description = self.folder.check(settings, lambda content: dict(content["settings"]))
        if description is not None:
            try:
                known = dict(description["weights"])
            except (KeyError, TypeError, ValueError) as error:
                raise self.folder.damaged(error) from error
            for label, value in weights.items():
                if known.get(label, value) != value:
                    raise UsageError(
                        f"{self.out} was made with other settings (other weights of {label}): use the same, "
                        "or another folder"
                    )
            weights = known | weights
        self.folder.write({"format": FORMAT, "settings": settings, "weights": weights})

    def table(self) -> Sweep:
        """All rows that are there.

        Raises:
            SatcascadeError: the table is missing, or is not one of a sweep.
        """
        return read_table(self.out, self.request.chosen_by())

    def done(self) -> set[tuple[str, ...]]:
        """The keys of all rows that are there."""
        if not (self.out / TABLE).exists():
            return set()
        return {tuple(row[column] for column in KEY) for row in self.table().rows}

    def make(self, cells: Sequence[Cell]) -> int:
        """Make the rows of cells; how many."""
        request = self.request
        device = pick_device(request.device)
        real = RealSide.load(self.dataset, request.features, request.inception_weights, device)
        notes: dict[str, type[Warning]] = {}
        for number, cell in enumerate(cells, 1):
            if self.progress:
                print(f"row {number} of {len(cells)}: {cell.folder}", file=sys.stderr, flush=True)
            with warnings.catch_warnings(record=True) as caught:
                row = self._row(cell, real)
            notes |= {str(warning.message): warning.category for warning in caught}
            rows = self.table().rows if (self.out / TABLE).exists() else ()
            Sweep(TABLE, tuple(row), (*rows, row)).write(self.out / TABLE)
        for note, category in notes.items():
            # Once, and not of every row.
            warnings.warn(note, category, stacklevel=3)
        return len(cells)

    def _row(self, cell: Cell, real: RealSide) -> dict[str, str]:
        request = self.request
        pipeline = self.grid.pipeline(cell.source)
        generated = generate(
            pipeline,
            GenerationRequest(
                self.captions,
                self.out / cell.folder,
                seed=request.seed,
                batch_size=request.batch_size,
                stages=cell.stages,
            ),
            progress=self.progress,
        )
        numbers = evaluate(request.evaluation(cell.folder), self.progress, real)
        inception = next((name for name in request.features if name in INCEPTIONS), None)
        fid = numbers.get(f"frechet_distance/{inception}")
        measures = {
            key: cell_text(value) for key, value in numbers.items() if key not in ("n_generated", "n_real")
        }
        # What was made before a kill took time that nobody has measured.
        seconds = generated.seconds / generated.made if generated.made else None
        return {
            **cell.columns,
            "n_real": str(numbers["n_real"]),
            "feature": "" if fid is None or inception is None else str(INCEPTIONS[inception]),
            "fid": "" if fid is None else cell_text(fid),
            **measures,
            "seconds_per_image": "" if seconds is None else cell_text(seconds),
        }
