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
import itertools
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from satcascade.data.captions import Captions
from satcascade.data.prepared import PreparedDataset
from satcascade.diffusion.schedulers import solver_name, swap_scheduler
from satcascade.diffusion.solvers import check_solver
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.evaluation.measures.distances import FRECHET_IMAGES, KERNEL_IMAGES
from satcascade.evaluation.measures.manifold import NEIGHBOURS
from satcascade.evaluation.measures.probe import class_names
from satcascade.evaluation.networks.clip import DEFAULT_CLIP
from satcascade.evaluation.networks.features import EFFICIENTNET, INCEPTIONS
from satcascade.evaluation.report.data import Sweep
from satcascade.evaluation.report.figures import write_sweep_png
from satcascade.evaluation.report.tables import SET_MEASURES, SINGLE_MEASURES
from satcascade.evaluation.run import EvaluationRequest, RealSide, evaluate
from satcascade.generation.run import GenerationRequest, generate
from satcascade.io.files import written_whole
from satcascade.io.folders import DescribedFolder
from satcascade.io.locks import exclusive
from satcascade.pipelines.cascade import CascadePipeline, load_pipeline
from satcascade.training.assemble import with_trained_stage
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.run_folder import named_checkpoint, read_description, trained_stage
from satcascade.zoo import check_model_name

DESCRIPTION = "sweep.json"
TABLE = "sweep.tsv"
FIGURE = "sweep.png"
REPORTS = "reports"
FORMAT = 1
USUAL = ("frechet", "kernel", "manifold", "scene")
# Those that tell cells apart; a row is named by them.
_KEY = ("checkpoint", "scheduler", "sr_scheduler", "cond_scale", "sr_cond_scale", "base_steps", "sr_steps")
_FEWEST = {"frechet": FRECHET_IMAGES, "kernel": KERNEL_IMAGES, "manifold": NEIGHBOURS + 1}
_ON_TRAINING_IMAGES = ("scene", "usefulness", "memorisation")
_WITH_CLASSES = ("scene", "usefulness")
# What the best row may be chosen by, for each metric; the first one that is measured is the default.
_CHOICES = {
    "frechet": ("frechet_distance",),
    "kernel": ("kernel_distance",),
    "manifold": ("precision", "recall", "density", "coverage"),
    "scene": ("scene_accuracy", "zero_shot_accuracy"),
    "clip": ("clip_score", "clip_lift"),
    "memorisation": ("near_copy_rate",),
}


