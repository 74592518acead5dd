"""Time and memory of an evaluation of many images, drawn by script.

    python benchmarks/evaluation_memory.py --images 10000

In a temporary folder: a bundle of so many 256 px images (soft patches of colour, as JPEG files), a prepared
set of few real ones, and an evaluation of everything that needs no download, in this process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from satcascade.data.prepare import prepare
from satcascade.evaluation.run import EvaluationRequest, evaluate

CLASSES = ("Pond", "Desert", "Forest", "Farmland")
SIZE = 256


def picture(number: int) -> Image.Image:
    """Patches of the class's brightness, others for every number."""
    patches = np.random.default_rng(number).integers(0, 128, (8, 8, 3))
    patches += 40 * (number % len(CLASSES))
    return Image.fromarray(patches.clip(0, 255).astype(np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )


def caption(number: int) -> str:
    """A caption that only one row has."""
    return f"a picture of a {CLASSES[number % len(CLASSES)].lower()} , number {number} ."


def write_real(folder: Path, images: int) -> Path:
    """A published set: half of it train, half test."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = []
        for number in range(images):
            own = number + (images if split == "test" else 0)
            name = f"{own:06d}.jpg"
            picture(10**6 + own).save(folder / split / name, quality=90)
            label = CLASSES[own % len(CLASSES)]
            lines.append(json.dumps({"file_name": name, "captions": [caption(own)], "label": label}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_bundle(folder: Path, images: int, real: int) -> Path:
    """Images whose captions are those of the test split, over and over."""
    folder.mkdir()
    for number in range(images):
        picture(number).save(folder / f"{number:06d}.jpg", quality=90)
    captions = [caption(real + number % real) for number in range(images)]
    (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    """Print seconds and the peak of resident memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="generated images")
    parser.add_argument("--real", type=int, default=1000, help="real images of each split")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(write_real(root / "real", arguments.real), root / "prepared", progress=False)
        bundle = write_bundle(root / "bundle", arguments.images, arguments.real)
        start, used = time.monotonic(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metrics = evaluate(EvaluationRequest(bundle, root / "prepared", root / "report"))
        timings = json.loads((root / "report/details.json").read_text(encoding="utf-8"))["timings"]
        seconds, processor = time.monotonic() - start, time.process_time() - used
    for name, value in timings.items():
        print(f"{name:32s} {value:8.1f} s")
    print(f"{'in all':32s} {seconds:8.1f} s, {processor:.1f} s of processor time")
    # Linux counts in units of 1,024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{metrics['n_generated']} generated images, {metrics['n_real']} real: peak {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
