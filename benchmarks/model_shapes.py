"""What other shapes of the compact networks would cost: operations, seconds a step, training images a second.

    python benchmarks/model_shapes.py [--stage base] [--threads 2] [--device cpu] [--clock wall]

Every shape is the network of the ``compact`` preset with some of its settings changed. The shapes take turns,
so that a machine that slows down slows all of them; figures are medians. ``--clock cpu --threads 1`` counts
the seconds of processor time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attainable import operations
from satcascade.config.preset import load_preset
from satcascade.hardware.precision import autocast, bf16_is_fast
from satcascade.models.registry import build_model

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOKENS = 20
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "base": {
        "preset": {},
        "wider first level": {"widths": [128, 192, 256]},
        "patches of 2": {
            "patch_size": 2,
            "widths": [64, 96, 192, 320],
            "blocks": [1, 2, 2, 2],
            "attention": [False, False, False, True],
        },
        "patches of 8": {"patch_size": 8, "widths": [192, 256], "blocks": [2, 3], "attention": [False, True]},
        "attention at 16x16 too": {"attention": [False, True, True]},
        "deeper": {"widths": [96, 160, 256], "blocks": [3, 3, 3]},
        "detail level": {"detail_width": 64},
        "detail level of two blocks": {"detail_width": 64, "detail_blocks": 2},
    },
    "sr": {
        "preset": {},
        "wider first level": {"widths": [96, 128, 160]},
        "patches of 2": {
            "patch_size": 2,
            "widths": [32, 64, 128, 192],
            "blocks": [1, 2, 2, 2],
            "attention": [False, False, False, True],
        },
        "patches of 8": {"patch_size": 8, "widths": [128, 160], "blocks": [2, 2], "attention": [False, True]},
    },
}


class Shape:
    """One network and the inputs that it is timed on."""

    def __init__(self, stage: str, changes: dict[str, Any], arguments: argparse.Namespace):
        settings = getattr(load_preset("compact"), stage)
        model = settings.model.model_validate(settings.model.model_dump() | changes)
        torch.manual_seed(0)
        self.unet: Any = build_model(model).to(arguments.device, memory_format=torch.channels_last)
        self.side = {
            "sampling": model.sample_size,
            "training": settings.training.augmentation.crop or model.sample_size,
        }
        self.batch = arguments.batch_size
        self.device, self.clock = arguments.device, CLOCKS[arguments.clock]
        self.seconds: dict[str, list[float]] = {}

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.unet.parameters())

    def inputs(self, count: int, side: int) -> tuple[Tensor, ...]:
        """Arguments of the network."""
        image = torch.randn(count, 3, side, side, device=self.device)
        level = torch.zeros(count, device=self.device)
        embeddings = torch.randn(count, TOKENS, self.unet.config.text_dim, device=self.device)
        mask = torch.ones(count, TOKENS, dtype=torch.bool, device=self.device)
        text = self.unet.encode_text(embeddings, mask, torch.arange(count, device=self.device) % 2 == 0)
        return (image, level, text, *((image, level) if self.unet.config.low_res else ()))

    def operations(self) -> float:
        """Floating-point operations (two a multiplication) of a guided step of one image."""
        return operations(lambda: self.unet(*self.inputs(2, self.side["sampling"])))

    def time(self, name: str, run: Callable[[], object]) -> None:
        """Run once and keep the seconds."""
        start = self.clock()
        run()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.seconds.setdefault(name, []).append(self.clock() - start)

    def sample(self, dtype: torch.dtype) -> None:
        """Time a guided step of one image."""
        self.unet.eval()
        with torch.inference_mode(), autocast(dtype, self.device):
            inputs = self.inputs(2, self.side["sampling"])
            self.time(f"step {dtype}", lambda: self.unet(*inputs))

    def train(self, dtype: torch.dtype) -> None:
        """Time forward and backward of a training batch."""
        self.unet.train()

        def run() -> None:
            # Fused attention's backward is slow on a CPU, so the trainer leaves it out there too.
            with autocast(dtype, self.device), sdpa_kernel(SDPBackend.MATH):
                self.unet(*self.inputs(self.batch, self.side["training"])).square().mean().backward()
            self.unet.zero_grad(set_to_none=True)

        self.time("training", run)

    def median(self, name: str) -> float:
        """Median seconds; the first run warmed up."""
        return statistics.median(self.seconds[name][1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=SHAPES, default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    half = torch.bfloat16 if bf16_is_fast(arguments.device) else torch.float32
    shapes = {
        name: Shape(arguments.stage, given, arguments) for name, given in SHAPES[arguments.stage].items()
    }
    for turn in range(arguments.runs + 1):
        for shape in shapes.values():
            for _ in range(5 if turn else 1):
                shape.sample(torch.float32)
                shape.sample(torch.bfloat16)
            shape.train(half)
    side = shapes["preset"].side["training"]
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads, {arguments.clock} time "
        f"(training in {half}, batches of {arguments.batch_size} at {side} px)\n"
    )
    print(
        "| shape | parameters, M | GFLOP a guided step | step, float32 (ms) | bfloat16 (ms) "
        "| training images/s |"
    )
    print("|---|---|---|---|---|---|")
    for name, shape in shapes.items():
        steps = [1000 * shape.median(f"step {dtype}") for dtype in (torch.float32, torch.bfloat16)]
        rate = arguments.batch_size / shape.median("training")
        print(
            f"| {name} | {shape.parameters / 1e6:.1f} | {shape.operations() / 1e9:.1f} "
            f"| {steps[0]:.0f} | {steps[1]:.0f} | {rate:.1f} |"
        )


if __name__ == "__main__":
    main()
