"""What a processor could do: operations counted, and the rate that large ones of the library reach."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def operations(run: Callable[[], object]) -> float:
    """Floating-point operations of a call, two a multiplication: convolutions and matrix products."""
    # Fused attention is not counted, the same in parts is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def attainable(
    dtype: torch.dtype, device: str, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Operations a second of a 3x3 convolution (256 channels at 64x64) and of a large matrix product."""
    convolution = nn.Conv2d(256, 256, 3, padding=1, device=device, dtype=dtype)
    convolution = convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(2, 256, 64, 64, device=device).to(dtype, memory_format=torch.channels_last)
    left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((4096, 1024), (1024, 1024)))
    rates = []
    for run, work in (
        (lambda: convolution(image), 2 * 2 * 64 * 64 * 256 * 256 * 9),
        (lambda: left @ right, 2 * 4096 * 1024 * 1024),
    ):
        seconds = []
        for _ in range(40):
            start = clock()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds.append(clock() - start)
        rates.append(work / min(seconds))
    return rates[0], rates[1]
