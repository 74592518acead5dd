"""Products, attention and normalisation on a CPU, with their gradients, where PyTorch's own are slow.

Those of large images work in pieces that fit a CPU's caches, and keep for the backward pass what went in and
nothing else. They compute what :mod:`satcascade.models.rsdiff_unet` writes out operation by operation, and
round otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# Numbers in a piece.
PIECE = 2**21
# Multiplications up to which a linear map is left to PyTorch's default.
_SMALL_PRODUCT = 2**26
# Scores of a head up to which attention need not go in blocks.
_SMALL_ATTENTION = 2**14


def pays(x: Tensor) -> bool:
    """Whether ``x`` lies on a CPU and nothing is being compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def pays_in_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether, besides, both are float32 and are computed with as such."""
    return pays(x) and _is_float32(x, weight) and not torch.is_autocast_enabled("cpu")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, in float32 on a CPU by oneDNN where it is large."""
    small = x.numel() * len(weight) <= _SMALL_PRODUCT
    if small or not pays_in_float32(x, weight):
        return F.linear(x, weight, bias)
    product: Tensor = _Linear.apply(x, weight, bias)
    return product


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax attention of which all heads share keys and values.

    Args:
        query: (B, N, H, D).
        key: (B, M, D).
        value: (B, M, D).
        scale: factor of the products of queries and keys.

    Returns:
        (B, N, H, D).
    """
    attended: Tensor = _Attention.apply(query, key * scale, value)
    return attended


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """``F.scaled_dot_product_attention``; in bfloat16, of small images on a CPU, with a faster backward pass.

    PyTorch's fused kernel takes five times as long there as products and a softmax do.

    Args:
        query: (B, H, N, D).
        key: (B, H, M, D).
        value: (B, H, M, D).
        mask: (B, 1, 1, M) bool, True at the keys that count.

    Returns:
        (B, H, N, D).
    """
    small = query.shape[2] * key.shape[2] <= _SMALL_ATTENTION
    if not (small and query.requires_grad and query.dtype is torch.bfloat16 and pays(query)):
        return F.scaled_dot_product_attention(query, key, value, mask)
    scores = (query * query.shape[3] ** -0.5) @ key.mT
    scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def normalize_silu(x: Tensor, gain: Tensor, shift: Tensor | None, out: Tensor | None = None) -> Tensor:
    """SiLU of positions brought to unit length, times a gain, plus a shift; in float32 whatever the dtype.

    Args:
        x: (B, N, C).
        gain: (B, C).
        shift: (B, C).
        out: like ``x``, where the result goes if no gradient is asked for.

    Returns:
        The same shape and dtype as ``x``.
    """
    if out is not None:
        return _normalize_silu(x, gain, shift, out)
    normalized: Tensor = _NormalizeSiLU.apply(x, gain, shift)
    return normalized


def _is_float32(*tensors: Tensor) -> bool:
    return all(tensor.dtype is torch.float32 for tensor in tensors)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix ``x`` times the transposed ``weight``.

    In float32 PyTorch takes another library than oneDNN for it, which on AMD's processors is 2.4 times
    slower.
    """
    # A private operator, the one that torch.compile calls.
    if _is_float32(x, weight) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        # Of a matrix with gaps between its rows, transposed, oneDNN would use its slowest way.
        return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")
    return F.linear(x, weight, bias)


def _dense(matrix: Tensor) -> Tensor:
    return matrix if matrix.mT.is_contiguous() else matrix.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, len(weight))
        return (
            _product(grad, weight.mT) if of_x else None,
            _product(rows.mT, x.reshape(len(rows), -1).mT) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


class _Attention(torch.autograd.Function):
    """Of keys that are scaled already.

    The backward pass computes the weights again: they are most of the memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        attended = torch.empty_like(query)
        with torch.autocast("cpu", enabled=False):
            for queries, keys, values, out in zip(
                query.flatten(1, 2), key, value, attended.flatten(1, 2), strict=True
            ):
                for some, put in _pieces(len(keys), queries, out):
                    put.copy_(_product(_product(some, keys).softmax(dim=-1), values.mT))
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors
        of_query = torch.empty_like(query)
        # Transposed, as the products below give them.
        of_key, of_value = (torch.zeros_like(part.mT, dtype=torch.float32) for part in (key, value))
        for queries, keys, values, grads, put_query, put_key, put_value in zip(
            query.flatten(1, 2),
            key,
            value,
            grad.flatten(1, 2),
            of_query.flatten(1, 2),
            of_key,
            of_value,
            strict=True,
        ):
            for some, grad_some, put in _pieces(len(keys), queries, grads, put_query):
                weights = _product(some, keys).softmax(dim=-1)
                put_value += _product(grad_some.mT, weights.mT)
                of_weights = _product(grad_some, values)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                put.copy_(_product(of_scores, keys.mT))
                put_key += _product(some.mT, of_scores.mT)
        return of_query, of_key.mT.to(key.dtype), of_value.mT.to(value.dtype)


class _NormalizeSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, gain, shift)
        return _normalize_silu(x, gain, shift, torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift = ctx.saved_tensors
        of_x = torch.empty_like(x)
        of_gain = torch.zeros_like(gain, dtype=torch.float32)
        of_shift = torch.zeros_like(of_gain)
        for index in range(len(x)):
            image_gain = gain[index].float()
            for piece, grad_piece, put in _pieces(4 * x.shape[2], x[index], grad[index], of_x[index]):
                length, unit = _unit(piece)
                sum_ = unit * image_gain
                if shift is not None:
                    sum_ += shift[index].float()
                of_sum = torch.ops.aten.silu_backward(grad_piece.float(), sum_)
                of_shift[index] += of_sum.sum(dim=0)
                of_gain[index] += torch.mul(of_sum, unit, out=sum_).sum(dim=0)
                of_unit = of_sum.mul_(image_gain)
                along = torch.mul(of_unit, unit, out=sum_).sum(dim=1, keepdim=True)
                put.copy_(torch.addcmul(of_unit, unit, along, value=-1, out=of_unit).div_(length))
        return of_x, of_gain.to(gain.dtype), None if shift is None else of_shift.to(shift.dtype)


def _normalize_silu(x: Tensor, gain: Tensor, shift: Tensor | None, out: Tensor) -> Tensor:
    for index in range(len(x)):
        image_gain = gain[index].float()
        for piece, put in _pieces(4 * x.shape[2], x[index], out[index]):
            result = _unit(piece, put if _is_float32(put) else None)[1]
            if shift is None:
                result.mul_(image_gain)
            else:
                torch.addcmul(shift[index].float(), result, image_gain, out=result)
            F.silu(result, inplace=True)
            if result is not put:
                put.copy_(result)
    return out


def _unit(rows: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lengths (N, 1) of rows (N, C), and the rows divided by them, in float32."""
    rows = rows.float()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12)
    return length, torch.div(rows, length, out=out)


def _pieces(width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """As many rows of each tensor at a time as make a piece if ``width`` numbers come of one row."""
    rows = max(1, PIECE // width)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)
