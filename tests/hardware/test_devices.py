"""Which device is chosen, and which are refused."""

from __future__ import annotations

import pytest
import torch

from satcascade.errors import UsageError
from satcascade.hardware.devices import pick_device
from satcascade.hardware.precision import autocast, bf16_is_fast, compute_dtype


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type in ("cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto").type == "cuda"


def test_a_device_that_is_not_there_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:7", "abacus"):
        with pytest.raises(UsageError) as refused:
            pick_device(name)
        assert "\n" not in str(refused.value)
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_where_it_is_native(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: fast, raising=False)
    assert bf16_is_fast("cpu") == fast
    assert compute_dtype("auto", "cpu") == (torch.bfloat16 if fast else torch.float32)
    assert compute_dtype("bfloat16", "cpu") == torch.bfloat16
    assert compute_dtype("float32", "cpu") == torch.float32
    with pytest.raises(UsageError, match="unknown precision 'float8'"):
        compute_dtype("float8", "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_computed_in_the_precision(dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(dtype, "cpu"):
        assert (x @ x).dtype == dtype