@dataclass(frozen=True)
class SweepRequest:
    """What to try, and how each cell of the grid is measured; an axis that is None is the model's default.

    Attributes:
        data: a prepared set.
        out: the folder; missing, empty, or an earlier sweep with the same settings, to which rows are added.
        model: the model, by name or folder.
        checkpoints: what to sample with instead: models, by name or folder; checkpoints of training runs, as
            ``RUN@STEP`` or ``RUN@best``, put in the place of that stage in ``model``; or ``RUN``, for all of
            them.
        scheduler: samplers of both stages.
        guidance, sr_guidance: guidance scales of a stage.
        steps: sampling steps of both stages alike, or
        base_steps, sr_steps: those of one stage.
        n: images of each cell, of as many captions of the split: first captions of rows drawn as for RSDiff's
            published evaluation (seed 17), so that more images begin with those of fewer.
        split: of the captions and of the real images; never ``test``.
        seed: of the images, the same in every cell.
        metrics: as of :class:`satcascade.evaluation.run.EvaluationRequest`; None is ``USUAL``, without
            ``scene`` where there are no scene classes.
        features, clip, inception_weights: likewise.
        by: the measure that the best row is chosen by, such as ``recall`` or ``recall/NETWORK``; None is the
            Frechet distance on the first feature network, or what is measured.
        batch_size: images at once.
        device, precision: as of :func:`satcascade.pipelines.cascade.load_pipeline`.

    Raises:
        UsageError: an axis without values, a value out of range, an unknown scheduler, metric or measure, the
            test split, or too few images.
    """

    data: Path
    out: Path
    model: str = "builtin"
    checkpoints: tuple[str, ...] | None = None
    scheduler: tuple[str, ...] | None = None
    guidance: tuple[float, ...] | None = None
    sr_guidance: tuple[float, ...] | None = None
    steps: tuple[int, ...] | None = None
    base_steps: tuple[int, ...] | None = None
    sr_steps: tuple[int, ...] | None = None
    n: int = 256
    split: str = "val"
    seed: int = 0
    metrics: tuple[str, ...] | None = None
    features: tuple[str, ...] = (EFFICIENTNET,)
    clip: str = DEFAULT_CLIP
    inception_weights: Path | None = None
    by: str | None = None
    batch_size: int = 8
    device: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.split == "test":
            raise UsageError("settings are chosen on validation: the test split is for the final table")
        axes = {
            "checkpoint": self.checkpoints,
            "scheduler": self.scheduler,
            "guidance": self.guidance,
            "sr guidance": self.sr_guidance,
            "steps": self.steps,
            "base steps": self.base_steps,
            "sr steps": self.sr_steps,
        }
        for name, values in axes.items():
            if values is not None and not values:
                raise UsageError(f"no value for {name}: give one or more, or leave it out")
        if self.steps and (self.base_steps or self.sr_steps):
            raise UsageError("steps of both stages, and of one: give either, not both")
        for scheduler in self.scheduler or ():
            check_solver(scheduler)
        for scale in (*(self.guidance or ()), *(self.sr_guidance or ())):
            if not 0 <= scale < math.inf:
                raise UsageError(f"guidance: {scale} is not possible, give 0 or more (1 is none)")
        for count in (*(self.steps or ()), *(self.base_steps or ()), *(self.sr_steps or ()), self.batch_size):
            if count < 1:
                raise UsageError(f"{count} steps or images at once are not possible, give 1 or more")
        self.evaluation("")
        for metric in self.metrics or USUAL:
            if self.n < _FEWEST.get(metric, 1):
                raise UsageError(f"{self.n} images are too few for {metric}: give {_FEWEST[metric]} or more")
        self.chosen_by()

    def evaluation(self, cell: str) -> EvaluationRequest:
        """How a cell is measured."""
        return EvaluationRequest(
            bundle=self.out / cell,
            data=self.data,
            out=self.out / REPORTS / cell,
            split=self.split,
            metrics=USUAL if self.metrics is None else self.metrics,
            features=self.features,
            clip=self.clip,
            inception_weights=self.inception_weights,
        )

    def chosen_by(self) -> str:
        """The column that the best row is chosen by.

        Raises:
            UsageError: it is not measured, or nothing that could be.
        """
        measured = self.metrics or USUAL
        stems = [stem for metric, found in _CHOICES.items() if metric in measured for stem in found]
        keys = [
            f"{stem}/{network}" if network else stem
            for stem in stems
            for network in (self.features if stem in SET_MEASURES else ("",))
        ]
        if not keys:
            raise UsageError(f"nothing to choose by: measure one of {', '.join(_CHOICES)} too")
        found = [key for key in keys if self.by in (None, key, key.partition("/")[0])]
        if not found:
            raise UsageError(f"cannot choose by '{self.by}': what is measured is {', '.join(keys)}")
        return found[0]


@dataclass(frozen=True)
class SweepReport:
    """What a call of :func:`sweep` did.

    Attributes:
        out: the folder.
        table: all its rows.
        best: the row that is best by
        by: this column, among those of all its rows.
        made, kept: rows of the grid made now, and there already.
        figure: whether there is one: not of a single row.
    """

    out: Path
    table: Sweep
    best: dict[str, str]
    by: str
    made: int
    kept: int
    figure: bool

    def summary(self) -> str:
        """The table without what is the same in all rows, and the best row."""
        rows = self.table.rows
        settings = [c for c in _KEY if len({row[c] for row in rows}) > 1] or ["checkpoint"]
        measures = [
            column
            for column in self.table.columns
            if (column.partition("/")[0] in SET_MEASURES or column in (*SINGLE_MEASURES, "seconds_per_image"))
        ]
        names = {column: column.partition("/")[0] for column in measures}
        if len(set(names.values())) < len(names):
            names = {column: column for column in measures}
        header = [*settings, *names.values()]
        lines = [header]
        for row in rows:
            found = [f"{float(row[column]):.4g}" if row[column] else "" for column in measures]
            lines.append([*(row[column] for column in settings), *found])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        ]
        chosen = ", ".join(f"{column} {self.best[column]}" for column in settings)
        text.append(f"best by {self.by}, {float(self.best[self.by]):.4g}: {chosen}")
        if close := self._as_good():
            text.append(f"not told apart from it: {close} of the other rows, inside its 95 % interval")
        text.append(
            f"table in {self.out / TABLE}" + (f", figure in {self.out / FIGURE}" if self.figure else "")
        )
        return "\n".join(text)

    def _as_good(self) -> int:
        """How many other rows have a value inside the best one's interval."""
        stem, _, network = self.by.partition("/")
        low, high = (self.best.get(f"{stem}_{end}/{network}") for end in ("low", "high"))
        if low is None or high is None:
            return 0
        values = [float(row[self.by]) for row in self.table.rows if row is not self.best]
        return sum(float(low) <= value <= float(high) for value in values)


