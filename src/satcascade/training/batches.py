"""Training batches that depend on nothing but the seed and the step.

Whatever is random about step k (rows, captions, symmetries, crops, noise levels, noise, caption dropout) is
drawn from a generator seeded by (seed, k). A resumed run therefore sees what the uninterrupted one would,
with no generator state to save, and each of several processes takes its share of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.config import Training
from satcascade.data.prepared import PreparedDataset
from satcascade.diffusion import cosine_log_snr, linear_log_snr, normal_log_snr
from satcascade.errors import UsageError
from satcascade.models.denoiser import resize_low_res
from satcascade.seeds import derived_seed
from satcascade.text import TextEmbeddings

# Of the eight symmetries that `dihedral` counts: left and right exchanged.
_MIRRORED = 7


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images: x_0, (B, 3, S, S) in [-1, 1].
        noise: (B, 3, S, S), standard normal.
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

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else value.to(device)
        return Batch(**moved)


class BatchSource:
    """Draws the batches of a run.

    Args:
        dataset: prepared images and captions.
        split: which rows are trained on.
        training: settings of the stage.
        image_size: pixels a side of the stage's images; prepared images are averaged down to it.
        low_res_resize: None in the base stage, otherwise how low-resolution images are brought back up.
        process: index of this process.
        processes: how many share each batch.

    Raises:
        UsageError: the split is missing or empty, the prepared images or the crop do not fit the stage's
            size, or super-resolution has no noise levels for its input.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        training: Training,
        image_size: int,
        low_res_resize: str | None,
        process: int = 0,
        processes: int = 1,
    ):
        self.dataset = dataset
        self.rows = dataset.indices(split)
        self.training = training
        self.image_size = image_size
        self.low_res_resize = low_res_resize
        self.shard = slice(process, None, processes)
        if dataset.image_size % image_size:
            raise UsageError(
                f"prepared images of {dataset.image_size} px cannot train a stage of {image_size} px: "
                f"prepare them at {image_size} or a multiple of it"
            )
        if training.crop is not None and training.crop > image_size:
            raise UsageError(
                f"training.crop of {training.crop} px is larger than the stage's {image_size} px"
            )
        if low_res_resize is not None and training.low_res_noise is None:
            raise UsageError("training.low_res_noise must be set for a super-resolution stage")
        if len(self.rows) < 1:
            raise UsageError(f"split '{split}' of the prepared set holds no images")

    def __call__(self, step: int) -> Batch:
        """The batch (this process's share of it) of ``step``, counted from 0."""
        training, size = self.training, self.training.batch_size
        side = training.crop or self.image_size
        chance = torch.Generator().manual_seed(derived_seed(training.seed, "step", step))
        # Everything is drawn for the whole batch and then shared out, so that the share of a process
        # is the same however many there are.
        caption = torch.rand(size, generator=chance)
        symmetry = torch.randint(8, (size,), generator=chance)
        corner = torch.rand(size, 2, generator=chance)
        keep = torch.rand(size, generator=chance) >= training.caption_dropout
        # Stratified: a batch covers the noise levels evenly, which makes its gradient less noisy.
        u = (torch.randperm(size, generator=chance) + torch.rand(size, generator=chance)) / size
        if training.noise_levels == "cosine":
            log_snr = cosine_log_snr(u)
        else:
            log_snr = normal_log_snr(u, training.log_snr_mean, training.log_snr_std)
        noise = torch.randn(size, 3, side, side, generator=chance)
        images, low_res, caption_ids = [], [], []
        rows = self._rows(step)
        for item in range(size)[self.shard]:
            row = int(rows[item])
            record = self.dataset.records[row]
            choice = int(caption[item] * len(record.caption_ids)) if training.all_captions else 0
            caption_ids.append(record.caption_ids[choice])
            views = self._views(row)
            top, left = (int(part * (self.image_size - side + 1)) for part in corner[item].tolist())
            views = [view[:, top : top + side, left : left + side] for view in views]
            if training.symmetries:
                drawn = int(symmetry[item])
                chosen = drawn if training.symmetries is True else _MIRRORED * (drawn % 2)
                views = [dihedral(view, chosen) for view in views]
            images.append(views[0])
            low_res.extend(views[1:])
        mine = self.shard
        batch = Batch(
            images=torch.stack(images),
            noise=noise[mine],
            log_snr=log_snr[mine],
            text=self.dataset.text(caption_ids),
            keep=keep[mine],
        )
        if not low_res:
            return batch
        return Batch(
            **vars(batch)
            | {
                "low_res": torch.stack(low_res),
                "low_res_log_snr": self._low_res_levels(chance)[mine],
                "low_res_noise": torch.randn(noise.shape, generator=chance)[mine],
            }
        )

    def _low_res_levels(self, chance: torch.Generator) -> Tensor:
        """Noise levels of the low-resolution inputs of a whole batch, in log-SNR."""
        noise, size = self.training.low_res_noise, self.training.batch_size
        assert noise is not None
        share = torch.rand(size, generator=chance)
        level = noise.low + (noise.high - noise.low) * (share[:1].expand(size) if noise.shared else share)
        return level if noise.scale == "log_snr" else linear_log_snr(level)

    def _rows(self, step: int) -> np.ndarray:
        """Rows of a whole batch: the set is shuffled anew every epoch, and batches run across epochs."""
        count, size = len(self.rows), self.training.batch_size
        places = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(places // count):
            order = np.random.default_rng(derived_seed(self.training.seed, "epoch", int(epoch))).permutation(
                count
            )
            here = places // count == epoch
            rows[here] = self.rows[order[places[here] % count]]
        return rows

    def _views(self, row: int) -> list[Tensor]:
        """The stage's image (3, S, S) and, for super-resolution, its low-resolution input resized to S."""
        image = self.image(self.dataset, row, self.image_size)
        if self.low_res_resize is None:
            return [image]
        half = image[:, ::2, ::2] if self.training.low_res_reduce == "nearest" else F.avg_pool2d(image, 2)
        return [image, resize_low_res(half[None], self.image_size, self.low_res_resize)[0]]

    @staticmethod
    def image(dataset: PreparedDataset, row: int, size: int) -> Tensor:
        """The image of a row, averaged down to ``size``: (3, size, size) in [-1, 1]."""
        return F.avg_pool2d(to_float(dataset.images[row]), dataset.image_size // size)


def to_float(image: np.ndarray) -> Tensor:
    """A uint8 image (H, W, 3) as a float32 tensor (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def dihedral(image: Tensor, symmetry: int) -> Tensor:
    """One of the eight symmetries of the square; an overhead image has no up.

    Args:
        image: (C, S, S).
        symmetry: 0 to 3 are quarter turns; 4 to 7 the same after a transposition.
    """
    if symmetry >= 4:
        image = image.transpose(-1, -2)
    return torch.rot90(image, symmetry % 4, dims=(-2, -1))
