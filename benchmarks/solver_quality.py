"""What few sampling steps cost in quality: solver x steps against Frechet distance, each stage on its own.

    python benchmarks/solver_quality.py [--model builtin] [--stage base sr] [--out runs/solver-quality]
    python benchmarks/solver_quality.py --table       # prints what is there, samples nothing

Captions: the first ones of N rows spread evenly over the validation split, each with the same seed in every
row of a table. ``base`` varies the base stage and leaves super-resolution at the model's defaults; ``sr``
varies super-resolution of one set of base images, those of the model's defaults. Every batch is kept in
``--out``: a stopped run goes on where it was.

Frechet distance: EfficientNet-Lite0 features against all real images of the
validation split. Few images raise it, for all rows alike, so the distance of as many real training images is
printed beside. Its difference to 1,000 steps carries a 95 % interval: 1.96 standard deviations of the
difference over bootstrap draws of the images, the same draws for both rows. RMS: of pixel levels (0 to 255)
of the varied stage's own output, to 1,000 DDIM steps from the same noise; only for solvers of the same
differential equation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from satcascade.data.captions import Captions
from satcascade.data.prepared import PreparedDataset
from satcascade.diffusion.schedulers import set_steps, solver_name, swap_scheduler
from satcascade.diffusion.solvers import SOLVERS
from satcascade.errors import SatcascadeError
from satcascade.evaluation.measures.distances import frechet
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.generation.embeddings import CaptionEmbeddings
from satcascade.generation.jobs import image_seed
from satcascade.io.files import atomic_write
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.zoo import load_pipeline

COMPARED = ("dpm++", "unipc", "dpm++sde", "ddim", "ddpm")
DETERMINISTIC = ("dpm++", "unipc", "ddim")
FEW = (10, 20, 30, 50)
MANY = 1000
TOLERANCE = 2.0
DRAWS = 1000
LEVELS = 65535


@dataclass(frozen=True, order=True)
class Row:
    """A line of a table: how the varied stage is sampled."""

    solver: str
    steps: int

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.solver}-{self.steps}"


def default_row(pipeline: CascadePipeline, stage: str) -> Row:
    """What the model does when it is not told otherwise."""
    base = stage == "base"
    scheduler = pipeline.scheduler if base else pipeline.sr_scheduler
    name = solver_name(scheduler)
    if name in SOLVERS:
        return Row(name, pipeline.config.base_steps if base else pipeline.config.sr_steps)
    raise SatcascadeError(
        f"{stage} scheduler {type(scheduler).__name__} of {pipeline.name} has no short name: save the model "
        f"with one of {', '.join(SOLVERS)}"
    )


def rows_of(default: Row) -> list[Row]:
    """All rows, in the order of sampling: the default, the cheap ones, 1,000 steps."""
    few = [Row(solver, steps) for steps in FEW for solver in COMPARED]
    return list(dict.fromkeys([default, *few, Row("ddim", MANY), Row("ddpm", MANY)]))


class Images:
    """The images of one stage's table, made batch by batch and kept on disk.

    A file a batch: ``pixels`` uint16 (B, S, S, 3), the output of the varied stage, and ``features``
    float64 (B, 1280) of the final 256 px images.
    """

    def __init__(
        self,
        pipeline: CascadePipeline,
        network: torch.nn.Module,
        dataset: PreparedDataset,
        stage: str,
        out: Path,
        count: int,
        batch_size: int,
    ):
        self.pipeline, self.network, self.stage, self.out = pipeline, network, stage, out / stage
        captions = Captions.from_data(dataset.path, "val")
        self.embeddings = CaptionEmbeddings(pipeline, captions)
        self.numbers = spread(len(captions), count)
        self.batch_size = batch_size
        self.schedulers = {"base": pipeline.scheduler, "sr": pipeline.sr_scheduler}
        keep_settings(
            self.out,
            {
                "weights": pipeline.weights_hash,
                "precision": pipeline.precision,
                "data": dataset.hash,
                "images": count,
                "batch_size": batch_size,
            },
        )

    def batches(self) -> Iterator[tuple[str, list[int]]]:
        """File name and caption numbers of each batch."""
        for start in range(0, len(self.numbers), self.batch_size):
            yield f"batch-{start // self.batch_size:03d}.npz", self.numbers[start : start + self.batch_size]

    def make(self, row: Row) -> None:
        """Sample the batches of a row that are not there yet."""
        for name, numbers in self.batches():
            path = self.out / row.folder / name
            if path.exists():
                continue
            start = time.perf_counter()
            if self.stage == "base":
                final, pixels = self._sample("base", row, numbers)
            else:
                base = self._default_base(name, numbers)
                final, _ = self._sample("sr", row, numbers, base)
                pixels = final
            pictures = [Image.fromarray(np.rint(image * 255).astype(np.uint8)) for image in final]
            keep(path, pixels=quantised(pixels), features=self.network(pictures).numpy())
            seconds = (time.perf_counter() - start) / len(numbers)
            now = time.strftime("%H:%M:%S")
            print(
                f"{now} {self.stage} {row.folder} {name}: {seconds:.2f} s/image", file=sys.stderr, flush=True
            )

    def found(self, row: Row) -> dict[str, np.ndarray] | None:
        """``pixels`` (in 0 to 255) and ``features`` of a row; None where batches are missing."""
        paths = [self.out / row.folder / name for name, _ in self.batches()]
        if not all(path.exists() for path in paths):
            return None
        files = [np.load(path) for path in paths]
        found = {key: np.concatenate([file[key] for file in files]) for key in ("pixels", "features")}
        return {**found, "pixels": found["pixels"] * np.float32(255 / LEVELS)}

    def calls(self, row: Row) -> int:
        """Network calls an image; a guided one computes both branches."""
        return len(set_steps(swap_scheduler(self.schedulers[self.stage], row.solver), row.steps))

    def _sample(
        self, stage: str, row: Row, numbers: list[int], base: Tensor | None = None, stop_at: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Final and base images, float32 (B, S, S, 3) in [0, 1]."""
        pipeline, solver = self.pipeline, swap_scheduler(self.schedulers[stage], row.solver)
        pipeline.scheduler = solver if stage == "base" else self.schedulers["base"]
        pipeline.sr_scheduler = solver if stage == "sr" else self.schedulers["sr"]
        made = pipeline(
            prompt_embeds=self.embeddings(numbers),
            seeds=[image_seed(0, number) for number in numbers],
            base_images=base,
            stop_at=stop_at,
            output_type="np",
            **{"num_inference_steps" if stage == "base" else "sr_num_inference_steps": row.steps},
        )
        return made.images, made.base_images

    def _default_base(self, name: str, numbers: list[int]) -> Tensor:
        """The base images that every row of the ``sr`` table starts from, (B, 3, S, S) in [0, 1]."""
        path = self.out / "base-images" / name
        if not path.exists():
            row = default_row(self.pipeline, "base")
            keep(path, pixels=quantised(self._sample("base", row, numbers, stop_at="base")[0]))
        pixels = np.load(path)["pixels"].astype(np.float32) / LEVELS
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def spread(total: int, count: int) -> list[int]:
    """``count`` of the numbers 0 ... total - 1, evenly."""
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def quantised(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint16."""
    return np.rint(images * LEVELS).astype(np.uint16)


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a file that appears whole."""
    with atomic_write(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)


def keep_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Write the settings down, or refuse a folder that was made with others."""
    path = folder / "settings.json"
    if not path.exists():
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(settings, indent=1))
        return
    there = json.loads(path.read_text())
    for key, value in settings.items():
        if there.get(key) != value:
            raise SatcascadeError(
                f"{folder} was made with {key} {there.get(key)}, not {value}: give another --out"
            )


def bootstrap(found: Tensor, real: Tensor, draws: Tensor) -> Tensor:
    """Frechet distances (R,) of the rows ``draws`` (R, N) of found features (N, D) to real ones (M, D)."""
    count = len(found)
    x = found - real.mean(0)
    projected = x @ ((real - real.mean(0)) / (len(real) - 1) ** 0.5).T
    plain, crossed = x @ x.T, projected @ projected.T
    distances = []
    for draw in draws:
        inner, outer = plain[draw][:, draw], crossed[draw][:, draw]
        mean = inner.mean()
        trace = (inner.trace() - count * mean) / (count - 1)
        centred = outer - outer.mean(0) - outer.mean(1, keepdim=True) + outer.mean()
        # Singular values squared of `frechet`, from an N x N matrix instead of N x M.
        root = (torch.linalg.eigvalsh(centred).clamp(min=0) / (count - 1)).sqrt().sum()
        distances.append(mean + trace - 2 * root)
    return torch.stack(distances) + torch.cov(real.T).trace()


def print_table(images: Images, rows: Sequence[Row], default: Row, real: Tensor, floor: float) -> None:
    """The rows that are whole, as a Markdown table, and which is the cheapest one that is good enough."""
    whole = {row: found for row in sorted(rows) if (found := images.found(row)) is not None}
    embedded = {row: torch.from_numpy(found["features"]) for row, found in whole.items()}
    distance = {row: frechet(found, real) for row, found in embedded.items()}
    count = len(images.numbers)
    print(f"\nstage {images.stage}, {count} images against {len(real)} real ones", end="")
    print(f" ({count} real training images: {floor:.1f})\n")
    draws = torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(0))
    drawn = {row: bootstrap(found, real, draws) for row, found in embedded.items()}
    references = [row for row in whole if row.steps == MANY]
    best = min(references, key=lambda row: distance[row], default=None)
    print("| solver | steps | calls | Frechet distance | against 1,000 steps, % | RMS to 1,000 DDIM steps |")
    print("|---|---|---|---|---|---|")
    ode = whole.get(Row("ddim", MANY))
    good: list[Row] = []
    for row, found in whole.items():
        against = rms = ""
        if best is not None and row != best:
            percent = 100 / distance[best]
            difference = percent * (distance[row] - distance[best])
            error = 1.96 * percent * float((drawn[row] - drawn[best]).std())
            against = f"{difference:+.1f} ± {error:.1f}"
            if difference <= TOLERANCE:
                good.append(row)
        if ode is not None and row.solver in DETERMINISTIC and found is not ode:
            rms = f"{np.sqrt(np.square(found['pixels'] - ode['pixels']).mean(dtype=np.float64)):.2f}"
        mark = " (default)" if row == default else ""
        print(
            f"| {row.solver}{mark} | {row.steps} | {images.calls(row)} | {distance[row]:.1f} "
            f"| {'reference' if row == best else against} | {rms} |"
        )
    print()
    if missing := [row.folder for row in rows if row not in whole]:
        print(f"not whole yet: {', '.join(missing)}")
    if good:
        calls = min(images.calls(row) for row in good)
        names = ", ".join(f"{row.solver} {row.steps}" for row in good if images.calls(row) == calls)
        print(f"cheapest within {TOLERANCE:g} % of 1,000 steps: {names}")


def main() -> None:
    """Sample what is missing, then print a table a stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--data", type=Path, default=Path("prepared/rsicd"), help="prepared set")
    parser.add_argument("--stage", nargs="+", choices=("base", "sr"), help="default: those that there are")
    parser.add_argument("--base-images", type=int, default=64, help="images a row of the base table")
    parser.add_argument("--sr-images", type=int, default=32, help="images a row of the sr table")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("runs/solver-quality"))
    parser.add_argument("--table", action="store_true", help="print the rows that are whole, sample nothing")
    arguments = parser.parse_args()
    dataset = PreparedDataset.open(arguments.data)
    network = load_features()
    real, train = (real_features(dataset, split, network) for split in ("val", "train"))
    pipeline = load_pipeline(arguments.model, device=arguments.device, precision=arguments.precision)
    pipeline.set_progress_bar_config(disable=True)
    for stage in arguments.stage or pipeline.stage_names:
        count = arguments.base_images if stage == "base" else arguments.sr_images
        images = Images(pipeline, network, dataset, stage, arguments.out, count, arguments.batch_size)
        default = default_row(pipeline, stage)
        rows = rows_of(default)
        if not arguments.table:
            for row in rows:
                images.make(row)
        floor = frechet(train[spread(len(train), count)], real)
        print_table(images, rows, default, real, floor)


if __name__ == "__main__":
    try:
        main()
    except SatcascadeError as error:
        sys.exit(f"error: {error}")