def sweep(request: SweepRequest, progress: bool = True) -> SweepReport:
    """Generate and measure each cell of a grid that has no row yet.

    Everything that can be refused is, before the first image. A row is written when its cell is measured, so
    that a sweep that is killed goes on where it was; images are resumed one by one. More rows may be added
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
    cells = work.cells()
    # A folder of other files is left as it was, without a lock in it.
    DescribedFolder(work.out, DESCRIPTION, "sweep").check_new()
    with exclusive(work.out / ".sweep.lock", f"another process works on {work.out}: wait for it or end it"):
        work.open_folder()
        done = work.done()
        made = work.make([cell for cell in cells if cell.key not in done])
        figure = write_sweep_png(work.table(), work.out / FIGURE)
    table, by = work.table(), work.request.chosen_by()
    return SweepReport(work.out, table, _best(table, by), by, made, len(cells) - made, figure)


@dataclass(frozen=True)
class _Source:
    """What a cell samples with: a model, or a step of a training run inside one."""

    label: str
    model: str
    run: Path | None = None
    step: int | None = None
    length: float | None = None


@dataclass(frozen=True)
class _Cell:
    """One cell: what to sample with and how, the texts of its columns, and its folder's name."""

    source: _Source
    scheduler: str | None
    sampling: dict[str, Any]
    columns: dict[str, str]
    folder: str

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(self.columns[column] for column in _KEY)


