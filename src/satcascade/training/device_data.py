"""The images and captions that a run trains on, kept on its device where they fit there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from satcascade.data.latents import StoredLatents
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.text import TextEmbeddings

# Share of the free memory that data may take unasked: the rest is for training.
_SHARE = 0.25
_ROWS_AT_ONCE = 512


class DeviceData:
    """One split of a prepared set, read by rows: uint8 images and float16 caption tokens.

    Resident data are copied to the device once, and rows are picked there. Otherwise the rows are read from
    the memory map and sent.

    Args:
        dataset: prepared images and captions.
        split: which rows.
        device: where batches are needed.
        latents: stored latents to train on in place of the images; all views that are open.
        resident: None decides by the free memory: where images and tokens take at most a quarter of it. On a
            CPU they stay in the memory map then.

    Attributes:
        dataset: what was given.
        split: what was given.
        rows: int64, the rows of the split in the set.
        device: what was given.
        latents: what was given.
        resident: whether the data are on the device.

    Raises:
        UsageError: the split is missing or empty.
        SatcascadeError: the device has no room for data that were to be resident.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        device: torch.device,
        resident: bool | None = None,
        latents: StoredLatents | None = None,
    ):
        self.dataset = dataset
        self.split = split
        self.rows = dataset.indices(split)
        self.device = device
        self.latents = latents
        if len(self.rows) < 1:
            raise UsageError(f"split '{split}' of the prepared set holds no images")
        if resident is None:
            resident = self._bytes() <= _SHARE * _free_memory(device)
        self.resident = resident
        self._views: dict[int, npt.NDArray[np.float16] | Tensor] = dict(latents.views if latents else {})
        self._images: npt.NDArray[np.uint8] | Tensor = dataset.images
        self._tokens: npt.NDArray[np.float16] | Tensor = dataset.embeddings
        # Where the image of a row of the set stands in ``_images``.
        self._place = np.arange(len(dataset))
        if self.resident:
            try:
                if latents is None:
                    self._images = _copied(dataset.images, self.rows, device)
                else:
                    self._views = {
                        number: _copied(view, self.rows, device) for number, view in latents.views.items()
                    }
                self._tokens = _copied(dataset.embeddings, np.arange(len(dataset.embeddings)), device)
            except torch.cuda.OutOfMemoryError as error:
                raise SatcascadeError(
                    f"{self._bytes() / 1e9:.1f} GB of data do not fit in the memory of {device}: "
                    "set training.hardware.resident=false"
                ) from error
            self._place[self.rows] = np.arange(len(self.rows))
        ids = [dataset.records[row].caption_ids for row in self.rows]
        self.caption_counts = np.zeros(len(dataset), dtype=np.int64)
        self.caption_counts[self.rows] = [len(of_one) for of_one in ids]
        self._caption_ids = np.zeros((len(dataset), max(map(len, ids))), dtype=np.int64)
        for row, of_one in zip(self.rows, ids, strict=True):
            self._caption_ids[row, : len(of_one)] = of_one

    def images(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The images of B rows of the split, uint8 (B, S, S, 3), on the device."""
        return self._pick(self._images, self._place[rows])

    def stored_latents(self, rows: npt.NDArray[np.int64], symmetries: npt.NDArray[np.int64]) -> Tensor:
        """The latents of B rows of the split under B symmetries, float32 (B, C, h, w), on the device."""
        assert self.latents is not None
        gathered = torch.empty((len(rows), *self.latents.shape), device=self.device)
        for number in np.unique(symmetries):
            here = np.flatnonzero(symmetries == number)
            picked = self._pick(self._views[int(number)], self._place[rows[here]]).float()
            gathered[self.send(torch.from_numpy(here))] = picked
        return gathered

    def text(
        self, rows: npt.NDArray[np.int64], choice: npt.NDArray[np.int64], multiple: int = 1
    ) -> TextEmbeddings:
        """The embeddings of one caption for each of B rows of the split, on the device.

        Args:
            rows: which images.
            choice: which of each image's captions, from 0.
            multiple: their length L is rounded up to a multiple of it.

        Returns:
            The same as :meth:`PreparedDataset.text`, padded to L.
        """
        offsets, ids = self.dataset.offsets, self._caption_ids[rows, choice]
        lengths = offsets[ids + 1] - offsets[ids]
        position = np.arange(-(-int(lengths.max()) // multiple) * multiple)
        mask = self.send(torch.from_numpy(position < lengths[:, None]))
        tokens = np.minimum(offsets[ids][:, None] + position, offsets[-1] - 1)
        embeddings = self._pick(self._tokens, tokens).float().masked_fill(~mask[..., None], 0.0)
        return TextEmbeddings(embeddings, mask)

    def send(self, tensor: Tensor) -> Tensor:
        """A CPU tensor on the device; a GPU gets it without being waited for."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _pick(self, table: npt.NDArray[np.generic] | Tensor, index: npt.NDArray[np.int64]) -> Tensor:
        if isinstance(table, Tensor):
            return table[self.send(torch.from_numpy(index))]
        return self.send(torch.from_numpy(table[index]))

    def _bytes(self) -> int:
        """What resident data take."""
        tables = [self.dataset.images] if self.latents is None else list(self.latents.views.values())
        each = sum(table[:1].nbytes for table in tables)
        return len(self.rows) * each + self.dataset.embeddings.nbytes


def _copied(table: npt.NDArray[np.generic], rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Rows of a memory-mapped array as a tensor on the device, without a second copy in main memory."""
    kind = torch.from_numpy(np.empty(0, dtype=table.dtype)).dtype
    copied = torch.empty((len(rows), *table.shape[1:]), dtype=kind, device=device)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        copied[start : start + len(block)] = torch.from_numpy(table[block]).to(device)
    return copied


def _free_memory(device: torch.device) -> float:
    """Bytes free on a GPU; 0 on a CPU, and where a device does not say."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0.0
