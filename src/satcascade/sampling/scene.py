"""Pictures of any size: the stages of a cascade, each on a canvas of overlapping windows.

MultiDiffusion (Bar-Tal et al. 2023): at every step the predictions in overlapping windows are averaged, and
the solver takes one step for the whole canvas. What a stage has made is decoded in overlapping windows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import UsageError
from satcascade.hardware.precision import autocast
from satcascade.models.denoiser import TextCondition
from satcascade.models.levels import from_levels, to_levels
from satcascade.models.text import TextEmbeddings
from satcascade.sampling.canvas import CanvasPredictor, Known, LowResCanvas, tasks_of
from satcascade.sampling.condition import Condition
from satcascade.sampling.edit import count_calls, noised_back, part_of, stretches
from satcascade.sampling.known_picture import KnownPicture
from satcascade.sampling.loop import check_finite, denoise
from satcascade.sampling.regions import Regions
from satcascade.sampling.solver_state import Remembered, remember, remembered
from satcascade.sampling.stage import SamplingStage
from satcascade.sampling.strips import decoded_strips, encoded, picture_of
from satcascade.sampling.windows import DEFAULT_OVERLAP, Blocks, Windows, overlapping

# What an enlarged picture's edges need to see of the other side of a circle, in its own pixels.
_RESIZE_MARGIN = 8


@dataclass(frozen=True)
class SceneSettings:
    """How a scene is made.

    Attributes:
        seed: of its noise, 0 to 2^63 - 1.
        overlap: of neighbouring windows, as a share of a window: 0 to 0.75.
        wrap: left and right, top and bottom are neighbours, so that the picture repeats without a seam.
        batch_size: windows at once; changes pictures by float rounding only.
        resampling: how often each stretch of the steps is taken (RePaint's jumps, Lugmayr et al. 2022), for
            what is made and what is known to settle; of use where a part of the scene is known.

    Raises:
        UsageError: a number is out of its range.
    """

    seed: int = 0
    overlap: float = DEFAULT_OVERLAP
    wrap: bool = False
    batch_size: int = 4
    resampling: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range: give an integer from 0 to 2^63 - 1")
        if self.batch_size < 1:
            raise UsageError(f"batch size: {self.batch_size} is not possible, give 1 or more")
        if self.resampling < 1:
            raise UsageError(f"resampling {self.resampling} is not possible: give 1 or more")
        overlapping(4, 4, self.overlap)


@dataclass(frozen=True)
class SceneState:
    """A scene on its way, after a step.

    Attributes:
        stage: that is at work.
        done: network calls that it has made, those after a jump back counted again.
        x: (N, C, side, side), the squares of its canvas (:class:`satcascade.sampling.windows.Blocks`).
        solver: what its scheduler remembers, with
        solver_tensors: the tensors of that.
        picture: (3, h, w) in [-1, 1], which the stage enlarges; None in a first stage.
    """

    stage: str
    done: int
    x: Tensor
    solver: Remembered
    solver_tensors: dict[str, Tensor]
    picture: Tensor | None


@dataclass(frozen=True)
class Hooks:
    """What is told of a scene on its way.

    Attributes:
        on_windows: after every batch of windows, how many it had.
        on_step: after every step, with a function that gives the state to resume from.
        on_picture: after every step, with a function that decodes what there is, with the noise that is still
            in it: (h, w, 3) uint8, of the stage's own resolution.
    """

    on_windows: Callable[[int], None] = lambda _: None
    on_step: Callable[[Callable[[], SceneState]], None] = lambda _: None
    on_picture: Callable[[Callable[[], npt.NDArray[np.uint8]]], None] = lambda _: None


class Scene:
    """A picture of any size in the making.

    Args:
        stages: of a cascade, set to their steps; the super-resolution stage alone enlarges a picture.
        size: height and width of the picture, in pixels.
        settings: how it is made.
        ratio: how many times larger it is than the picture that the first stage starts from, if it is
            a super-resolution stage.

    Attributes:
        height, width: of the canvas, in pixels of the picture: where the size does not fit, a little more,
            which is cut off in the end.

    Raises:
        UsageError: a side is less than 1 px, or does not fit a picture that wraps.
    """

    def __init__(
        self, stages: Sequence[SamplingStage], size: tuple[int, int], settings: SceneSettings, ratio: int = 1
    ):
        self.stages, self.size, self.settings = list(stages), size, settings
        unit = math.lcm(ratio, *(self.reduction(stage) * stage.codec.factor for stage in stages))
        smallest = -(-stages[-1].image_size // unit) * unit
        if min(size) < 1:
            raise UsageError(f"a scene of {size[1]}x{size[0]} px is not possible: give 1 or more")
        self.height, self.width = (max(-(-side // unit) * unit, smallest) for side in size)
        if settings.wrap and (self.height, self.width) != size:
            raise UsageError(
                f"a scene of {size[1]}x{size[0]} px cannot wrap: both sides must be multiples of {unit} "
                f"and at least {smallest}"
            )

    def reduction(self, stage: SamplingStage) -> int:
        """How many times smaller the picture of a stage is than that of the last one."""
        return self.stages[-1].image_size // stage.image_size

    def positions(self, stage: SamplingStage) -> tuple[int, int]:
        """Height and width of a stage's canvas, in positions."""
        cell = self.reduction(stage) * stage.codec.factor
        return self.height // cell, self.width // cell

    def windows(self, stage: SamplingStage) -> tuple[Windows, Windows]:
        """The windows of a stage's canvas, from top to bottom and from left to right."""
        height, width = self.positions(stage)
        settings, size = self.settings, stage.shape[-1]
        return (
            overlapping(height, size, settings.overlap, settings.wrap),
            overlapping(width, size, settings.overlap, settings.wrap),
        )

    def calls(self, regions: Regions | None, state: SceneState | None = None) -> int:
        """How many windows will be worked on, each caption in it and each step counted, from a state on."""
        total = 0
        for stage in self._left(state):
            done = 0 if state is None or state.stage != stage.name else state.done
            tasks = tasks_of(*self.windows(stage), self._masks(stage, regions))
            total += len(tasks) * (count_calls(stage, resampling=self.settings.resampling) - done)
        return total

    @torch.inference_mode()
    def sample(
        self,
        text: TextEmbeddings | None,
        regions: Regions | None,
        dtype: torch.dtype,
        device: torch.device,
        *,
        picture: Tensor | None = None,
        known: KnownPicture | None = None,
        state: SceneState | None = None,
        hooks: Hooks | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Make the picture.

        Args:
            text: embeddings of the captions of ``regions``; None for no caption, where nothing is guided.
            regions: which caption is where; None where there is one caption or none.
            dtype: what the networks compute in.
            device: where they are.
            picture: (3, h, w) in [-1, 1], of the canvas' size divided by ``ratio``, which the first stage
                enlarges; None where that is a base stage.
            known: what is there already, of the canvas' size: its pixels are in the picture as they are.
            state: to go on from, of the same scene.
            hooks: told of windows and steps.

        Returns:
            (H, W, 3) uint8.

        Raises:
            UsageError: a scheduler bounds pictures as a whole.
            SatcascadeError: the device's memory is full, or a network's output is not finite.
        """
        hooks = hooks or Hooks()
        stages = self._left(state)
        picture = picture if state is None else state.picture
        for stage in stages:
            with autocast(dtype, device):
                canvas = self._run(stage, text, regions, device, picture, known, state, hooks)
                if stage is not stages[-1]:
                    picture = picture_of(stage.codec, canvas, self.settings.wrap)
                    if known is not None:
                        picture = torch.stack([*known.reduced(self.reduction(stage)).joined(picture)])
            state = None
        with autocast(dtype, device):
            made = self._decoded(stages[-1], canvas)
        if known is not None:
            planes = (from_levels(torch.from_numpy(made[..., channel])) for channel in range(3))
            for channel, plane in enumerate(known.joined(planes)):
                made[..., channel] = to_levels(plane).numpy()
        return made

    def _decoded(self, stage: SamplingStage, canvas: Tensor) -> npt.NDArray[np.uint8]:
        """The picture (h, w, 3) of a stage's canvas (C, H, W), cut to the size asked for."""
        height, width = (-(-side // self.reduction(stage)) for side in self.size)
        made = np.empty((height, width, 3), np.uint8)
        for top, strip in decoded_strips(stage.codec, canvas, self.settings.wrap):
            rows = made[top : top + strip.shape[1]]
            rows[:] = to_levels(strip).permute(1, 2, 0)[: len(rows), :width].numpy()
        return made

    def _run(
        self,
        stage: SamplingStage,
        text: TextEmbeddings | None,
        regions: Regions | None,
        device: torch.device,
        picture: Tensor | None,
        known: KnownPicture | None,
        state: SceneState | None,
        hooks: Hooks,
    ) -> Tensor:
        """The canvas (C, H, W) that a stage has made."""
        blocks = Blocks(*self.positions(stage), max(stage.shape[-1] // 2, 1), self.settings.seed)
        condition, stage = _condition(stage, text, device)
        low_res = None
        if picture is not None:
            noise = blocks.join(blocks.noise(stage.shape[0], f"{stage.name}/low_res", device))
            low_res = LowResCanvas(self._enlarged(stage, picture).to(device), noise)
        masks = self._masks(stage, regions)
        predictor = CanvasPredictor(
            stage,
            condition,
            None if masks is None else masks.to(device),
            *self.windows(stage),
            blocks,
            self.settings.batch_size,
            low_res,
            None if known is None else self._known(stage, known, device),
            hooks.on_windows,
        )
        if state is None:
            x = blocks.noise(stage.shape[0], f"{stage.name}/first", device) * stage.scheduler.init_noise_sigma
        else:
            x = state.x.to(device)
        canvas = blocks.join(self._steps_of(predictor, x, state, picture, hooks))
        check_finite(canvas, f"the {stage.name} stage")
        return canvas

    def _steps_of(
        self,
        predictor: CanvasPredictor,
        x: Tensor,
        state: SceneState | None,
        picture: Tensor | None,
        hooks: Hooks,
    ) -> Tensor:
        """The squares of a stage's canvas after all its steps, stretch by stretch, from a state on."""
        stage, blocks = predictor.stage, predictor.blocks
        done = 0 if state is None else state.done
        generators = blocks.generators(f"{stage.name}/{done}")
        # The predictor takes what the network is given from the windows: the loop needs none of it.
        whole = Condition(1, predictor.text, None)
        end = reached = 0
        for calls in stretches(stage, 1.0, self.settings.resampling):
            begin, end = end, end + len(calls)
            if end > done:
                part = part_of(stage, calls)
                if state is not None and done > begin:
                    remember(part.scheduler, state.solver, state.solver_tensors, x.device)
                    part = replace(part, steps=part.steps[done - begin :])
                elif reached != calls.start:
                    noise = blocks.noise(stage.shape[0], f"{stage.name}/back/{done}", x.device)
                    x = noised_back(stage, x, noise, reached, calls.start)

                def after_step(
                    number: int, x: Tensor, part: SamplingStage = part, before: int = done
                ) -> Tensor:
                    count = before + number + 1
                    # Each step's noise has a name of its own: a resumed scene draws what it would have drawn.
                    blocks.reseed(generators, f"{stage.name}/{count}")
                    hooks.on_step(
                        lambda: SceneState(stage.name, count, x.cpu(), *remembered(part.scheduler), picture)
                    )
                    hooks.on_picture(lambda: self._decoded(stage, blocks.join(x)))
                    return x

                x = denoise(part, whole, x, generators, after_step, predictor)
                done = end
            reached = calls.stop
        return x

    def _left(self, state: SceneState | None) -> list[SamplingStage]:
        """The stages that a scene has still to go through."""
        names: list[str] = [stage.name for stage in self.stages]
        return self.stages[0 if state is None else names.index(state.stage) :]

    def _masks(self, stage: SamplingStage, regions: Regions | None) -> Tensor | None:
        if regions is None or len(regions.captions) == 1:
            return None
        return regions.masks(*self.positions(stage), self.reduction(stage) * stage.codec.factor)

    def _enlarged(self, stage: SamplingStage, picture: Tensor) -> Tensor:
        """A picture (3, h, w), resized to the pixels of a stage as its network was trained with."""
        height, width = (side * stage.codec.factor for side in self.positions(stage))
        ratio, mode = height // picture.shape[1], stage.denoiser.config.low_res_resize
        margin = _RESIZE_MARGIN if self.settings.wrap else 0
        # By way of [0, 1], as in the sampling of single images.
        source = F.pad(((picture + 1) * 0.5 * 2 - 1)[None], (margin,) * 4, mode="circular")
        aligned = None if mode == "nearest" else False
        size = (height + 2 * margin * ratio, width + 2 * margin * ratio)
        enlarged = F.interpolate(source, size=size, mode=mode, align_corners=aligned)[0]
        cut = margin * ratio
        return enlarged[:, cut : cut + height, cut : cut + width]

    def _known(self, stage: SamplingStage, known: KnownPicture, device: torch.device) -> Known:
        """What is known of a stage's canvas: positions all of whose pixels are known."""
        reduction = self.reduction(stage)
        pixels = known.reduced(reduction).pixels.to(device)
        mask = known.mask_of_cells(reduction * stage.codec.factor)
        return Known(encoded(stage.codec, pixels).to(device), mask.to(device))


def _condition(
    stage: SamplingStage, text: TextEmbeddings | None, device: torch.device
) -> tuple[TextCondition, SamplingStage]:
    """What a stage's network is told of the captions, and the stage, unguided where there are none."""
    if text is not None:
        return Condition.of(stage, text, None).text, stage
    network = stage.denoiser
    none = torch.zeros(1, 1, network.config.text_dim, dtype=network.dtype, device=device)
    yes = torch.ones(1, 1, dtype=torch.bool, device=device)
    steps = [replace(step, guided=False) for step in stage.steps]
    return network.encode_text(none, yes, ~yes[0]), replace(stage, steps=steps)
