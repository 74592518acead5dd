"""What the switches of training are worth: small base networks that differ in one setting each.

    python benchmarks/ablation.py prepared/rsicd runs/ablation --suite overfitting
    python benchmarks/ablation.py prepared/rsicd runs/ablation --suite recipe

Both train on images averaged down to 32 px, with the package's own trainer, and end with the learning rate at
zero. ``overfitting`` takes 800 training images, so that they are seen a hundred times, and compares the loss
on all validation images at fixed noise. ``recipe`` takes the whole training split and compares pictures, as
losses of different weightings do not compare: Frechet distance (EfficientNet-Lite0, to the validation images
at 32 px) and scene accuracy of 256 validation captions. A second seed of the first row tells how far chance
goes. A variant that is done is not trained again; a killed one goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from satcascade.data.prepared import PreparedDataset
from satcascade.formats.prepared_set import CONTENT_FILES, IMAGES, MANIFEST, RECORDS
from satcascade.io.files import atomic_folder, atomic_write
from satcascade.io.hashing import sha256_of_file
from satcascade.io.tables import markdown_table
from satcascade.training.run import train
from satcascade.training.summary import RunSummary, summarize

SIZE = 32
_NETWORK = "{sample_size: 32, patch_size: 2, widths: [64, 128], blocks: [2, 2], attention: [false, true]}"
_BATCH = 64
# Of both suites, unless a variant says otherwise.
_COMMON = (
    f"base.model={_NETWORK}",
    f"training.batch_size={_BATCH}",
    "training.learning_rate=2e-3",
    "training.warmup_steps=50",
    "training.ema_half_life=2000",
    "training.log_snr_mean=1.5",
    "training.checkpoint_every=200",
    "training.sample_every=0",
    "training.keep_checkpoints=1",
    "sampling.base.guidance=3",
)
_FIRST = "baseline"
_EPSILON = [
    "base.model.preconditioned=false",
    "base.model.prediction_type=epsilon",
    "training.weighting=uniform",
]
SUITES: dict[str, dict[str, Any]] = {
    "overfitting": {
        "images": 800,
        "measures": ["loss"],
        "settings": ["training.validate_every=50", "training.validation_images=2000"],
        "variants": {
            _FIRST: [],
            "baseline, another seed": ["training.seed=1"],
            "without symmetries": ["training.symmetries=false"],
            "first captions only": ["training.all_captions=false"],
            "without weight decay": ["training.weight_decay=0"],
            "dropout 0.1": ["base.model.dropout=0.1"],
            "colour jitter 0.2": ["training.colour_jitter=0.2"],
            "without any of them": [
                "training.symmetries=false",
                "training.all_captions=false",
                "training.weight_decay=0",
            ],
        },
    },
    "recipe": {
        "images": None,
        "measures": ["frechet_distance", "scene_accuracy"],
        "settings": ["training.validate_every=500", "training.validate_samples=256"],
        "variants": {
            _FIRST: [],
            "baseline, another seed": ["training.seed=1"],
            "v, not preconditioned": ["base.model.preconditioned=false", "training.weighting=v"],
            "epsilon, not preconditioned": _EPSILON,
            "x_0 with v's loss, not preconditioned": [
                "base.model.preconditioned=false",
                "base.model.prediction_type=sample",
                "training.weighting=v",
            ],
            "sigmoid weighting": ["training.weighting=sigmoid"],
            "min-SNR weighting": ["training.weighting=min_snr"],
            "v weighting": ["training.weighting=v"],
            "noise levels of log-SNR 1 more": ["training.log_snr_mean=2.5"],
            "noise levels of log-SNR 2 more": ["training.log_snr_mean=3.5"],
            "epsilon, not preconditioned, log-SNR 1 more": [*_EPSILON, "training.log_snr_mean=2.5"],
            "batches of 32, twice the steps": ["training.batch_size=32"],
            "without self-attention": ["base.model.self_attention=false"],
            "AdamW, half the learning rate": ["training.optimizer=adamw", "training.learning_rate=1e-3"],
        },
    },
}


def small_copy(dataset: PreparedDataset, out: Path, images: int | None) -> PreparedDataset:
    """The set at 32 px without its test split, written to ``out`` unless it is there.

    Args:
        dataset: the whole set.
        out: a folder.
        images: how many training images, evenly spread; None is all.
    """
    if not (out / MANIFEST).exists():
        train = dataset.indices("train")
        if images is not None:
            train = train[np.linspace(0, len(train) - 1, min(images, len(train))).astype(int)]
        rows = np.sort(np.concatenate([train, dataset.indices("val")]))
        pixels = dataset.image_size // SIZE
        with atomic_folder(out) as aside:
            smaller = open_memmap(aside / IMAGES, "w+", np.uint8, (len(rows), SIZE, SIZE, 3))
            for place, row in enumerate(rows):
                blocks = dataset.images[row].reshape(SIZE, pixels, SIZE, pixels, 3)
                smaller[place] = blocks.mean(axis=(1, 3)).round()
            smaller.flush()
            lines = (dataset.path / RECORDS).read_text(encoding="utf-8").split("\n")
            (aside / RECORDS).write_text("".join(lines[row] + "\n" for row in rows), encoding="utf-8")
            for name in set(CONTENT_FILES) - {IMAGES, RECORDS}:
                (aside / name).symlink_to((dataset.path / name).resolve())
            hashes = {name: sha256_of_file(aside / name) for name in CONTENT_FILES}
            manifest = dataset.manifest | {
                "image_size": SIZE,
                "images": len(rows),
                "splits": dict(Counter(dataset.records[row].split for row in rows)),
                "files": {
                    name: {"bytes": (aside / name).stat().st_size, "sha256": hashes[name]}
                    for name in CONTENT_FILES
                },
                "hash": hashlib.sha256(json.dumps(hashes).encode()).hexdigest(),
            }
            (aside / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return PreparedDataset.open(out)


def train_variant(data: PreparedDataset, out: Path, settings: list[str], steps: int) -> RunSummary:
    """Train a variant, or what is left of it."""
    overrides = [*_COMMON, f"training.steps={steps}", f"training.decay_steps={steps // 3}", *settings]
    train(["base"], preset="compact", data=data.path, out=out, overrides=overrides, quiet=True)
    (run,) = summarize([out])
    return run


def steps_of(settings: list[str], steps: int) -> int:
    """As many steps as see the images of ``steps`` ordinary batches."""
    batch = next((int(each.partition("=")[2]) for each in settings if "batch_size=" in each), _BATCH)
    return steps * _BATCH // batch


def report(runs: dict[str, RunSummary], measures: list[str]) -> str:
    """A Markdown table of where the runs have come to."""
    heads = ["", "images seen", "training loss", *(f"{measure.replace('_', ' ')}" for measure in measures)]
    if measures == ["loss"]:
        heads[-1:] = ["validation loss", "least", "at images seen"]
    rows = [heads]
    for name, run in runs.items():
        last = run.validations[-1]
        cells = [name, f"{int(run.steps[-1]) * run.batch_size:,}", f"{run.losses[-100:].mean():.4f}"]
        cells += [f"{last[measure]:.4g}" for measure in measures]
        if measures == ["loss"]:
            best = min(run.validations, key=lambda row: row["loss"])
            cells += [f"{best['loss']:.4g}", f"{best['step'] * run.batch_size:,}"]
        rows.append(cells)
    return markdown_table(rows)


def draw(runs: dict[str, RunSummary], measure: str, path: Path) -> None:
    """Curves of a measure over images seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, run in runs.items():
        seen = [row["step"] * run.batch_size for row in run.validations]
        style = "--" if "seed" in name else "-"
        axes.plot(seen, [row[measure] for row in run.validations], style, label=name, linewidth=1.2)
    axes.set(xlabel="images seen", ylabel=f"validation {measure.replace('_', ' ')}")
    if measure == "loss":
        # The first validations are far above all others.
        values = [row["loss"] for run in runs.values() for row in run.validations[2:] or run.validations]
        low, high = min(values), float(np.quantile(values, 0.95))
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with atomic_write(path) as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})


def main() -> None:
    """Train what is missing of a suite and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, help="training images; default: of the suite")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every variant")
    given = parser.parse_args()
    suite = SUITES[given.suite]
    out = given.out / given.suite
    images = given.images or suite["images"]
    data = small_copy(PreparedDataset.open(given.data), out / f"data-{images or 'all'}", images)
    runs: dict[str, RunSummary] = {}
    for name, settings in suite["variants"].items():
        folder = out / name.replace(" ", "-").replace(",", "").replace("'", "")
        chosen = [*suite["settings"], *settings, *given.set]
        runs[name] = train_variant(data, folder, chosen, steps_of(settings, given.steps))
        print(f"{name}: {runs[name].validations[-1]}", flush=True)
        with atomic_write(out / "table.md") as aside:
            aside.write_text(report(runs, suite["measures"]), encoding="utf-8")
        draw(runs, suite["measures"][0], out / "curves.svg")
    print(report(runs, suite["measures"]))


if __name__ == "__main__":
    main()
