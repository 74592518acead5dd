"""Layers of the compact UNet."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.models.denoiser import TextCondition
from satcascade.models.layers import cpu
from satcascade.models.layers.winograd import convolve

_FREQUENCIES = 64

_Module = TypeVar("_Module", bound=nn.Module)


class TextHead(nn.Module):
    """Caption tokens and their mean, brought to the network's width; and the null caption."""

    def __init__(self, text_dim: int, cond_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.tokens = nn.Linear(text_dim, cond_dim)
        self.pooled = nn.Sequential(
            nn.LayerNorm(text_dim), nn.Linear(text_dim, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )
        self.null_token = nn.Parameter(torch.randn(cond_dim) * 0.02)
        self.null_pooled = nn.Parameter(torch.zeros(cond_dim))

    def forward(self, embeddings: Tensor, mask: Tensor, keep: Tensor | None) -> TextCondition:
        """Condition of embeddings (B, L, D) with mask (B, L); null where ``keep`` (B,) is False."""
        tokens = self.tokens(self.norm(embeddings))
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = self.pooled((embeddings * mask[..., None]).sum(dim=1) / count)
        if keep is not None:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            mask = torch.where(keep[:, None], mask, first)
            tokens = torch.where(keep[:, None, None], tokens, self.null_token.to(tokens.dtype))
            pooled = torch.where(keep[:, None], pooled, self.null_pooled.to(pooled.dtype))
        return TextCondition(tokens, mask, pooled)


class NoiseLevel(nn.Module):
    """log-SNR (B,) as sines and cosines, then two linear layers."""

    frequencies: Tensor

    def __init__(self, cond_dim: int):
        super().__init__()
        # Periods from about 60 (the whole range of log-SNR) down to 0.6, evenly in their logarithm.
        frequencies = torch.logspace(-1, 1, _FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, log_snr: Tensor) -> Tensor:
        """(B,) to (B, cond_dim)."""
        angles = log_snr.float()[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position.

    On a CPU its backward pass takes a fifth of group normalisation's, which was a fifth of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResNetBlock(nn.Module):
    """norm, SiLU, 3x3; norm, scale and shift, SiLU, 3x3; plus the input."""

    def __init__(self, width: int, cond_dim: int, dropout: float):
        super().__init__()
        self.norm1 = ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = ChannelNorm(width)
        self.modulate = nn.Linear(cond_dim, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, C, H, W) with a condition (B, cond_dim), the same shape."""
        scale, shift = self.modulate(cond)[:, :, None, None].chunk(2, dim=1)
        h = convolve(self.conv1, F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + convolve(self.conv2, self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Attention from image positions to caption tokens and (optionally) image positions.

    Queries and keys have unit root mean square (QK normalisation), which keeps bfloat16 training stable.
    """

    def __init__(self, width: int, cond_dim: int, head_dim: int, self_attention: bool):
        super().__init__()
        self.heads = width // head_dim
        self.head_dim = head_dim
        self.self_attention = self_attention
        inner = self.heads * head_dim
        self.norm = ChannelNorm(width)
        self.query = nn.Linear(width, inner)
        self.image = nn.Linear(width, 2 * inner) if self_attention else None
        self.caption = nn.Linear(cond_dim, 2 * inner)
        self.out = zeroed(nn.Linear(inner, width))

    def forward(self, x: Tensor, text: TextCondition) -> Tensor:
        """(B, C, H, W) with a caption each, the same shape."""
        batch, width, height, columns = x.shape
        positions = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        source, mask = self.caption(text.tokens), text.mask
        if self.image is not None:
            source = torch.cat([source, self.image(positions)], dim=1)
            mask = F.pad(mask, (0, positions.shape[1]), value=True)
        query = self._split(self.query(positions))
        key, value = (self._split(part) for part in source.chunk(2, dim=-1))
        query, key = (F.rms_norm(part, (self.head_dim,)) for part in (query, key))
        attended = cpu.masked_attention(query, key.to(query.dtype), value, mask[:, None, None, :])
        attended = self.out(attended.transpose(1, 2).flatten(2))
        return x + attended.reshape(batch, height, columns, width).permute(0, 3, 1, 2)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


def zeroed(module: _Module) -> _Module:
    """Zero a layer's parameters, so that its residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
