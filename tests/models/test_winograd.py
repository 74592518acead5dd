"""Convolutions by Winograd's minimal filtering against direct ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.models.layers import winograd


def _results(convolve, layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    output = convolve(layer, x)
    return [output, *torch.autograd.grad(output, (x, *layer.parameters()), gradient)]


def _case(
    batch: int, channels: int, out: int, height: int, width: int, dtype: torch.dtype, bias: bool = True
) -> tuple[nn.Conv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=bias, dtype=dtype)
    x = torch.randn(batch, channels, height, width, dtype=dtype).to(memory_format=torch.channels_last)
    return layer, x, torch.randn(batch, out, height, width, dtype=dtype)


def _by_winograd(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return winograd._Winograd.apply(x, layer.weight, layer.bias)


_few = st.integers(1, 4)


@given(_few, _few, _few, _few, _few, st.booleans())
def test_it_is_a_convolution(
    batch: int, channels: int, out: int, rows: int, columns: int, bias: bool
) -> None:
    """In float64, with its gradients, for any number of tiles; images need not be square."""
    case = _case(batch, channels, out, 4 * rows, 4 * columns, torch.float64, bias)
    for made, wanted in zip(_results(_by_winograd, *case), _results(nn.Conv2d.__call__, *case), strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-10 * float(wanted.detach().abs().max() + 1))


def test_float32_loses_no_more_than_its_matrices_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number is a sum of products; the sum of their sizes bounds what rounding can do to it."""
    layer, x, _ = _case(2, 96, 64, 16, 16, torch.float32)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    error = (_by_winograd(layer, x).double() - exact).abs()
    for name in ("_TO_IMAGE", "_TO_KERNEL", "_TO_OUTPUT"):
        monkeypatch.setattr(winograd, name, getattr(winograd, name).abs())
    sizes = winograd._Winograd.apply(x.double().abs(), layer.weight.double().abs(), layer.bias.double().abs())
    # Roundings on the longest way: sums over a patch, a kernel, the channels and a patch, and their products.
    roundings = 36 + 9 + 96 + 36 + 8
    assert (error <= roundings * torch.finfo(torch.float32).eps / 2 * sizes).all()
    assert error.max() > 0


@pytest.mark.parametrize(
    ("case", "fast"),
    [
        ((4, 64, 64, 16, 16, torch.float32), True),
        ((4, 64, 64, 16, 18, torch.float32), False),
        ((1, 64, 64, 16, 16, torch.float32), False),
        ((4, 32, 64, 16, 16, torch.float32), False),
        ((4, 64, 64, 16, 16, torch.float64), False),
    ],
)
def test_it_is_taken_where_it_pays(case: tuple, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gradients are those of the layer either way; without gradients it is the layer itself."""
    layer, x, gradient = _case(*case)
    calls = []
    monkeypatch.setattr(winograd._Winograd, "apply", _counting(winograd._Winograd.apply, calls))
    made = _results(winograd.convolve, layer, x, gradient)
    assert len(calls) == fast
    for ours, wanted in zip(made, _results(nn.Conv2d.__call__, layer, x, gradient), strict=True):
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm()
    with torch.no_grad():
        assert torch.equal(winograd.convolve(layer, x), layer(x))
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype is torch.float32):
        assert torch.equal(winograd.convolve(layer, x), layer(x))
    assert len(calls) == fast


def _counting(function, calls: list):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted
