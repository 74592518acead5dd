"""Seconds a picture, and where they go, for a model folder or the built-in weights.

    python benchmarks/sampling_speed.py [--model builtin] [--threads 2]

Every figure is the median of several runs in this process, after one that is not counted; "start to
picture" is a whole ``satcascade sample`` process with an empty output folder, as a user starts it. The second
table tells what a picture's parts compute (operations, two a multiplication), and how much of the rate of a
large 3x3 convolution in the same run they reach: "base" is the picture less its text and its decoding.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from attainable import attainable, operations
from satcascade.hardware.precision import autocast, bf16_is_fast
from satcascade.io.tables import markdown_table
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.zoo import load_pipeline

CAPTION = "many buildings and some green trees are near a river ."


def median_seconds(run: Callable[[], object], runs: int) -> float:
    """Median wall time of ``runs`` calls, after one that is not counted."""
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def guided_step(pipeline: CascadePipeline, precision: str, runs: int) -> float:
    """Seconds of one base network call on a conditional and a null caption."""
    unet = pipeline.unet
    text = pipeline.encode([CAPTION, CAPTION])
    x = torch.randn(2, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    log_snr = torch.zeros(2)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with torch.inference_mode(), autocast(dtype, "cpu"):
        condition = unet.encode_text(text.embeddings, text.mask, torch.tensor([True, False]))
        return median_seconds(lambda: unet(x, log_snr, condition), runs)


def decoding(pipeline: CascadePipeline) -> Callable[[], object]:
    """The way from one image's latents to its pixels."""
    codec, size = pipeline.codec("base"), pipeline.unet.config.sample_size
    latents = torch.randn(1, codec.channels, size, size)
    return torch.inference_mode()(lambda: codec.decode(latents))


def parts(pipeline: CascadePipeline, picture: float, limit: float, runs: int) -> list[list[str]]:
    """Rows of the second table, for a model of one stage.

    Args:
        pipeline: the model.
        picture: seconds of a whole picture.
        limit: operations a second that can be reached.
        runs: of each part.
    """
    work, seconds = {}, {}
    for name, run in (("text", lambda: pipeline.encode([CAPTION])), ("decoding", decoding(pipeline))):
        work[name], seconds[name] = operations(run), median_seconds(run, runs)
    whole = operations(lambda: pipeline([CAPTION], seeds=[0]))
    work["base"], seconds["base"] = whole - sum(work.values()), picture - sum(seconds.values())
    work["a picture"], seconds["a picture"] = whole, picture
    return [
        [
            name,
            f"{work[name] / 1e9:.1f}",
            f"{seconds[name]:.3f}",
            f"{work[name] / seconds[name] / 1e9:.0f}",
            f"{work[name] / seconds[name] / limit:.0%}",
        ]
        for name in ("text", "base", "decoding", "a picture")
    ]


def start_to_picture(model: str, precision: str, runs: int) -> float:
    """Seconds of a whole ``satcascade sample`` process."""

    def once() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "satcascade", "sample", CAPTION, "--out", f"{folder}/out"]
            command += ["--model", model, "--precision", precision, "--quiet"]
            subprocess.run(command, check=True, capture_output=True)

    return median_seconds(once, runs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {arguments.threads} threads"
    )
    precisions = ["float32"] + (["bfloat16"] if bf16_is_fast("cpu") else [])
    rows: dict[str, list[float]] = {}
    tables: list[str] = []
    for precision in precisions:
        pipeline = load_pipeline(arguments.model, device="cpu", precision=precision)
        pipeline.set_progress_bar_config(disable=True)
        cases: dict[str, Callable[[], object]] = {
            "one image": lambda p=pipeline: p([CAPTION], seeds=[0]),  # type: ignore[misc]
        }
        if "sr" in pipeline.stage_names:
            cases["one image, base only"] = lambda p=pipeline: p([CAPTION], seeds=[0], stop_at="base")  # type: ignore[misc]
        for name, run in cases.items():
            rows.setdefault(name, []).append(median_seconds(run, arguments.runs))
        batch = median_seconds(lambda p=pipeline: p([CAPTION] * 8, seeds=list(range(8))), 2)  # type: ignore[misc]
        rows.setdefault("an image in a batch of 8", []).append(batch / 8)
        step = guided_step(pipeline, precision, 2 * arguments.runs)
        rows.setdefault("one guided base step", []).append(step)
        if pipeline.vae is not None:
            seconds = median_seconds(decoding(pipeline), 2 * arguments.runs)
            rows.setdefault("decoding one image", []).append(seconds)
        if "sr" not in pipeline.stage_names:
            limit, _ = attainable(getattr(torch, precision), "cpu")
            found = parts(pipeline, rows["one image"][-1], limit, 2 * arguments.runs)
            head = [precision, "GFLOP", "s", "GFLOP/s", f"of {limit / 1e9:.0f} GFLOP/s"]
            tables.append(markdown_table([head, *found]))
        whole = start_to_picture(arguments.model, precision, min(3, arguments.runs))
        rows.setdefault("start to picture (process)", []).append(whole)
    print(f"{'seconds':30s}" + "".join(f"{precision:>10s}" for precision in precisions) + "     ratio")
    for name, values in rows.items():
        print(
            f"{name:30s}" + "".join(f"{value:10.3f}" for value in values) + f"{values[0] / values[-1]:10.2f}"
        )
    for table in tables:
        print(f"\n{table}")


if __name__ == "__main__":
    main()
