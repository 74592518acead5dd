"""What autoencoders cost and what they lose: milliseconds, operations and bytes against reconstruction.

    python benchmarks/codec.py prepared/rsicd RUN/vae [OTHER/vae ...] [--teacher DIR] [--reductions 1 2]
        [--split val] [--every 4] [--against rest] [--threads 2] [--clock wall]

Every so many images of a split go through each autoencoder. PSNR is the mean over them; the
Frechet distance on EfficientNet-Lite0 features is that to the real images of the split that were left out
(``--against rest``: to choose by, nothing of the test split is seen), or to those of another split. The row
"real" is that of the untouched images. Times are medians of one image after the other, in turns, in float32.
``--clock cpu --threads 1`` counts the seconds of processor time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attainable import operations
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.evaluation.measures.distances import frechet
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.io.progress import ProgressDisplay
from satcascade.io.tables import markdown_table
from satcascade.models.codec import LatentCodec
from satcascade.models.levels import to_levels
from satcascade.training.codec.teacher import CHANNELS, TeacherCodec, load_teacher

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TIMED = 12


@dataclass
class Coder:
    """What encodes and decodes, and what was measured of it.

    Attributes:
        name: in the table.
        encode: images (B, 3, S, S) in [-1, 1] to latents.
        decode: latents to images.
        parameters: of both.
        seconds: of encoding and decoding, an image each.
        ratios: PSNR of each image, in dB.
    """

    name: str
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    parameters: int
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    ratios: list[float] = field(default_factory=list)

    def operations(self, image: Tensor) -> tuple[float, float]:
        """GFLOP of encoding and of decoding one image."""
        encoded = self.encode(image)
        return operations(lambda: self.encode(image)) / 1e9, operations(lambda: self.decode(encoded)) / 1e9


class Reconstructed(Sequence[Image.Image]):
    """Images through a coder, each when it is asked for."""

    def __init__(self, dataset: PreparedDataset, rows: np.ndarray, coder: Coder):
        self._dataset, self._rows, self._coder = dataset, rows, coder

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Reconstructed: ...

    @torch.inference_mode()
    def __getitem__(self, index: int | slice) -> Image.Image | Reconstructed:
        if isinstance(index, slice):
            return Reconstructed(self._dataset, self._rows[index], self._coder)
        image = one_image(self._dataset, self._rows[index])
        made = self._coder.decode(self._coder.encode(image)).clamp(-1, 1)
        error = float((made - image).square().mean())
        self._coder.ratios.append(10 * math.log10(4 / max(error, 1e-10)))
        return Image.fromarray(to_levels(made[0]).permute(1, 2, 0).contiguous().numpy())


def one_image(dataset: PreparedDataset, row: int) -> Tensor:
    """An image as (1, 3, S, S) in [-1, 1]."""
    return to_float(torch.from_numpy(dataset.images[[row]]), dataset.image_size)


@torch.inference_mode()
def time_in_turns(coders: list[Coder], image: Tensor, clock: Callable[[], float]) -> None:
    """Time encoding and decoding; the first turn warms up."""
    for turn in range(TIMED + 1):
        for coder in coders:
            work = image
            for step, seconds in zip((coder.encode, coder.decode), coder.seconds, strict=True):
                began = clock()
                work = step(work)
                if turn:
                    seconds.append(clock() - began)


def load(folder: Path) -> Coder:
    """The coder of an autoencoder's folder."""
    codec = LatentCodec.load(folder)
    codec.vae.to(memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in codec.vae.parameters())
    return Coder(f"{folder} ({codec.fingerprint})", codec.encode, codec.decode, parameters)


def taught_by(folder: Path, reduction: int) -> Coder:
    """The teacher as a coder of images averaged down by ``reduction``, enlarged again bicubically."""
    teacher = load_teacher(folder)
    codec = TeacherCodec(teacher, reduction, torch.zeros(CHANNELS), torch.ones(CHANNELS))
    name = f"teacher {folder.name}" + (f" at 1/{reduction} of the side" if reduction > 1 else "")
    return Coder(name, codec.encode, codec.decode, teacher.parameters)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared set")
    parser.add_argument("vae", type=Path, nargs="*", help="folders of autoencoders")
    parser.add_argument("--teacher", type=Path, help="folder of its weights")
    parser.add_argument("--reductions", type=int, nargs="*", default=[1, 2], help="of the teacher's images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--against", default="rest", help="rest, or a split")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset, network = PreparedDataset.open(arguments.data), load_features()
    coders = [load(folder) for folder in arguments.vae]
    if arguments.teacher:
        coders += [taught_by(arguments.teacher, reduction) for reduction in arguments.reductions]
    rows = dataset.indices(arguments.split)
    chosen = np.arange(0, len(rows), arguments.every)
    image = one_image(dataset, rows[0])
    time_in_turns(coders, image, CLOCKS[arguments.clock])

    with ProgressDisplay() as display:
        task = display.task(f"real {arguments.split}", dataset.splits[arguments.split])
        real = real_features(dataset, arguments.split, network, task.advance)
        if arguments.against == "rest":
            reference = real[np.setdiff1d(np.arange(len(rows)), chosen)]
        else:
            task = display.task(f"real {arguments.against}", dataset.splits[arguments.against])
            reference = real_features(dataset, arguments.against, network, task.advance)
        table = [
            ["", "encode ms", "decode ms", "encode GFLOP", "decode GFLOP", "MB in float16", "PSNR", "Frechet"]
        ]
        table.append(["real", "", "", "", "", "", "", f"{frechet(real[chosen], reference):.1f}"])
        for coder in coders:
            task = display.task(coder.name, len(chosen))
            features = network(Reconstructed(dataset, rows[chosen], coder), task.advance)
            milliseconds = [f"{1000 * statistics.median(seconds):.0f}" for seconds in coder.seconds]
            work = [f"{value:.2f}" for value in coder.operations(image)]
            quality = [f"{statistics.mean(coder.ratios):.2f}", f"{frechet(features, reference):.1f}"]
            table.append([coder.name, *milliseconds, *work, f"{coder.parameters * 2e-6:.2f}", *quality])
    print(f"{len(chosen)} images of {arguments.split} against {len(reference)} of {arguments.against}\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main()
