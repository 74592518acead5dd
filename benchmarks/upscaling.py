"""Real tiles, reduced to half and enlarged again: by the super-resolution stage, and bicubically.

    python benchmarks/upscaling.py prepared/rsicd --model models/mine [--split val] [--every 4]
        [--against rest] [--levels 3,6] [--captions] [--steps N]

Every so many images of a split are averaged down to half their side and enlarged again. PSNR is the mean over
them, to the images themselves; the Frechet distance on EfficientNet-Lite0 features is that to the real images
of the split that were left out (``--against rest``: to choose by, nothing of the test split is seen), or to
those of another split. ``--levels`` are log-SNRs of the noise that the network's input is given (the model's
own one is always there); ``--captions`` tells the network each image's first caption too.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from satcascade.config.stage_settings import StageSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.measures.distances import frechet
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.io.progress import ProgressDisplay
from satcascade.io.tables import markdown_table
from satcascade.zoo import load_pipeline

Enlarge = Callable[[Image.Image, int], Image.Image]


def halved(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """An image (S, S, 3) of half the side, each pixel the mean of four."""
    side = len(pixels) // 2
    mean = pixels.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
    return Image.fromarray(mean.round().astype(np.uint8))


def psnr(made: Image.Image, real: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.square(np.asarray(made).astype(np.float64) - real).mean()
    return 10 * math.log10(255**2 / max(float(error), 1e-10))


def bicubic(image: Image.Image, _: int) -> Image.Image:
    """An image of twice the side, by Pillow's bicubic filter."""
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)


def row_of(
    name: str,
    enlarge: Enlarge,
    dataset: PreparedDataset,
    rows: npt.NDArray[np.int64],
    reference: Tensor,
    network: FeatureNetwork,
    display: ProgressDisplay,
) -> list[str]:
    """The cells of a way to enlarge."""
    task = display.task(name, len(rows))
    made, ratios, began = [], [], time.perf_counter()
    for row in rows:
        image = enlarge(halved(dataset.images[row]), int(row))
        ratios.append(psnr(image, dataset.images[row]))
        made.append(image)
        task.advance()
    seconds = (time.perf_counter() - began) / len(rows)
    distance = frechet(network(made), reference)
    return [name, f"{statistics.mean(ratios):.2f}", f"{distance:.1f}", f"{seconds:.2f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared set of twice the side of the model's base images")
    parser.add_argument("--model", required=True, help="one with a super-resolution stage")
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--against", default="rest", help="rest, or a split")
    parser.add_argument("--levels", default="", help="log-SNRs of the input, with commas")
    parser.add_argument("--captions", action="store_true")
    parser.add_argument("--steps", type=int, help="default: the model's")
    given = parser.parse_args()
    pipeline = load_pipeline(given.model)
    pipeline.set_progress_bar_config(disable=True)
    dataset, network = PreparedDataset.open(given.data), load_features()
    rows = dataset.indices(given.split)
    chosen = np.arange(0, len(rows), given.every)

    def by_model(level: float | None) -> Enlarge:
        def enlarge(image: Image.Image, row: int) -> Image.Image:
            caption = dataset.records[row].captions[0] if given.captions else None
            settings = StageSettings(given.steps)
            return pipeline.upscale(image, caption, seed=row, settings=settings, low_res_log_snr=level)

        return enlarge

    ways: dict[str, Enlarge] = {"bicubic": bicubic, f"{pipeline.name}, its own noise": by_model(None)}
    for level in filter(None, given.levels.split(",")):
        ways[f"{pipeline.name}, log-SNR {level}"] = by_model(float(level))
    with ProgressDisplay() as display:
        task = display.task(f"real {given.split}", dataset.splits[given.split])
        real = real_features(dataset, given.split, network, task.advance)
        if given.against == "rest":
            reference = real[np.setdiff1d(np.arange(len(rows)), chosen)]
        else:
            task = display.task(f"real {given.against}", dataset.splits[given.against])
            reference = real_features(dataset, given.against, network, task.advance)
        table = [["", "PSNR, dB", "Frechet", "s an image"]]
        table.append(["real", "", f"{frechet(real[chosen], reference):.1f}", ""])
        for name, enlarge in ways.items():
            table.append(row_of(name, enlarge, dataset, rows[chosen], reference, network, display))
    print(f"{len(chosen)} images of {given.split} against {len(reference)} of {given.against}\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main()
