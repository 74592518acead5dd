"""Scenes of any size with a cascade: what its class offers of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.errors import UsageError
from satcascade.models.levels import from_levels
from satcascade.pipelines.captioned import CaptionedPipeline
from satcascade.sampling.known_picture import KnownPicture
from satcascade.sampling.membrane import REACH
from satcascade.sampling.regions import Regions
from satcascade.sampling.scene import Hooks, Scene, SceneSettings, SceneState
from satcascade.sampling.stage import SamplingStage

OnState = Callable[[Callable[[], SceneState]], None]
OnWindows = Callable[[int, int], None]
OnPicture = Callable[[Callable[[], Image.Image]], None]


class ScenePipeline(CaptionedPipeline):
    """The part of :class:`satcascade.pipelines.cascade.CascadePipeline` that makes pictures of any size."""

    sr_unet: Any

    @property
    @abstractmethod
    def compute_dtype(self) -> torch.dtype:
        """What the networks compute in."""

    @abstractmethod
    def prepare(
        self, settings: Mapping[StageName, StageSettings], stop_at: str | None = None
    ) -> list[SamplingStage]:
        """The stages, set to their steps."""

    def scene(
        self,
        prompt: str | Regions,
        size: tuple[int, int] | None = None,
        *,
        seed: int = 0,
        overlap: float = SceneSettings.overlap,
        wrap: bool = False,
        batch_size: int = SceneSettings.batch_size,
        settings: Mapping[StageName, StageSettings] | None = None,
        state: SceneState | None = None,
        on_state: OnState | None = None,
        on_windows: OnWindows | None = None,
        on_picture: OnPicture | None = None,
    ) -> Image.Image:
        """Make one picture of any size by MultiDiffusion (Bar-Tal et al. 2023).

        The noise of a place depends on the seed and its coordinates alone: the picture is the same (up to
        float rounding) for every ``batch_size``, and a larger scene starts from the same noise.

        Args:
            prompt: a caption, or captions of parts of the picture.
            size: height and width in pixels; by default those of the regions. Where it does not fit the
                windows, a little more is made and cut off at the right and at the bottom.
            seed: 0 to 2^63 - 1.
            overlap: of neighbouring windows, as a share of a window: 0 to 0.75.
            wrap: make a tile that repeats without a seam.
            batch_size: windows at once.
            settings: of the stages by their names; what they leave out is the model's own.
            state: to go on from, of the same scene.
            on_state: called after every step with a function that gives the state to go on from.
            on_windows: called after every batch of windows with how many are done, each step and each caption
                in it counted, and how many there are to do.
            on_picture: called after every step with a function that decodes the picture as it is then: with
                the noise that is still in it, and of a first stage smaller than the scene.

        Returns:
            An RGB image.

        Raises:
            UsageError: an argument is out of range, a caption is empty, a size does not wrap, or a scheduler
                bounds pictures as a whole.
            SatcascadeError: the text encoder or memory cannot be had, or numbers are not finite.
        """
        if size is None:
            if isinstance(prompt, str):
                raise UsageError("a scene of one caption needs a size: give height and width in pixels")
            size = (int(prompt.labels.shape[0]), int(prompt.labels.shape[1]))
        plan = Scene(self.prepare(settings or {}), size, SceneSettings(seed, overlap, wrap, batch_size))
        regions = Regions.whole(prompt, *size) if isinstance(prompt, str) else prompt.resized(*size)
        watch = _Watch(on_state, on_windows, on_picture)
        return Image.fromarray(self._make(plan, regions, state, watch))

    def extend(
        self,
        image: Image.Image,
        prompt: str,
        *,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        resampling: int = SceneSettings.resampling,
        seamless: bool = True,
        seed: int = 0,
        overlap: float = SceneSettings.overlap,
        batch_size: int = SceneSettings.batch_size,
        settings: Mapping[StageName, StageSettings] | None = None,
        state: SceneState | None = None,
        on_state: OnState | None = None,
        on_windows: OnWindows | None = None,
        on_picture: OnPicture | None = None,
    ) -> Image.Image:
        """Let a picture grow beyond its edges: the rest is made to fit it, as in :meth:`scene`.

        At each noise level the picture is kept as RePaint keeps it (Lugmayr et al. 2022); in the result its
        pixels are its own.

        Args:
            image: an RGB image.
            prompt: what is beyond its edges.
            left: how many pixels it grows by on this side,
            top: on this,
            right: on this,
            bottom: and on this; at least one of them is not 0.
            resampling: how often each stretch of the steps is taken (RePaint's jumps): with 2 and more, what
                is made has time to fit what is there, and takes as many times as long.
            seamless: shift the colours of what is made, near the picture, so that they meet it (Perez et al.
                2003, "Poisson image editing").
            seed: as of :meth:`scene`.
            overlap: as of :meth:`scene`.
            batch_size: as of :meth:`scene`.
            settings: as of :meth:`scene`.
            state: as of :meth:`scene`.
            on_state: as of :meth:`scene`.
            on_windows: as of :meth:`scene`.
            on_picture: as of :meth:`scene`.

        Returns:
            An RGB image.

        Raises:
            UsageError, SatcascadeError: as of :meth:`scene`, or nothing is to grow.
        """
        if min(left, top, right, bottom) < 0 or not max(left, top, right, bottom):
            raise UsageError("nothing to extend: say by how many pixels on the left, right, top or bottom")
        size = (top + image.height + bottom, left + image.width + right)
        scene = SceneSettings(seed, overlap, False, batch_size, resampling)
        plan = Scene(self.prepare(settings or {}), size, scene)
        known = _known_picture(np.array(image.convert("RGB")), top, left, plan, seamless)
        watch = _Watch(on_state, on_windows, on_picture)
        return Image.fromarray(self._make(plan, Regions.whole(prompt, *size), state, watch, known))

    def upscale(
        self,
        image: Image.Image,
        prompt: str | None = None,
        *,
        seed: int = 0,
        overlap: float = SceneSettings.overlap,
        batch_size: int = SceneSettings.batch_size,
        settings: StageSettings | None = None,
        low_res_log_snr: float | None = None,
    ) -> Image.Image:
        """Enlarge a picture of any size with the super-resolution stage, in overlapping windows.

        Args:
            image: an RGB image. One that is smaller than the stage takes is padded, and the result cropped.
            prompt: what it shows; without one nothing is guided.
            seed: as of :meth:`scene`.
            overlap: as of :meth:`scene`.
            batch_size: as of :meth:`scene`.
            settings: of the super-resolution stage; what they leave out is the model's own.
            low_res_log_snr: noise level to which the image is taken before the network sees it: more keeps it
                closer to the image, less makes more up. None is the model's own.

        Returns:
            An RGB image, larger by what the stage enlarges base images by.

        Raises:
            UsageError: the model has no super-resolution stage, or as of :meth:`scene`.
            SatcascadeError: as of :meth:`scene`.
        """
        self.check_upscales()
        base, sr = self.prepare({} if settings is None else {"sr": settings})
        if low_res_log_snr is not None:
            sr = replace(sr, low_res_log_snr=low_res_log_snr)
        ratio = sr.image_size // base.image_size
        size = (image.height * ratio, image.width * ratio)
        plan = Scene([sr], size, SceneSettings(seed, overlap, False, batch_size), ratio)
        regions = None if prompt is None else Regions.whole(prompt, *size)
        pixels = from_levels(torch.from_numpy(np.array(image.convert("RGB")))).permute(2, 0, 1)
        padding = (0, plan.width // ratio - image.width, 0, plan.height // ratio - image.height)
        picture = F.pad(pixels[None], padding, mode="replicate")[0]
        return Image.fromarray(self._make(plan, regions, picture=picture))

    def check_upscales(self) -> None:
        """Refuse to upscale without a super-resolution stage.

        Raises:
            UsageError: the model has none; one that has is named.
        """
        if self.sr_unet is None:
            raise UsageError(
                f"{self.name} has no super-resolution stage to upscale with: use a cascade of two stages, "
                "such as --model rsdiff or one trained with the preset compact"
            )

    def _make(
        self,
        plan: Scene,
        regions: Regions | None,
        state: SceneState | None = None,
        watch: _Watch | None = None,
        known: KnownPicture | None = None,
        picture: Tensor | None = None,
    ) -> npt.NDArray[np.uint8]:
        text = None if regions is None else self.encode(regions.captions).to(self._execution_device)
        total = plan.calls(regions, state)
        with self.progress_bar(total=total) as progress:
            made = plan.sample(
                text,
                regions,
                self.compute_dtype,
                self._execution_device,
                picture=picture,
                known=known,
                state=state,
                hooks=(watch or _Watch()).hooks(total, progress.update),
            )
        self.maybe_free_model_hooks()
        return made


@dataclass(frozen=True)
class _Watch:
    """What a caller wants to be told, see :meth:`ScenePipeline.scene`."""

    on_state: OnState | None = None
    on_windows: OnWindows | None = None
    on_picture: OnPicture | None = None

    def hooks(self, total: int, update: Callable[[int], None]) -> Hooks:
        """Hooks of a scene of so many windows, which also update a progress bar."""
        done = 0

        def windows(count: int) -> None:
            nonlocal done
            done += count
            update(count)
            if self.on_windows is not None:
                self.on_windows(done, total)

        def picture(decode: Callable[[], npt.NDArray[np.uint8]]) -> None:
            if self.on_picture is not None:
                self.on_picture(lambda: Image.fromarray(decode()))

        return Hooks(windows, self.on_state or (lambda _: None), picture)


def _known_picture(
    pixels: npt.NDArray[np.uint8], top: int, left: int, plan: Scene, seamless: bool
) -> KnownPicture:
    """An image (h, w, 3) in its place in a scene; beyond it its edges go on."""
    height, width = pixels.shape[:2]
    bottom, right = plan.height - top - height, plan.width - left - width
    image = from_levels(torch.from_numpy(pixels)).permute(2, 0, 1)
    mask = torch.zeros(plan.height, plan.width, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    whole = F.pad(image[None], (left, right, top, bottom), mode="replicate")[0]
    return KnownPicture(whole, mask, REACH * plan.stages[-1].image_size if seamless else 0.0)
