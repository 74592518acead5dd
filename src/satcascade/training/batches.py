"""Training batches that depend on nothing but the seed and the step.

Whatever is random about step k (rows, captions, symmetries, crops, noise levels, noise, caption dropout) is
drawn from a generator seeded by (seed, k). A resumed run therefore sees what the uninterrupted one would,
with no generator state to save, and each of several processes takes its share of the same batch.

What is small is drawn on the CPU, the same whatever the device; noise is drawn where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.config.training import Training
from satcascade.data.views import MIRRORED, SYMMETRIES, cut, jittered, to_float
from satcascade.diffusion.process import cosine_log_snr, linear_log_snr, normal_log_snr
from satcascade.errors import UsageError
from satcascade.models.codec import Codec, PixelCodec
from satcascade.models.denoiser import resize_low_res
from satcascade.models.text import TextEmbeddings
from satcascade.seeds import derived_seed
from satcascade.training.device_data import DeviceData

# A compiled network is compiled anew for each length of captions: lengths are rounded up to this.
_COMPILED_LENGTHS = 16


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images: x_0, (B, C, S, S): images in [-1, 1], or their latents.
        noise: the same shape, standard normal.
        log_snr: (B,).
        text: embeddings of one caption an image.
        keep: (B,) bool, False where the caption is dropped.
        low_res: (B, 3, S, S), the clean low-resolution image resized to S; None in the base stage, as are
            the two below.
        low_res_noise: (B, 3, S, S), standard normal.
        low_res_log_snr: (B,).
    """

    images: Tensor
    noise: Tensor
    log_snr: Tensor
    text: TextEmbeddings
    keep: Tensor
    low_res: Tensor | None = None
    low_res_noise: Tensor | None = None
    low_res_log_snr: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into ``count``, as equal as they get; captions stay padded as they are."""
        if count == 1:
            return [self]
        size = len(self)
        cuts = [slice(size * part // count, size * (part + 1) // count) for part in range(count)]
        return [self._each(itemgetter(cut)) for cut in cuts]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        text = TextEmbeddings(change(self.text.embeddings), change(self.text.mask))
        tensors = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors, text=text)


class BatchSource:
    """Draws the batches of a run, on its device.

    Args:
        data: images and captions to train on.
        training: settings of the stage.
        image_size: pixels a side of the stage's images; prepared images are averaged down to it.
        low_res_resize: None in the base stage, otherwise how low-resolution images are brought back up.
        process: index of this process.
        processes: how many share each batch.
        codec: what the stage diffuses, on the data's device; pixels if nothing is said.

    Raises:
        UsageError: the prepared images or the crop do not fit the stage's size, super-resolution has no
            noise levels for its input, or a batch has fewer images than parts.
    """

    def __init__(
        self,
        data: DeviceData,
        training: Training,
        image_size: int,
        low_res_resize: str | None,
        process: int = 0,
        processes: int = 1,
        codec: Codec | None = None,
    ):
        self.data = data
        self.training = training
        self.image_size = image_size
        self.codec = codec or PixelCodec()
        self.low_res_resize = low_res_resize
        self.shard = slice(process, None, processes)
        prepared_size = data.dataset.image_size
        if prepared_size % image_size:
            raise UsageError(
                f"prepared images of {prepared_size} px cannot train a stage of {image_size} px: "
                f"prepare them at {image_size} or a multiple of it"
            )
        crop = training.augmentation.crop or image_size
        if crop > image_size:
            raise UsageError(
                f"training.augmentation.crop of {crop} px is larger than the stage's {image_size} px"
            )
        if training.batch_size < processes * training.hardware.accumulate:
            raise UsageError(
                f"a batch of {training.batch_size} images cannot be shared by {processes} processes in "
                f"{training.hardware.accumulate} parts each: lower --processes or "
                "training.hardware.accumulate"
            )
        for name, pixels in (
            ("stage", image_size),
            ("training.augmentation.crop", crop),
        ):
            if pixels % self.codec.factor:
                raise UsageError(
                    f"{pixels} px ({name}) are not possible with a codec of {self.codec.factor} px a "
                    "position: give a multiple"
                )
        if data.latents is not None and training.augmentation.colour_jitter:
            raise UsageError(
                "training.augmentation.colour_jitter changes pixels: set training.hardware.latents=computed "
                "for it"
            )
        if self.codec.factor > 1 and low_res_resize is not None:
            raise UsageError("a super-resolution stage works on pixels: give it no codec")
        if low_res_resize is not None and training.noise.low_res_noise is None:
            raise UsageError("training.noise.low_res_noise must be set for a super-resolution stage")

    def __call__(self, step: int) -> Batch:
        """The batch (this process's share of it) of ``step``, counted from 0."""
        training, size, data, mine = self.training, self.training.batch_size, self.data, self.shard
        augmentation = training.augmentation
        side = augmentation.crop or self.image_size
        chance = torch.Generator().manual_seed(derived_seed(training.seed, "step", step))
        # Everything is drawn for the whole batch and then shared out, so that the share of a process
        # is the same however many there are.
        rows = self._rows(step)
        caption = torch.rand(size, generator=chance)
        symmetry = torch.randint(SYMMETRIES, (size,), generator=chance)
        corner = torch.rand(size, 2, generator=chance)
        keep = torch.rand(size, generator=chance) >= augmentation.caption_dropout
        # Stratified: a batch covers the noise levels evenly, which makes its gradient less noisy.
        u = (torch.randperm(size, generator=chance) + torch.rand(size, generator=chance)) / size
        if training.noise.levels == "cosine":
            log_snr = cosine_log_snr(u)
        else:
            log_snr = normal_log_snr(u, training.noise.log_snr_mean, training.noise.log_snr_std)
        # On a CPU noise comes from the same generator.
        noises = chance
        if data.device.type != "cpu":
            noises = torch.Generator(data.device).manual_seed(derived_seed(training.seed, "noise", step))
        shape = (size, self.codec.channels, side // self.codec.factor, side // self.codec.factor)
        noise = torch.randn(shape, generator=noises, device=data.device)[mine]
        low_res_log_snr = low_res_noise = None
        if self.low_res_resize is not None:
            low_res_log_snr = data.send(self._low_res_levels(chance)[mine])
            low_res_noise = torch.randn(shape, generator=noises, device=data.device)[mine]

        counts = torch.from_numpy(data.caption_counts[rows])
        choice = (caption * counts).long() if augmentation.all_captions else torch.zeros_like(counts)
        if augmentation.symmetries == "flip":
            symmetry = MIRRORED * (symmetry % 2)
        elif not augmentation.symmetries:
            symmetry = torch.zeros_like(symmetry)
        if data.latents is not None:
            views = [self._stored(rows[mine], symmetry[mine], corner[mine], side)]
        else:
            views = self._augmented(rows[mine], symmetry[mine], corner[mine], side)
            if augmentation.colour_jitter:
                # From a generator of its own: without it a run is what it was before there was any.
                colours = torch.Generator().manual_seed(derived_seed(training.seed, "colour", step))
                change = (2 * torch.rand(size, 3, generator=colours) - 1) * augmentation.colour_jitter
                views = [jittered(view, data.send(change[mine])) for view in views]
            with torch.no_grad():
                views[0] = self.codec.encode(views[0])
        multiple = _COMPILED_LENGTHS if training.hardware.compile else 1
        return Batch(
            images=views[0],
            noise=noise,
            log_snr=data.send(log_snr[mine]),
            text=data.text(rows[mine], choice[mine].numpy(), multiple=multiple),
            keep=data.send(keep[mine]),
            low_res=views[1] if low_res_noise is not None else None,
            low_res_noise=low_res_noise,
            low_res_log_snr=low_res_log_snr,
        )

    def _low_res_levels(self, chance: torch.Generator) -> Tensor:
        """Noise levels of the low-resolution inputs of a whole batch, in log-SNR."""
        noise, size = self.training.noise.low_res_noise, self.training.batch_size
        assert noise is not None
        share = torch.rand(size, generator=chance)
        level = noise.low + (noise.high - noise.low) * (share[:1].expand(size) if noise.shared else share)
        return level if noise.scale == "log_snr" else linear_log_snr(level)

    def _rows(self, step: int) -> np.ndarray:
        """Rows of a whole batch: the set is shuffled anew every epoch, and batches run across epochs."""
        count, size = len(self.data.rows), self.training.batch_size
        places = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(places // count):
            order = np.random.default_rng(derived_seed(self.training.seed, "epoch", int(epoch))).permutation(
                count
            )
            here = places // count == epoch
            rows[here] = self.data.rows[order[places[here] % count]]
        return rows

    def _stored(self, rows: np.ndarray, symmetry: Tensor, corner: Tensor, side: int) -> Tensor:
        """Stored latents (B, C, s, s) of views, or a crop of them."""
        latents = self.data.stored_latents(rows, symmetry.numpy())
        side //= self.codec.factor
        if side == latents.shape[-1]:
            return latents
        place = (corner.double() * (latents.shape[-1] - side + 1)).long()
        return cut([latents], self.data.send(place), self.data.send(torch.zeros_like(symmetry)), side)[0]

    def _augmented(self, rows: np.ndarray, symmetry: Tensor, corner: Tensor, side: int) -> list[Tensor]:
        """Images (B, 3, s, s), cropped and turned; for super-resolution also its inputs, alike."""
        views = self._images(rows)
        if side == self.image_size and not self.training.augmentation.symmetries:
            return views
        place = (corner.double() * (self.image_size - side + 1)).long()
        return cut(views, self.data.send(place), self.data.send(symmetry), side)

    def _images(self, rows: np.ndarray) -> list[Tensor]:
        """The stage's images (B, 3, S, S); for super-resolution also its inputs, resized to S."""
        images = to_float(self.data.images(rows), self.image_size)
        if self.low_res_resize is None:
            return [images]
        nearest = self.training.augmentation.low_res_reduce == "nearest"
        half = images[..., ::2, ::2] if nearest else F.avg_pool2d(images, 2)
        return [images, resize_low_res(half, self.image_size, self.low_res_resize)]


def prefetched(source: BatchSource, start: int, stop: int) -> Generator[Batch]:
    """The batches of steps start to stop, each made while the one before is trained on."""
    # On one thread: a second team of OpenMP's would put the one that trains to sleep between operations.
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(source, start) if start < stop else None
        for step in range(start, stop):
            assert coming is not None
            batch = coming.result()
            coming = pool.submit(source, step + 1) if step + 1 < stop else None
            yield batch
