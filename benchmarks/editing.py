"""What inpainting and growing are worth: their seams, and whether what is made shows what its caption says.

    python benchmarks/editing.py prepared/rsicd [--model builtin] [--images 100] [--resampling 1 3]
        [--tables seams growth scene] [--steps N]

Rows spread evenly over the validation split, the first caption of each, a seed each. Up to three tables:

Seams. A box of half the side, at a random place of each real image, is remade by the image's caption.
Gradient: mean absolute difference of neighbouring pixels (levels of 255) across a line; at the box's edge,
and the largest over the lines from the edge to ``LINES`` pixels inside, where a soft edge may have moved it.
Beside it the same of real images and of text to image at other random boxes (what there is without a seam),
and of text to image pasted into the box without blending. With 95 % intervals over images; the ratio is to
real images. "As made": without colours shifted to meet at the edge.

Growth. The left half of each real image grows to the right by its caption: the same gradients across the
join, and across lines further right. "Pasted": the right half of text to image beside it.

Scene. The right half of each real image is remade by its caption. Accuracy of a linear probe of scene classes
(EfficientNet-Lite0 features of all real training images) on the whole pictures, and on their right halves
alone; beside it real images and whole generated pictures of the same captions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe, class_names, label_numbers
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.generation.jobs import image_seed
from satcascade.io.tables import markdown_table
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.training.samples import spread
from satcascade.zoo import load_pipeline

LINES = 12

Pictures = npt.NDArray[np.uint8]
# Left and top of each box, (N, 2).
Boxes = npt.NDArray[np.int64]


def main() -> None:
    """Print the tables."""
    given = _arguments()
    data = PreparedDataset.open(given.data)
    rows = spread(data.indices(given.split), given.images)
    real = np.stack([np.array(data.images[row]) for row in rows])
    captions = [data.records[row].captions[0] for row in rows]
    pipeline = load_pipeline(given.model, device=given.device, precision=given.precision)
    pipeline.set_progress_bar_config(disable=True)

    settings: dict[StageName, StageSettings] = {
        name: StageSettings(given.steps) for name in pipeline.stage_names
    }

    def make(**options: Any) -> Pictures:
        return made(pipeline, captions, given.batch_size, settings=settings, **options)

    def grow(known: Pictures, **options: Any) -> Pictures:
        return grown(pipeline, known, captions, settings=settings, **options)

    generated = make()
    if "seams" in given.tables:
        print(markdown_table(seam_table(real, generated, make, given.resampling)), flush=True)
    if "growth" in given.tables:
        print(markdown_table(growth_table(real, generated, grow, given.resampling)), flush=True)
    if "scene" in given.tables:
        labels = [record.label for record in data.records]
        pictures = {
            "real images": real,
            "text to image": generated,
            **halves(real, make, given.resampling),
        }
        print(markdown_table(scene_table(data, labels, [labels[row] for row in rows], pictures)), flush=True)


def made(
    pipeline: CascadePipeline, captions: Sequence[str], batch_size: int, **options: Sequence[Any] | Any
) -> Pictures:
    """A picture of each caption, (N, S, S, 3); ``image`` and ``mask_image`` hold one of each."""
    found = []
    for start in range(0, len(captions), batch_size):
        part = slice(start, start + batch_size)
        numbers = range(len(captions))[part]
        cut = {
            key: value[part] if key in ("image", "mask_image") else value for key, value in options.items()
        }
        output: Any = pipeline(captions[part], seeds=[image_seed(0, number) for number in numbers], **cut)
        found += [np.asarray(image) for image in output.images]
    return np.stack(found)


def grown(pipeline: CascadePipeline, known: Pictures, captions: Sequence[str], **options: Any) -> Pictures:
    """Pictures (N, S, W, 3) grown to the right by what they lack to squares."""
    right = known.shape[1] - known.shape[2]
    return np.stack(
        [
            np.asarray(
                pipeline.extend(
                    Image.fromarray(picture), caption, right=right, seed=image_seed(0, number), **options
                )
            )
            for number, (picture, caption) in enumerate(zip(known, captions, strict=True))
        ]
    )


def seam_table(
    real: Pictures, generated: Pictures, make: Callable[..., Pictures], resampling: Sequence[int]
) -> list[list[str]]:
    """Gradients at the edges of boxes of half the side."""
    size = real.shape[1]
    side = size // 2
    boxes, others = (random_boxes(len(real), size, side, seed) for seed in (0, 1))
    masks = box_masks(boxes, size, side)
    profiles = {
        "real images, random lines": edge_gradients(real, others, side),
        "text to image, random lines": edge_gradients(generated, others, side),
        "pasted without blending": edge_gradients(np.where(masks[..., None], generated, real), boxes, side),
    }
    for count in resampling:
        for name, options in (
            ("", {}),
            (", as made", {"seamless": False}),
            (", hard edge", {"feather": 0}),
            (", hard edge, as made", {"feather": 0, "seamless": False}),
        ):
            pictures = make(image=real, mask_image=masks, resampling=count, **options)
            assert np.array_equal(pictures[~masks], real[~masks]), "pixels outside of the mask have changed"
            profiles[f"inpainted, resampling {count}{name}"] = edge_gradients(pictures, boxes, side)
    return gradient_table(profiles)


def growth_table(
    real: Pictures, generated: Pictures, grow: Callable[..., Pictures], resampling: Sequence[int]
) -> list[list[str]]:
    """Gradients at the join of the left half of pictures and what it has grown by."""
    size = real.shape[1]
    join = np.full(len(real), size // 2)
    others = np.random.default_rng(2).integers(1, size - LINES, len(real))
    known = np.ascontiguousarray(real[:, :, : size // 2])
    profiles = {
        "real images, random lines": line_gradients(real, others),
        "text to image, random lines": line_gradients(generated, others),
        "pasted": line_gradients(np.concatenate([known, generated[:, :, size // 2 :]], axis=2), join),
    }
    for count in resampling:
        for name, seamless in (("", True), (", as made", False)):
            pictures = grow(known, resampling=count, seamless=seamless)
            assert np.array_equal(pictures[:, :, : size // 2], known), "pixels of the picture have changed"
            profiles[f"grown, resampling {count}{name}"] = line_gradients(pictures, join)
    return gradient_table(profiles)


def gradient_table(profiles: Mapping[str, npt.NDArray[np.float64]]) -> list[list[str]]:
    """Profiles (N, LINES + 1) by their names, the first of which is that of real images."""
    table = [["", "at the edge", "ratio", f"largest of {LINES + 1} lines", "ratio"]]
    reference = next(iter(profiles.values()))
    for name, profile in profiles.items():
        line = int(profile.mean(0).argmax())
        cells = []
        for found, real_ones in (
            (profile[:, 0], reference[:, 0]),
            (profile[:, line], reference[:, int(reference.mean(0).argmax())]),
        ):
            cells += [
                f"{found.mean():.2f} +- {_interval(found):.2f}",
                f"{found.mean() / real_ones.mean():.2f}",
            ]
        table.append([name, *cells])
    return table


def halves(real: Pictures, make: Callable[..., Pictures], resampling: Sequence[int]) -> dict[str, Pictures]:
    """The right half of each image remade by its caption."""
    mask = np.zeros(real.shape[:3], dtype=bool)
    mask[:, :, real.shape[2] // 2 :] = True
    return {
        f"right half inpainted, resampling {count}": make(image=real, mask_image=mask, resampling=count)
        for count in resampling
    }


def scene_table(
    data: PreparedDataset,
    labels: Sequence[str | None],
    expected: Sequence[str | None],
    pictures: Mapping[str, Pictures],
) -> list[list[str]]:
    """Accuracy of the probe on pictures of the classes ``expected``, and on their right halves."""
    network, classes = load_features(), class_names(labels)
    train = [labels[row] for row in data.indices("train")]
    known = LabelledFeatures(real_features(data, "train", network), label_numbers(train, classes))
    probe = LinearProbe(known, len(classes))
    numbers = label_numbers(expected, classes)

    def accuracy(shown: Pictures) -> str:
        features = network([Image.fromarray(picture) for picture in shown])
        return f"{probe.accuracy(LabelledFeatures(features, numbers)):.3f}"

    return [
        ["", "scene accuracy", "of the right half alone"],
        *(
            [name, accuracy(shown), accuracy(np.ascontiguousarray(shown[:, :, shown.shape[2] // 2 :]))]
            for name, shown in pictures.items()
        ),
    ]


def random_boxes(count: int, size: int, side: int, seed: int) -> Boxes:
    """Left and top of boxes whose four edges lie inside of the image."""
    return np.random.default_rng(seed).integers(1, size - side, (count, 2))


def box_masks(boxes: Boxes, size: int, side: int) -> npt.NDArray[np.bool_]:
    """Masks (N, S, S) of boxes."""
    masks = np.zeros((len(boxes), size, size), dtype=bool)
    for mask, (left, top) in zip(masks, boxes, strict=True):
        mask[top : top + side, left : left + side] = True
    return masks


def edge_gradients(pictures: Pictures, boxes: Boxes, side: int) -> npt.NDArray[np.float64]:
    """Mean absolute difference across lines along the four edges of each box.

    Returns:
        (N, LINES + 1): across the edge itself, then across lines 1, 2, ... pixels further inside.
    """
    found = np.empty((len(pictures), LINES + 1))
    for number, (left, top) in enumerate(boxes):
        picture = pictures[number].astype(float)
        rows, columns = slice(top, top + side), slice(left, left + side)
        # Between pixel i and pixel i + 1.
        down, across = np.abs(np.diff(picture, axis=0)), np.abs(np.diff(picture, axis=1))
        for depth in range(LINES + 1):
            lines = (
                across[rows, left - 1 + depth],
                across[rows, left + side - 1 - depth],
                down[top - 1 + depth, columns],
                down[top + side - 1 - depth, columns],
            )
            found[number, depth] = np.mean([line.mean() for line in lines])
    return found


def line_gradients(pictures: Pictures, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean absolute difference across a vertical line of each picture, left of a column.

    Returns:
        (N, LINES + 1): across the line itself, then across those 1, 2, ... pixels further right.
    """
    found = np.empty((len(pictures), LINES + 1))
    for number, column in enumerate(columns):
        part = pictures[number, :, column - 1 : column + LINES + 1].astype(float)
        found[number] = np.abs(np.diff(part, axis=1)).mean(axis=(0, 2))
    return found


def _interval(values: npt.NDArray[np.float64]) -> float:
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a prepared set of the model's image size")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--resampling", type=int, nargs="+", default=[1])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, help="of each stage; default: the model's")
    tables = ("seams", "growth", "scene")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables[:2])
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
