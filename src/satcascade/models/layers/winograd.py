"""3 x 3 convolutions in training on a CPU, by Winograd's minimal filtering, F(4 x 4, 3 x 3).

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", https://arxiv.org/abs/1509.09308.
Tiles of 6 x 6 positions, which overlap by two, are taken to a space where a convolution is a product of
matrices for each of 36 places, with a quarter of the multiplications; outputs come as tiles of 4 x 4. The
same holds backwards, for the gradients of images and of kernels, which oneDNN computes at half the rate of
its forward pass.

The matrices hold numbers from 1/24 to 8, so that float32 rounds some ten times as much as a direct
convolution does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from satcascade.models.layers.cpu import pays_in_float32

_TILE = 4
_PATCH = 6
# Below this many channels or tiles the way there and back costs more than it saves.
_CHANNELS = 64
_TILES = 64

# B^T, G and A^T of Lavin and Gray, section 4.3.
_IMAGE: list[list[float]] = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_KERNEL: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT: list[list[float]] = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]


def _both_sides(matrix: list[list[float]]) -> Tensor:
    """What takes a flattened patch P to the flattened M P M^T."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)


_TO_IMAGE = _both_sides(_IMAGE)  # (36, 36)
_TO_KERNEL = _both_sides(_KERNEL)  # (36, 9)
_TO_OUTPUT = _both_sides(_OUTPUT)  # (16, 36)


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What a 3 x 3 convolution of stride and padding 1 makes of x (B, C, H, W).

    Where gradients are wanted and it pays (float32 on a CPU, H and W multiples of 4, enough channels and
    positions) in Winograd's way, otherwise by the layer itself.
    """
    batch, _, height, width = x.shape
    tiles = batch * height * width // _TILE**2
    weight = convolution.weight
    wins = min(weight.shape[:2]) >= _CHANNELS and tiles >= _TILES and not (height % _TILE or width % _TILE)
    if not (wins and torch.is_grad_enabled() and pays_in_float32(x, weight)):
        return convolution(x)
    convolved: Tensor = _Winograd.apply(x, weight, convolution.bias)
    return convolved


class _Winograd(torch.autograd.Function):
    """The convolution. T tiles, C channels in, O out."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, channels, height, width = x.shape
        images = (_TO_IMAGE.to(x) @ _patches(x)).view(36, -1, channels)
        kernels = (_TO_KERNEL.to(x) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, -1)
        products = torch.bmm(images, kernels)
        ctx.save_for_backward(images, kernels)
        ctx.size = (batch, height, width)  # type: ignore[attr-defined]
        outputs = _joined(_TO_OUTPUT.to(x) @ products.view(36, -1), batch, height, width)
        return outputs if bias is None else outputs + bias[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        images, kernels = ctx.saved_tensors
        channels, out = kernels.shape[1:]
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        products = (_TO_OUTPUT.T.to(gradient) @ _split(gradient)).view(36, -1, out)
        of_x = of_weight = None
        if wants_weight:
            of_kernels = torch.bmm(images.mT, products).view(36, -1)
            of_weight = (_TO_KERNEL.T.to(gradient) @ of_kernels).view(3, 3, channels, out).permute(3, 2, 0, 1)
        if wants_x:
            of_images = torch.bmm(products, kernels.mT).view(36, -1)
            of_x = _overlapped(_TO_IMAGE.T.to(gradient) @ of_images, *ctx.size)
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None


def _patches(x: Tensor) -> Tensor:
    """Patches of 6 x 6 of the image and a border of zeros: (36, T C)."""
    batch, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    of_image, of_row, of_column, of_channel = padded.stride()
    tiles = (batch, height // _TILE, width // _TILE, channels)
    apart = (of_image, _TILE * of_row, _TILE * of_column, of_channel)
    return padded.as_strided((_PATCH, _PATCH, *tiles), (of_row, of_column, *apart)).reshape(_PATCH**2, -1)


def _overlapped(patches: Tensor, batch: int, height: int, width: int) -> Tensor:
    """The sum of patches (36, T C) where they lie in an image (B, C, H, W), without its border."""
    rows, columns = height // _TILE, width // _TILE
    apart = patches.view(_PATCH, _PATCH, batch, rows, columns, -1)
    channels = apart.shape[-1]
    in_rows = patches.new_zeros(_PATCH, batch, height + 2, columns, channels)
    for offset in range(_PATCH):
        in_rows[:, :, offset : offset + height - 3 : _TILE] += apart[offset]
    image = patches.new_zeros(batch, height + 2, width + 2, channels)
    for offset in range(_PATCH):
        image[:, :, offset : offset + width - 3 : _TILE] += in_rows[offset]
    return image[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def _split(image: Tensor) -> Tensor:
    """Tiles of 4 x 4 of an image (B, O, H, W): (16, T O)."""
    batch, channels, height, width = image.shape
    tiles = image.permute(0, 2, 3, 1).reshape(batch, height // _TILE, _TILE, width // _TILE, _TILE, channels)
    return tiles.permute(2, 4, 0, 1, 3, 5).reshape(_TILE**2, -1)


def _joined(tiles: Tensor, batch: int, height: int, width: int) -> Tensor:
    """The image (B, O, H, W) of tiles (16, T O)."""
    apart = tiles.view(_TILE, _TILE, batch, height // _TILE, width // _TILE, -1)
    return apart.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
