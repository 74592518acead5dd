"""Scenes: how visible the windows' borders are, and what size costs.

    python benchmarks/scenes.py [--model builtin] [--size 1024x768] [--captions 2] [--seeds 2]
        [--overlaps 0.5,0.25,0] [--steps N] [--costs 512x512,1024x1024,2048x2048] [--scheduler NAME]

Seams: the mean absolute difference of neighbouring pixels across the borders of windows, of all stages, over
that at all other places (ratio 1: no trace of a border). A network that works on patches of pixels leaves
their grid in every picture, of one window too, and borders lie on it: "on the grid" is the ratio to the other
lines of that grid alone, which a seam would be seen by. "Half way" is the ratio of lines half way between two
borders, where no window ends, to all others: how far from 1 it comes without a seam. "Edges of a tile" is the
ratio where right and left, lower and upper edges meet when a scene is repeated 2x2, on the grid. Costs: wall
time and peak resident memory of a process of its own, all of it.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.io.tables import markdown_table
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.scene import Scene, SceneSettings
from satcascade.zoo import load_pipeline

CAPTIONS = (
    "a river winds through dense forest",
    "many buildings and some green trees are in a dense residential area",
    "pieces of farmland are separated by a road",
    "a piece of yellow desert with dunes",
)
_CHILD = """
import resource, sys, time
from satcascade.cli import main
began = time.perf_counter()
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{time.perf_counter() - began:.1f} {peak:.2f}")
"""


def borders(plan: Scene, axis: int) -> set[int]:
    """Where windows begin or end along an axis of a picture: numbers of the pixels after each border."""
    length = plan.size[axis]
    found: set[int] = set()
    for stage in plan.stages:
        windows = plan.windows(stage)[axis]
        cell = plan.reduction(stage) * stage.codec.factor
        found |= {place * cell for start in windows.starts for place in (start, start + windows.size)}
    if plan.settings.wrap:
        found = {place % length for place in found}
    return {place for place in found if 0 < place < length}


def grid(plan: Scene) -> int:
    """Pixels a side of the largest patch that the networks of a scene work on."""
    cells = (
        plan.reduction(stage) * stage.codec.factor * int(stage.denoiser.config.get("patch_size", 1))
        for stage in plan.stages
    )
    return math.lcm(*cells)


def ratio(picture: npt.NDArray[np.uint8], places: Sequence[set[int]], every: int = 1) -> float:
    """The mean gradient across lines of a picture over that at all others, both axes together.

    Args:
        picture: (H, W, 3).
        places: for rows and columns, the numbers of the pixels after each line.
        every: compare with lines whose number this divides.
    """
    across: list[npt.NDArray[np.float64]] = []
    elsewhere: list[npt.NDArray[np.float64]] = []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis))
        by_line = steps.mean(axis=(1 - axis, 2))
        chosen = np.zeros(len(by_line), bool)
        chosen[[place - 1 for place in places[axis]]] = True
        numbers = np.arange(1, len(by_line) + 1)
        across.append(by_line[chosen])
        elsewhere.append(by_line[~chosen & (numbers % every == 0)])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def seams(
    pipeline: CascadePipeline,
    size: tuple[int, int],
    overlap: float,
    wrap: bool,
    pictures: Sequence[tuple[str, int]],
    settings: dict[StageName, StageSettings],
) -> dict[str, list[float]]:
    """Ratios of scenes of captions and seeds, by the heads of the table."""
    plan = Scene(pipeline.prepare(settings), size, SceneSettings(overlap=overlap, wrap=wrap))
    lines = [borders(plan, axis) for axis in (0, 1)]
    # Half way between two borders, where no window of either stage ends.
    others = [
        {(before + after) // 2 for before, after in pairwise(line)} - set(line) for line in map(sorted, lines)
    ]
    names = ("borders", "borders, on the grid", "half way", "edges of a tile, on the grid")
    found: dict[str, list[float]] = {name: [] for name in names}
    cell = grid(plan)
    for caption, seed in pictures:
        made = pipeline.scene(caption, size, seed=seed, overlap=overlap, wrap=wrap, settings=settings)
        picture = np.asarray(made)
        tiled = np.tile(picture, (2, 2, 1))
        values = [ratio(picture, lines) if any(lines) else math.nan]
        values.append(ratio(picture, lines, cell) if any(lines) else math.nan)
        values.append(ratio(picture, others) if any(others) else math.nan)
        values.append(ratio(tiled, [{size[0]}, {size[1]}], cell))
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
    return found


def cost(model: str, size: str, options: Sequence[str]) -> tuple[float, float]:
    """Seconds and GB of a ``satcascade scene`` process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _CHILD, "scene", CAPTIONS[0], "--size", size, "--model", model]
        command += ["--device", "cpu", "--quiet", "--out", f"{folder}/out", *options]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, printed.split())
    return seconds, peak


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--size", default="1024x768", help="of the scenes whose seams are measured")
    parser.add_argument("--captions", type=int, default=2, help="so many of its captions")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--overlaps", default="0.5,0.25,0")
    parser.add_argument("--steps", type=int, help="of both stages; default: the model's")
    parser.add_argument("--scheduler")
    parser.add_argument("--costs", default="", help="sizes whose time and memory are measured")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    setting = StageSettings(given.steps, None, given.scheduler)
    pipeline = load_pipeline(given.model, device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    pictures = [(caption, seed) for caption in CAPTIONS[: given.captions] for seed in range(given.seeds)]
    rows: list[list[str]] = []
    for overlap in map(float, given.overlaps.split(",")):
        for wrap in (False, True):
            began = time.perf_counter()
            found = seams(
                pipeline, (height, width), overlap, wrap, pictures, {"base": setting, "sr": setting}
            )
            seconds = (time.perf_counter() - began) / len(pictures)
            rows = rows or [["overlap", "wrap", *found, "s a scene"]]
            cells = [f"{np.mean(each):.3f}" for each in found.values()]
            rows.append([f"{overlap:g}", "yes" if wrap else "no", *cells, f"{seconds:.1f}"])
            print(rows[-1], flush=True)
    print(f"\n{given.size}, {len(pictures)} scenes a row\n\n{markdown_table(rows)}")
    if given.costs:
        options = ["--steps", str(given.steps)] if given.steps else []
        options += ["--scheduler", given.scheduler] if given.scheduler else []
        table = [["size", "s", "peak memory, GB"]]
        for size in given.costs.split(","):
            seconds, peak = cost(given.model, size, options)
            table.append([size, f"{seconds:.0f}", f"{peak:.2f}"])
            print(table[-1], flush=True)
        print(f"\n{markdown_table(table)}")


if __name__ == "__main__":
    main()
