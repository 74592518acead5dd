"""What a stage predicts for a canvas: the average of its predictions in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from satcascade.diffusion.process import add_noise, from_x0
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.denoiser import TextCondition
from satcascade.rsdiff_scheduler import RSDiffScheduler
from satcascade.sampling.condition import Condition, LowRes
from satcascade.sampling.loop import predict_step
from satcascade.sampling.stage import SamplingStage, Step
from satcascade.sampling.windows import Blocks, Windows, batches


@dataclass(frozen=True)
class Known:
    """What is known of a canvas and is to stay.

    Attributes:
        x0: (C, H, W), clean; arbitrary where nothing is known.
        mask: (H, W) bool, where it is known.
    """

    x0: Tensor
    mask: Tensor


@dataclass(frozen=True)
class LowResCanvas:
    """The low-resolution picture behind a super-resolution canvas.

    Attributes:
        picture: (3, H * factor, W * factor) in [-1, 1], resized to the pixels of the canvas.
        noise: (C, H, W) that is added to it.
    """

    picture: Tensor
    noise: Tensor


class Task(NamedTuple):
    """One network call: numbers of the window's row and column, and of the caption."""

    row: int
    column: int
    caption: int


def tasks_of(rows: Windows, columns: Windows, masks: Tensor | None) -> list[Task]:
    """Each window with each caption that occurs in it.

    Args:
        rows: windows from top to bottom.
        columns: windows from left to right.
        masks: (K, H, W) of the captions; None for one caption everywhere.
    """
    captions = range(1 if masks is None else len(masks))
    tasks = map(Task._make, product(range(len(rows.starts)), range(len(columns.starts)), captions))
    if masks is None:
        return list(tasks)
    row_places, column_places = rows.positions(), columns.positions()
    return [
        task
        for task in tasks
        if masks[task.caption, row_places[task.row][:, None], column_places[task.column]].any()
    ]


@dataclass(frozen=True)
class CanvasPredictor:
    """Predicts for a whole canvas, window by window (Bar-Tal et al. 2023, "MultiDiffusion").

    In each window the network answers every caption that occurs there; what it says is weighted by the
    window's weights and the caption's mask. Each window is guided and bounded before the average is taken, so
    that what looks at an image as a whole (projected guidance, dynamic thresholding) sees one.

    Attributes:
        stage: set to its steps.
        text: of K captions; where any step is guided, (2 K): then those of null captions.
        masks: (K, H, W), see :meth:`satcascade.sampling.regions.Regions.masks`; None where K is 1.
        rows, columns: the windows along both axes.
        blocks: how the solver has the canvas.
        batch_size: windows at once.
        low_res: in a super-resolution stage.
        known: its part of the prediction is replaced by what is known: by that the solver itself keeps that
            part at alpha x_0 + sigma eps of each noise level, as RePaint does (Lugmayr et al. 2022).
        on_windows: told after every batch how many windows it had.

    Raises:
        UsageError: the scheduler bounds pictures as a whole, which a canvas is not.
    """

    stage: SamplingStage
    text: TextCondition
    masks: Tensor | None
    rows: Windows
    columns: Windows
    blocks: Blocks
    batch_size: int
    low_res: LowResCanvas | None = None
    known: Known | None = None
    on_windows: Callable[[int], None] = lambda _: None

    def __post_init__(self) -> None:
        scheduler = self.stage.scheduler
        if isinstance(scheduler, RSDiffScheduler) or scheduler.config.get("thresholding"):
            raise UsageError(
                f"{type(scheduler).__name__} bounds each picture by its own brightest pixels, which would "
                "show in a scene: use another scheduler, such as dpm++"
            )

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        device = self.text.tokens.device
        return self.rows.weights().to(device), self.columns.weights().to(device)

    @cached_property
    def tasks(self) -> list[Task]:
        """The network calls of a step."""
        return tasks_of(self.rows, self.columns, self.masks)

    def __call__(self, x_t: Tensor, step: Step) -> Tensor:
        """The prediction for squares x_t (N, C, side, side) of the canvas, of the scheduler's type.

        Raises:
            SatcascadeError: the device's memory is full.
        """
        canvas = self.blocks.join(x_t)
        total = torch.zeros_like(canvas)
        for numbers in batches(len(self.tasks), self.batch_size):
            tasks = [self.tasks[number] for number in numbers]
            x = torch.stack([self._cut(canvas, task) for task in tasks])
            try:
                predictions = predict_step(self.stage, self._condition(tasks), x, step)
            except torch.OutOfMemoryError as error:
                raise SatcascadeError(
                    f"out of memory on {canvas.device} with {len(tasks)} windows at once: "
                    "lower the batch size and run the same again"
                ) from error
            for prediction, task in zip(predictions, tasks, strict=True):
                rows, columns = self._positions(task)
                total[:, rows, columns] += prediction * self._weight(task)
            self.on_windows(len(tasks))
        return self.blocks.split(total if self.known is None else self._kept(total, canvas, step))

    def _condition(self, tasks: list[Task]) -> Condition:
        captions = [task.caption for task in tasks]
        known_captions = 1 if self.masks is None else len(self.masks)
        guided = len(self.text) > known_captions
        rows = [*captions, *(known_captions + each for each in captions)] if guided else captions
        low_res = None
        if self.low_res is not None:
            sample = torch.stack([self._low_res(self.low_res, task) for task in tasks])
            log_snr = torch.full((len(sample),), self.stage.low_res_log_snr, device=sample.device)
            low_res = LowRes(sample, log_snr)
            if guided:
                low_res = LowRes(sample.repeat(2, 1, 1, 1), log_snr.repeat(2))
        return Condition(len(tasks), self.text[rows], low_res)

    def _low_res(self, canvas: LowResCanvas, task: Task) -> Tensor:
        """A window of the low-resolution picture, encoded and noised: (C, S, S)."""
        factor = self.stage.codec.factor
        window = self.stage.codec.encode(self._cut(canvas.picture, task, factor)[None])
        log_snr = torch.tensor([self.stage.low_res_log_snr], device=window.device)
        return add_noise(window, self._cut(canvas.noise, task)[None], log_snr)[0]

    def _kept(self, prediction: Tensor, canvas: Tensor, step: Step) -> Tensor:
        """A prediction (C, H, W) at ``canvas``, replaced by what is known."""
        assert self.known is not None
        kind = self.stage.scheduler.config.prediction_type
        log_snr = torch.tensor([step.log_snr], device=canvas.device)
        return torch.where(
            self.known.mask, from_x0(self.known.x0[None], canvas[None], log_snr, kind)[0], prediction
        )

    def _positions(self, task: Task, factor: int = 1) -> tuple[Tensor, Tensor]:
        """Indices of a window's positions, or of their pixels, to index both axes of a canvas with."""
        rows, columns = self.rows.positions(factor), self.columns.positions(factor)
        return rows[task.row][:, None], columns[task.column]

    def _cut(self, canvas: Tensor, task: Task, factor: int = 1) -> Tensor:
        rows, columns = self._positions(task, factor)
        return canvas[:, rows, columns]

    def _weight(self, task: Task) -> Tensor:
        rows, columns = self._weights
        weight = torch.outer(rows[task.row], columns[task.column])
        return weight if self.masks is None else weight * self.masks[task.caption][self._positions(task)]
