"""The number format a network computes in: which one pays off on a device, and how it is switched on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch

from satcascade.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether ``device`` computes in bfloat16 natively, so that it is faster than float32 there.

    On a CPU that takes AMX or AVX512-BF16; a CPU without them emulates bfloat16, slower than float32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        # Since 2.4 emulation counts as support too, unless it is excluded.
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    # Private names, present since torch 2.6 and 2.5; without them float32 is right, only slower.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def compute_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype of a network's matrix products under a precision setting.

    Args:
        precision: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where it is native.
        device: where the network runs.

    Raises:
        UsageError: another precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"unknown precision '{precision}': choose one of {', '.join(get_args(Precision))}")
    if precision == "bfloat16" or (precision == "auto" and bf16_is_fast(device)):
        return torch.bfloat16
    return torch.float32


def autocast(dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[None]:
    """Compute matrix products and convolutions in ``dtype``; float32 leaves everything as it is."""
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not torch.float32)