class _Work:
    """A sweep as its request and its folder define it."""

    def __init__(self, request: SweepRequest, progress: bool):
        self.progress, self.out = progress, Path(request.out)
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
        self.sources = [
            source for text in request.checkpoints or (request.model,) for source in self._sources(text)
        ]
        self.hashes: dict[str, str] = {}
        self._loaded: dict[str, CascadePipeline] = {}

    def _metrics(self, metrics: tuple[str, ...] | None) -> tuple[str, ...]:
        """What is measured, which the set must have the classes and training images for."""
        labels = [record.label for record in self.dataset.records]
        if metrics is None:
            metrics = tuple(name for name in USUAL if None not in labels or name not in _WITH_CLASSES)
        if set(metrics) & set(_WITH_CLASSES):
            class_names(labels)
        if set(metrics) & set(_ON_TRAINING_IMAGES):
            self.dataset.indices("train")
        return metrics

    def _sources(self, text: str) -> list[_Source]:
        """The checkpoints that a name stands for."""
        model = self.request.model
        if "@" not in text and not (Path(text) / "checkpoints").is_dir():
            return [_Source(text, check_model_name(text))]
        named = named_checkpoint(text)
        path, length = named.run, named.length
        chosen = list(CheckpointFolder(path).averages()) if named.step is None else [named.step]
        if not chosen:
            raise UsageError(f"{path} has no checkpoint yet")
        suffix = "" if length is None else f":{length:g}"
        return [
            _Source(f"{path}@{number}{suffix}", check_model_name(model), path, number, length)
            for number in chosen
        ]

    def cells(self) -> list[_Cell]:
        """The grid, without repeats; loads every checkpoint once."""
        request = self.request
        if request.steps:
            pairs: list[tuple[int | None, int | None]] = [(steps, steps) for steps in request.steps]
        else:
            pairs = list(itertools.product(request.base_steps or (None,), request.sr_steps or (None,)))
        cells: dict[tuple[str, ...], _Cell] = {}
        for source in self.sources:
            pipeline = self.pipeline(source)
            if pipeline.sr_unet is None and (request.sr_steps or request.sr_guidance):
                raise UsageError(f"{source.label} has no super-resolution to vary: leave its settings out")
            for scheduler, guidance, sr_guidance, (base_steps, sr_steps) in itertools.product(
                request.scheduler or (None,),
                request.guidance or (None,),
                request.sr_guidance or (None,),
                pairs,
            ):
                sampling = {
                    "base_guidance": guidance,
                    "sr_guidance": sr_guidance,
                    "base_steps": base_steps,
                    "sr_steps": sr_steps,
                }
                with _sampled_by(pipeline, scheduler):
                    cell = self._cell(source, pipeline, scheduler, sampling)
                cells.setdefault(cell.key, cell)
        return list(cells.values())

    def _cell(
        self, source: _Source, pipeline: CascadePipeline, scheduler: str | None, sampling: dict[str, Any]
    ) -> _Cell:
        pipeline.check_settings(
            num_inference_steps=sampling["base_steps"], sr_num_inference_steps=sampling["sr_steps"]
        )
        used = {key: pipeline.config[key] if value is None else value for key, value in sampling.items()}
        whole = pipeline.sr_unet is not None
        columns = {
            "checkpoint": source.label,
            "step": "" if source.step is None else str(source.step),
            "epoch": self._epoch(source),
            "scheduler": solver_name(pipeline.scheduler),
            "sr_scheduler": solver_name(pipeline.sr_scheduler) if whole else "",
            "cond_scale": _text(used["base_guidance"]),
            "sr_cond_scale": _text(used["sr_guidance"]) if whole else "",
            "base_steps": str(used["base_steps"]),
            "sr_steps": str(used["sr_steps"]) if whole else "",
            "size": str((pipeline.sr_unet if whole else pipeline.unet).config.sample_size),
            "n_gen": str(self.request.n),
        }

        def both(one: str, other: str) -> str:
            return "-".join(dict.fromkeys(filter(None, (columns[one], columns[other]))))

        folder = "_".join(
            [
                f"{Path(source.label).name}-{self.hashes[source.label][:6]}",
                both("scheduler", "sr_scheduler"),
                f"guidance-{both('cond_scale', 'sr_cond_scale')}",
                f"steps-{both('base_steps', 'sr_steps')}",
            ]
        )
        return _Cell(source, scheduler, sampling, columns, folder)

    def _epoch(self, source: _Source) -> str:
        """How often the run had seen its images, where it was trained on those of this set."""
        if source.run is None or source.step is None:
            return ""
        run = read_description(source.run)["identity"]
        if run["data"] != self.dataset.hash:
            return ""
        images = len(self.dataset.indices(run["split"]))
        return _text(round(source.step * run["training"]["batch_size"] / images, 2))

    def pipeline(self, source: _Source) -> CascadePipeline:
        """The pipeline of a source; the last one is kept, and the model that runs are put into."""
        if source.label not in self._loaded:
            if source.run is None:
                self._loaded = {source.label: self._load(source.model)}
            else:
                model = self._loaded.get(source.model) or self._load(source.model)
                stage = read_description(source.run)["identity"]["stage"]
                trained = trained_stage(source.run, stage, source.step, source.length)
                made = with_trained_stage(model, stage, trained)
                self._loaded = {source.model: model, source.label: made}
                self.hashes[source.model] = model.weights_hash[:12]
            self.hashes[source.label] = self._loaded[source.label].weights_hash[:12]
        return self._loaded[source.label]

    def _load(self, model: str) -> CascadePipeline:
        return load_pipeline(model, device=self.request.device, precision=self.request.precision)

    def settings(self) -> dict[str, Any]:
        """What all rows share."""
        request = self.request
        model = None
        if request.checkpoints is None or any(source.run for source in self.sources):
            model = f"{Path(request.model).name} ({self.hashes[request.model]})"
        return {
            "model": model,
            "data": self.dataset.hash,
            "split": request.split,
            "n": request.n,
            "seed": request.seed,
            "precision": request.precision,
            "metrics": sorted(self.metrics),
            "features": list(request.features),
            "clip": request.clip if "clip" in self.metrics else None,
        }

    def open_folder(self) -> None:
        """Describe the sweep in its folder, or check that the folder's description is the same."""
        path = self.out / DESCRIPTION
        settings = self.settings()
        weights = {source.label: self.hashes[source.label] for source in self.sources}
        if path.exists():
            before, known = _description(path)
            changed = [
                f"{name} was {before.get(name)}, now {value}"
                for name, value in settings.items()
                if before.get(name) != value
            ]
            changed += [
                f"other weights of {label}"
                for label in weights
                if known.get(label, weights[label]) != weights[label]
            ]
            if changed:
                raise UsageError(
                    f"{self.out} was made with other settings ({changed[0]}): use the same, or another folder"
                )
            weights = known | weights
        with written_whole(path) as aside:
            content = {"format": FORMAT, "settings": settings, "weights": weights}
            aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def table(self) -> Sweep:
        """All rows that are there.

        Raises:
            SatcascadeError: the table is missing, or is not one of a sweep.
        """
        path = self.out / TABLE
        found = Sweep.read(path)
        if lacking := [column for column in (*_KEY, self.request.chosen_by()) if column not in found.columns]:
            raise SatcascadeError(
                f"{path} is damaged (no column {lacking[0]}): delete it, and the same command measures the "
                "images again"
            )
        return found

    def done(self) -> set[tuple[str, ...]]:
        """The keys of all rows that are there."""
        if not (self.out / TABLE).exists():
            return set()
        return {tuple(row[column] for column in _KEY) for row in self.table().rows}

    def make(self, cells: Sequence[_Cell]) -> int:
        """Make the rows of cells; how many."""
        real = RealSide.of(self.dataset, self.request.evaluation(""))
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

    def _row(self, cell: _Cell, real: RealSide) -> dict[str, str]:
        request = self.request
        pipeline = self.pipeline(cell.source)
        with _sampled_by(pipeline, cell.scheduler):
            generated = generate(
                pipeline,
                GenerationRequest(
                    self.captions,
                    self.out / cell.folder,
                    seed=request.seed,
                    batch_size=request.batch_size,
                    **cell.sampling,
                ),
                progress=self.progress,
            )
        found = evaluate(request.evaluation(cell.folder), self.progress, real)
        inception = next((name for name in request.features if name in INCEPTIONS), None)
        fid = found.get(f"frechet_distance/{inception}")
        measures = {key: _text(value) for key, value in found.items() if key not in ("n_generated", "n_real")}
        # What was made before a kill took time that nobody has measured.
        seconds = generated.seconds / generated.made if generated.made else None
        return {
            **cell.columns,
            "n_real": str(found["n_real"]),
            "feature": "" if fid is None or inception is None else str(INCEPTIONS[inception]),
            "fid": "" if fid is None else _text(fid),
            **measures,
            "seconds_per_image": "" if seconds is None else _text(seconds),
        }


@contextmanager
def _sampled_by(pipeline: CascadePipeline, scheduler: str | None) -> Iterator[None]:
    """Let a pipeline sample by another scheduler in both stages; None leaves it its own."""
    before = pipeline.scheduler, pipeline.sr_scheduler
    try:
        if scheduler is not None:
            pipeline.scheduler = swap_scheduler(before[0], scheduler)
            if pipeline.sr_unet is not None:
                pipeline.sr_scheduler = swap_scheduler(before[1], scheduler)
        yield
    finally:
        pipeline.scheduler, pipeline.sr_scheduler = before


def _best(table: Sweep, by: str) -> dict[str, str]:
    """The row with the best value of a measure."""
    stem = by.partition("/")[0]
    better = (SET_MEASURES.get(stem) or SINGLE_MEASURES[stem])[2]
    return (min if better == "lower" else max)(table.rows, key=lambda row: float(row[by]))


def _description(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["settings"]), dict(content["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SatcascadeError(f"{path} is damaged ({one_line(error)}): use another folder") from error


def _text(value: float) -> str:
    """A number as a cell: digits enough for any use of it."""
    return f"{value:.8g}"
