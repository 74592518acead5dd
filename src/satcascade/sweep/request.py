"""What a sweep tries, and how each cell of its grid is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from satcascade.diffusion.solvers import check_solver
from satcascade.errors import UsageError
from satcascade.evaluation.measures.registry import MEASURES
from satcascade.evaluation.networks.clip import DEFAULT_CLIP
from satcascade.evaluation.networks.features import EFFICIENTNET
from satcascade.evaluation.run import EvaluationRequest
from satcascade.sweep.table import REPORTS

# What is measured when nothing else is said.
SWEPT = tuple(name for name, measure in MEASURES.items() if measure.swept)


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
        metrics: as of :class:`satcascade.evaluation.run.EvaluationRequest`; None is those that a sweep has by
            default, without what needs scene classes where there are none.
        features, clip, inception_weights: likewise.
        by: the measure that the best row is chosen by, such as ``recall`` or ``recall/NETWORK``; None is the
            Frechet distance on the first feature network, or what is measured.
        batch_size: images at once.
        device: where images are made and feature networks compute: ``auto``, ``cpu``, ``cuda``, ...
        precision: as of :func:`satcascade.zoo.load_pipeline`.

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
        for name in self.measured:
            if self.n < (fewest := MEASURES[name].fewest):
                raise UsageError(f"{self.n} images are too few for {name}: give {fewest} or more")
        self.chosen_by()

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the measures."""
        return SWEPT if self.metrics is None else self.metrics

    def evaluation(self, cell: str) -> EvaluationRequest:
        """How a cell is measured."""
        return EvaluationRequest(
            bundle=self.out / cell,
            data=self.data,
            out=self.out / REPORTS / cell,
            split=self.split,
            metrics=self.measured,
            features=self.features,
            clip=self.clip,
            inception_weights=self.inception_weights,
            device=self.device,
        )

    def chosen_by(self) -> str:
        """The column that the best row is chosen by.

        Raises:
            UsageError: it is not measured, or nothing that could be.
        """
        keys = [
            f"{column.key}/{network}" if network else column.key
            for name, measure in MEASURES.items()
            if name in self.measured
            for column in measure.columns
            if column.better
            for network in (self.features if measure.per_network else ("",))
        ]
        if not keys:
            choices = [
                name for name, each in MEASURES.items() if any(column.better for column in each.columns)
            ]
            raise UsageError(f"nothing to choose by: measure one of {', '.join(choices)} too")
        chosen = [key for key in keys if self.by in (None, key, key.partition("/")[0])]
        if not chosen:
            raise UsageError(f"cannot choose by '{self.by}': what is measured is {', '.join(keys)}")
        return chosen[0]
