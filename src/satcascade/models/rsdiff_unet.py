"""RSDiff's UNet (Sebaq and ElHelw 2024), which computes what the released weights were trained to compute.

The layout is that of Imagen's networks (Saharia et al. 2022, "Photorealistic text-to-image diffusion models
with deep language understanding"): ResNet blocks modulated by noise level and caption, cross-attention
to the caption in some of them, and transformer blocks over image positions on the coarser layers.
:mod:`satcascade.interop.imagen_names` translates weights and options of imagen-pytorch, with which RSDiff was
trained, into those of this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch

# For diffusers, which looks in a component's module for the base class that says how it is loaded.
from diffusers import ModelMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.models.denoiser import Denoiser, TextCondition
from satcascade.models.layers import cpu
from satcascade.models.layers.activation_checkpointing import CheckpointedBlock

# Queries and keys have unit length, so that their product is a cosine; this is what softmax sees of it.
_COSINE_SCALE = 8.0
_SKIP_SCALE = 2**-0.5
# On a CPU small problems are computed operation by operation as imagen-pytorch does, and only large ones in
# faster ways, which round otherwise: networks with random weights amplify rounding hundreds of times, and
# small ones are what both libraries are compared by.
# Weights between queries and keys of one image, up to which attention writes them out.
_EXPLICIT_WEIGHTS = 2**20
# Numbers up to which a layer normalisation is written out.
_EXPLICIT_NORM = 2**18
# Numbers in the first layer's image, from which a network works in pieces.
_LARGE_IMAGE = 2**20

_T = TypeVar("_T")


class RSDiffUNet(Denoiser):
    """Text-conditioned denoiser of RSDiff, in its base and its super-resolution form.

    Layer ``i`` of n works at 1 / 2^i of the image's resolution. An option of every layer is a list of n
    values, or one value for all. A model in ``torch.channels_last`` memory format is faster on most devices.

    Args:
        width: channels at the image's own resolution.
        width_multipliers: for each layer, its output channels over ``width``.
        blocks: for each layer, plain ResNet blocks after the conditioned one, going down and again going up.
        self_attention: for each layer, whether its blocks are followed by a transformer.
        cross_attention: for each layer, whether its conditioned block attends to the caption.
        attention_depth: for each layer, blocks of its transformer.
        heads: attention heads, except in the middle's cross-attention.
        head_dim: width of an attention head, with the same exception.
        ff_mult: hidden over outer width in the layers' transformers.
        middle_attention_depth: blocks of the transformer at the coarsest resolution.
        middle_ff_mult: hidden over outer width in that transformer.
        middle_cross_heads: heads of cross-attention in the two ResNet blocks around that transformer;
            RSDiff leaves it at 8 whatever ``heads`` is.
        middle_cross_head_dim: width of these heads.
        cond_dim: width of condition tokens.
        text_dim: width D of the text encoder's embeddings.
        max_text_len: positions that a caption is cut or padded to.
        text_latents: learned tokens that the caption is pooled to.
        text_mean_latents: further tokens, made from the mean over the caption's positions.
        resampler_depth: layers of the pooling.
        resampler_ff_mult: hidden over outer width in the pooling.
        resampler_positions: rows of its position table; at least ``max_text_len``.
        time_tokens: condition tokens that tell the noise level.
        sinusoidal_dim: sines and cosines that represent log-SNR.
        stem_kernels: sides of the parallel convolutions that the image enters by, ascending.
        low_res: whether the network also takes a low-resolution image (super-resolution stage).
        low_res_resize: how that image is brought to ``sample_size``.
        sample_size: pixels a side, S.
        prediction_type: what it predicts, ``epsilon`` or ``v_prediction``.
    """

    _supports_gradient_checkpointing = True
    # What is gathered on one device at a time where weights are sharded.
    _no_split_modules = ("_ResNetBlock", "_TransformerBlock")

    @register_to_config
    def __init__(
        self,
        width: int = 128,
        width_multipliers: Sequence[float] = (1, 2, 2, 2),
        blocks: int | Sequence[int] = 0,
        self_attention: bool | Sequence[bool] = (False, True, True, True),
        cross_attention: bool | Sequence[bool] = (False, True, True, True),
        attention_depth: int | Sequence[int] = 1,
        heads: int = 8,
        head_dim: int = 64,
        ff_mult: float = 2,
        middle_attention_depth: int = 1,
        middle_ff_mult: float = 2,
        middle_cross_heads: int = 8,
        middle_cross_head_dim: int = 64,
        cond_dim: int = 256,
        text_dim: int = 768,
        max_text_len: int = 256,
        text_latents: int = 32,
        text_mean_latents: int = 4,
        resampler_depth: int = 2,
        resampler_ff_mult: float = 4,
        resampler_positions: int = 512,
        time_tokens: int = 2,
        sinusoidal_dim: int = 16,
        stem_kernels: Sequence[int] = (3, 7, 15),
        low_res: bool = False,
        low_res_resize: str = "nearest",
        sample_size: int = 128,
        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    ) -> None:
        super().__init__()
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type '{prediction_type}' is none of epsilon and v_prediction")
        if max_text_len > resampler_positions:
            raise ValueError("max_text_len must not exceed resampler_positions")
        layers = len(width_multipliers)
        widths = [width, *(int(width * multiplier) for multiplier in width_multipliers)]
        vector_dim = width * (8 if low_res else 4)
        channels_in = 6 if low_res else 3

        self.stem = _Stem(channels_in, width, stem_kernels)
        self.noise_level = _NoiseLevel(sinusoidal_dim, vector_dim, cond_dim, time_tokens)
        self.low_res_level = (
            _NoiseLevel(sinusoidal_dim, vector_dim, cond_dim, time_tokens) if low_res else None
        )
        resampler = _Resampler(
            cond_dim,
            heads,
            head_dim,
            resampler_depth,
            resampler_ff_mult,
            text_latents,
            text_mean_latents,
            resampler_positions,
        )
        self.text = _TextHead(text_dim, cond_dim, vector_dim, max_text_len, resampler)
        self.token_norm = nn.LayerNorm(cond_dim)

        counts = _per_layer(blocks, layers, "blocks")
        crosses = _per_layer(cross_attention, layers, "cross_attention")
        depths = [
            depth if attends else 0
            for attends, depth in zip(
                _per_layer(self_attention, layers, "self_attention"),
                _per_layer(attention_depth, layers, "attention_depth"),
                strict=True,
            )
        ]

        def layer(index: int, channels: int, skip: int, resize: nn.Module) -> _Layer:
            cross = _CrossAttention(channels, cond_dim, heads, head_dim) if crosses[index] else None
            first = _ResNetBlock(channels + skip, channels, vector_dim, cross)
            rest = (
                _ResNetBlock(channels + skip, channels, vector_dim, gated=True) for _ in range(counts[index])
            )
            transformer = _Transformer(channels, depths[index], heads, head_dim, ff_mult, cond_dim)
            return _Layer(first, rest, transformer, resize)

        # Any: a ModuleList does not know what is in it.
        self.down: Any = nn.ModuleList(
            layer(
                index,
                narrow,
                0,
                _Shrink(narrow, wide) if index < layers - 1 else _WidenInPlace(narrow, wide),
            )
            for index, (narrow, wide) in enumerate(pairwise(widths))
        )
        self.middle = _Middle(
            widths[-1],
            vector_dim,
            [
                _CrossAttention(widths[-1], cond_dim, middle_cross_heads, middle_cross_head_dim)
                for _ in range(2)
            ],
            _Transformer(widths[-1], middle_attention_depth, heads, head_dim, middle_ff_mult, None),
        )
        self.up: Any = nn.ModuleList(
            layer(
                index,
                widths[index + 1],
                widths[index],
                _Grow(widths[index + 1], widths[index]) if index else nn.Identity(),
            )
            for index in reversed(range(layers))
        )
        self.last_block = _ResNetBlock(widths[1], width, vector_dim, gated=True)
        self.out = nn.Conv2d(width + (3 if low_res else 0), 3, 3, padding=1)
        # Untrained, the network predicts nothing rather than noise of its own.
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def rim_parameters(self) -> Iterator[nn.Parameter]:
        """Of the layers from and to the image."""
        yield from self.stem.parameters()
        yield from self.out.parameters()

    def guides_in_one_batch(self, device: torch.device) -> bool:
        """Not on a CPU: one batch rounds otherwise than RSDiff's own sampler, and gains nothing there."""
        return device.type != "cpu"

    def encode_text(self, embeddings: Tensor, mask: Tensor, keep: Tensor | None = None) -> TextCondition:
        """Pool a caption to the fixed number of tokens that every denoising step attends to.

        Args:
            embeddings: (B, L, text_dim) of the frozen encoder; positions from ``max_text_len`` on are cut.
            mask: (B, L) bool, True at real tokens.
            keep: (B,) bool; False gives the null caption of classifier-free guidance.

        Returns:
            (B, text_mean_latents + text_latents, cond_dim) normalised tokens, all of them unmasked, and the
            vector that is added to the noise level's.
        """
        tokens, pooled = self.text(embeddings, mask, keep)
        tokens = self.token_norm(tokens)
        return TextCondition(
            tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), pooled
        )

    def forward(
        self,
        sample: Tensor,
        log_snr: Tensor,
        text: TextCondition,
        low_res: Tensor | None = None,
        low_res_log_snr: Tensor | None = None,
    ) -> Tensor:
        """Predict epsilon, or v where ``prediction_type`` says so.

        Args:
            sample: x_t, (B, 3, H, W); H and W divide by 2^(layers - 1).
            log_snr: (B,) noise level of ``sample``.
            text: from :meth:`encode_text` of this network.
            low_res: the low-resolution image at the size of ``sample``, noised at ``low_res_log_snr``.
            low_res_log_snr: (B,).

        Returns:
            The prediction of shape (B, 3, H, W), float32.

        Raises:
            ValueError: a low-resolution image or its noise level is missing, or given to a network that
                takes none.
        """
        if not (low_res is not None) == (low_res_log_snr is not None) == self.config.low_res:
            raise ValueError("low_res and low_res_log_snr go to a super-resolution network, and to no other")
        dtype = self.out.weight.dtype
        x = sample.to(dtype)
        # By the image, not the batch: the same way whatever an image is batched with.
        large = x[0, 0].numel() * self.config.width >= _LARGE_IMAGE
        # Small images on a CPU keep the usual format: other formats are other kernels, which round otherwise.
        layout = torch.channels_last if large or x.device.type != "cpu" else torch.contiguous_format
        in_pieces = large and cpu.pays(x)
        scratch = _Scratch() if in_pieces and not torch.is_grad_enabled() else None
        vector, tokens = self.noise_level(log_snr)
        if low_res is not None:
            assert self.low_res_level is not None
            low_res = low_res.to(dtype)
            x = torch.cat([x, low_res], dim=1)
            more_vector, more_tokens = self.low_res_level(low_res_log_snr)
            vector, tokens = vector + more_vector, torch.cat([tokens, more_tokens], dim=1)
        # All blocks read the vector through the same nonlinearity.
        vector = F.silu(vector + text.pooled)
        tokens = self.token_norm(tokens)
        tokens = torch.cat([tokens, text.tokens.to(tokens.dtype)], dim=1)

        condition = _Condition(vector, tokens, in_pieces, scratch, layout)

        x = self.stem(x, layout)
        skips: list[Tensor] = []
        for layer in self.down:
            x = layer.descend(x, condition, skips)
        x = self.middle(x, condition)
        for layer in self.up:
            x = layer.ascend(x, condition, skips)
        x = self.last_block(x, condition)
        if low_res is not None:
            low_res = low_res.to(x.dtype, memory_format=layout)
            x = torch.cat([x, low_res], dim=1)
        return self.out(x).float()


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return cpu.linear(x, self.weight, self.bias)


class _PointConv(nn.Conv2d):
    """A convolution of single pixels."""

    def __init__(self, width_in: int, width: int):
        super().__init__(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not (cpu.pays(x) and x.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(x)
        return _image(cpu.linear(_positions(x), self.weight.flatten(1), self.bias), x)


@dataclass(frozen=True)
class _Condition:
    """What blocks know beside the image.

    Attributes:
        vector: (B, vector_dim) noise level and caption, through the nonlinearity that all blocks start with.
        tokens: (B, M, cond_dim) condition tokens.
        in_pieces: whether images are so large that a CPU works on pieces of them.
        scratch: memory that blocks may share then; None where results must stay for the backward pass.
        layout: memory format of images between layers.
    """

    vector: Tensor
    tokens: Tensor
    in_pieces: bool
    scratch: _Scratch | None
    layout: torch.memory_format


class _Scratch:
    """Memory that is used again and again within one call of the network.

    A large tensor on a CPU is new memory every time, which the system has to clear page by page: that takes
    longer than to fill it.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def image(self, purpose: str, like: Tensor, channels: int) -> Tensor:
        """An image batch like ``like`` in channels-last format; valid until the next one for ``purpose``."""
        batch, _, height, width = like.shape
        shape = (batch, height, width, channels)
        memory = self._memory.get((purpose, like.dtype))
        if memory is None or memory.numel() < math.prod(shape):
            memory = self._memory[purpose, like.dtype] = like.new_empty(math.prod(shape))
        return memory[: math.prod(shape)].view(shape).permute(0, 3, 1, 2)


class _NoiseLevel(nn.Module):
    """log-SNR (B,) as a vector (B, vector_dim) and as condition tokens (B, count, cond_dim)."""

    def __init__(self, sinusoidal_dim: int, vector_dim: int, cond_dim: int, tokens: int):
        super().__init__()
        self.cond_dim = cond_dim
        self.frequencies = nn.Parameter(torch.randn(sinusoidal_dim // 2))
        self.hidden = _Linear(sinusoidal_dim + 1, vector_dim)
        self.vector = _Linear(vector_dim, vector_dim)
        self.tokens = _Linear(vector_dim, tokens * cond_dim)

    def forward(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = log_snr.float()[:, None]
        angles = log_snr * self.frequencies.float() * (2 * math.pi)
        waves = torch.cat([log_snr, angles.sin(), angles.cos()], dim=1)
        hidden = F.silu(self.hidden(waves.to(self.hidden.weight.dtype)))
        return self.vector(hidden), self.tokens(hidden).unflatten(1, (-1, self.cond_dim))


class _TextHead(nn.Module):
    """Token embeddings as a fixed number of tokens (B, n, cond_dim) and a vector (B, vector_dim)."""

    def __init__(self, text_dim: int, cond_dim: int, vector_dim: int, length: int, resampler: _Resampler):
        super().__init__()
        self.length = length
        self.project = _Linear(text_dim, cond_dim)
        self.null_tokens = nn.Parameter(torch.randn(1, length, cond_dim))
        self.null_pooled = nn.Parameter(torch.randn(1, vector_dim))
        self.resampler = resampler
        self.pooled = nn.Sequential(
            nn.LayerNorm(cond_dim),
            _Linear(cond_dim, vector_dim),
            nn.SiLU(),
            _Linear(vector_dim, vector_dim),
        )

    def forward(self, embeddings: Tensor, mask: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        embeddings = embeddings.to(self.project.weight.dtype)
        tokens, mask = self.project(embeddings[:, : self.length]), mask[:, : self.length].bool()
        missing = self.length - tokens.shape[1]
        tokens, mask = F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        if keep is not None:
            mask = mask & keep[:, None]
        tokens = torch.where(mask[..., None], tokens, self.null_tokens.to(tokens.dtype))
        tokens = self.resampler(tokens)
        pooled = self.pooled(tokens.mean(dim=1))
        if keep is not None:
            pooled = torch.where(keep[:, None], pooled, self.null_pooled.to(pooled.dtype))
        return tokens, pooled


class _Resampler(nn.Module):
    """Pool (B, L, C) to a fixed number of tokens by attention (Alayrac et al. 2022, "Flamingo")."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        depth: int,
        ff_mult: float,
        latents: int,
        mean_latents: int,
        positions: int,
    ):
        super().__init__()
        self.width = width
        self.positions = nn.Parameter(torch.randn(positions, width))
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.from_mean = (
            nn.Sequential(_GainNorm(width), _Linear(width, width * mean_latents)) if mean_latents else None
        )
        self.layers = nn.ModuleList(_ResamplerLayer(width, heads, head_dim, ff_mult) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, _ = tokens.shape
        latents = self.latents.to(tokens.dtype).expand(batch, -1, -1)
        if self.from_mean is not None:
            mean = self.from_mean(tokens.mean(dim=1)).unflatten(1, (-1, self.width))
            latents = torch.cat([mean.to(latents.dtype), latents], dim=1)
        tokens = tokens + self.positions[:length].to(tokens.dtype)
        for layer in self.layers:
            latents = layer(latents, tokens)
        return latents


class _ResamplerLayer(nn.Module):
    """Attention of latents (B, n, C) to tokens (B, L, C) and to themselves, then a feed-forward network."""

    def __init__(self, width: int, heads: int, head_dim: int, ff_mult: float):
        super().__init__()
        self.attention = _ResamplerAttention(width, heads, head_dim)
        self.feed_forward = _feed_forward(width, ff_mult)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        latents = self.attention(latents, tokens) + latents
        return self.feed_forward(latents) + latents


class _ResamplerAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        inner = heads * head_dim
        self.token_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.query = _Linear(width, inner, bias=False)
        self.key_value = _Linear(width, 2 * inner, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_dim))
        self.key_scale = nn.Parameter(torch.ones(head_dim))
        self.out = _Linear(inner, width, bias=False)
        self.out_norm = nn.LayerNorm(width)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        latents = self.latent_norm(latents)
        source = self.key_value(torch.cat([self.token_norm(tokens), latents], dim=1))
        attended = _cosine_attention(self.query(latents), source, self.query_scale, self.key_scale)
        return self.out_norm(self.out(attended))


class _GainNorm(nn.LayerNorm):
    """Layer normalisation with a gain and no bias."""

    def __init__(self, width: int):
        super().__init__(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32 or x.device.type != "cpu" or x.numel() > _EXPLICIT_NORM:
            return super().forward(x)
        # Not torch.var_mean, whose mean rounds otherwise.
        variance, mean = x.var(dim=-1, correction=0, keepdim=True), x.mean(dim=-1, keepdim=True)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight


class _Attention(nn.Module):
    """What self- and cross-attention of image positions (B, N, C) share."""

    def __init__(self, width: int, heads: int, head_dim: int, source_dim: int, source_heads: int):
        super().__init__()
        self.source_heads = source_heads
        self.norm = _GainNorm(width)
        self.query = _Linear(width, heads * head_dim, bias=False)
        self.key_value = _Linear(source_dim, 2 * source_heads * head_dim, bias=False)
        self.null_key_value = nn.Parameter(torch.randn(2, head_dim))
        self.query_scale = nn.Parameter(torch.ones(head_dim))
        self.key_scale = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Sequential(_Linear(heads * head_dim, width, bias=False), _GainNorm(width))

    def _attend(self, x: Tensor, *sources: Tensor) -> Tensor:
        """Attend to keys with values (B, M, 2 source_heads head_dim); the null pair comes before the last."""
        *others, last = sources
        null = self.null_key_value.to(last.dtype).repeat(1, self.source_heads).flatten()
        source = torch.cat([*others, null.expand(len(last), 1, -1), last], dim=1)
        return self.out(_cosine_attention(self.query(x), source, self.query_scale, self.key_scale))


class _CrossAttention(_Attention):
    """Image positions attend to condition tokens (B, M, cond_dim)."""

    def __init__(self, width: int, cond_dim: int, heads: int, head_dim: int):
        super().__init__(width, heads, head_dim, cond_dim, heads)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self._attend(self.norm(x), self.key_value(condition))


class _SelfAttention(_Attention):
    """Image positions attend to each other, and to condition tokens where the layer has them.

    All queries share one key and value head (Shazeer 2019, "Fast transformer decoding").
    """

    def __init__(self, width: int, heads: int, head_dim: int, cond_dim: int | None):
        super().__init__(width, heads, head_dim, width, 1)
        self.condition = (
            nn.Sequential(nn.LayerNorm(cond_dim), _Linear(cond_dim, 2 * head_dim)) if cond_dim else None
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.norm(x)
        sources = [] if self.condition is None else [self.condition(condition)]
        return self._attend(x, *sources, self.key_value(x))


def _cosine_attention(query: Tensor, source: Tensor, query_scale: Tensor, key_scale: Tensor) -> Tensor:
    """Attention by cosine similarity (Henry et al. 2020, "Query-key normalization").

    Args:
        query: (B, N, heads * D).
        source: keys, then values, (B, M, 2 * D) for one head that all queries share, or as many as these.
        query_scale: (D,) gain on unit-length queries; its length tells D.
        key_scale: (D,) gain on unit-length keys.

    Returns:
        (B, N, heads * D).
    """
    dim = query_scale.shape[0]
    query, (key, value) = (
        query.unflatten(-1, (-1, dim)),
        (part.unflatten(-1, (-1, dim)) for part in source.chunk(2, dim=-1)),
    )
    query, key = (
        # In float32: a cosine times 8 is more than bfloat16's eight bits tell apart.
        (F.normalize(part.float(), dim=-1) * scale).to(value.dtype)
        for part, scale in ((query, query_scale), (key, key_scale))
    )
    small = query[0, ..., 0].numel() * key.shape[1] <= _EXPLICIT_WEIGHTS
    if key.shape[2] == 1 and not small and cpu.pays(query):
        return cpu.attention(query, key[:, :, 0], value[:, :, 0], _COSINE_SCALE).flatten(2)
    if value.dtype is torch.float32 and small:
        # One large product where the heads share their keys.
        shared = key.shape[2] == 1
        key, value = (part[:, :, 0] if shared else part for part in (key, value))
        other = "bjd" if shared else "bjhd"
        weights = (torch.einsum(f"bihd,{other}->bhij", query, key) * _COSINE_SCALE).softmax(dim=-1)
        return torch.einsum(f"bhij,{other}->bihd", weights, value).flatten(2)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    shape = (-1, query.shape[1], -1, -1)
    heads = F.scaled_dot_product_attention(query, key.expand(shape), value.expand(shape), scale=_COSINE_SCALE)
    return heads.transpose(1, 2).flatten(2)


def _feed_forward(width: int, multiplier: float) -> nn.Sequential:
    inner = int(width * multiplier)
    return nn.Sequential(
        _GainNorm(width),
        _Linear(width, inner, bias=False),
        nn.GELU(),
        _GainNorm(inner),
        _Linear(inner, width, bias=False),
    )


class _TransformerBlock(CheckpointedBlock):
    """Self-attention and a feed-forward network on positions (B, N, C)."""

    def __init__(self, width: int, heads: int, head_dim: int, ff_mult: float, cond_dim: int | None):
        super().__init__()
        self.attention = _SelfAttention(width, heads, head_dim, cond_dim)
        self.feed_forward = _feed_forward(width, ff_mult)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.attention(x, condition) + x
        return self.feed_forward(x) + x


class _Transformer(nn.ModuleList):
    """A stack of transformer blocks on images (B, C, H, W); of depth 0, the identity."""

    def __init__(
        self, width: int, depth: int, heads: int, head_dim: int, ff_mult: float, cond_dim: int | None
    ):
        super().__init__(_TransformerBlock(width, heads, head_dim, ff_mult, cond_dim) for _ in range(depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if not len(self):
            return x
        positions = _positions(x).contiguous()
        for block in self:
            positions = block(positions, condition)
        return _image(positions, x)


class _ChannelNorm(nn.Module):
    """Root-mean-square normalisation over the channels of each position, with a gain; then SiLU.

    Args of the call:
        x: (B, C, H, W).
        scale: (B, C) further gain, where there is one.
        shift: (B, C), added before SiLU.
        condition: whether to work in pieces, and where to put the result.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1))

    def forward(
        self,
        x: Tensor,
        condition: _Condition,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        if condition.in_pieces:
            scratch = condition.scratch
            out = None if scratch is None else _positions(scratch.image("normalised", x, x.shape[1]))
            gain = (self.gain.flatten() * math.sqrt(x.shape[1])).expand(len(x), -1)
            gain = gain if scale is None else gain * scale
            return _image(cpu.normalize_silu(_positions(x), gain, shift, out), x)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        x = x / length.clamp(min=1e-12).to(x.dtype) * math.sqrt(x.shape[1]) * self.gain.to(x.dtype)
        if scale is not None and shift is not None:
            x = x * scale[:, :, None, None] + shift[:, :, None, None]
        return F.silu(x)


class _Gate(nn.Module):
    """Weights (B, C, 1, 1) of channels by what a learned average over the image finds (Cao et al. 2019)."""

    def __init__(self, width: int):
        super().__init__()
        inner = max(3, width // 2)
        self.score = _PointConv(width, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(width, inner, 1), nn.SiLU(), nn.Conv2d(inner, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).flatten(1).float().softmax(dim=1).to(x.dtype)
        average = torch.einsum("bin,bcn->bci", weights[:, None], x.flatten(2))
        # A view rather than an index, which would hide from the convolutions that channels come last.
        return self.layers(average.reshape(*average.shape, 1))


class _ResNetBlock(CheckpointedBlock):
    """norm, SiLU, 3x3; cross-attention; norm, scale and shift, SiLU, 3x3; gate; plus the input."""

    def __init__(
        self,
        width_in: int,
        width: int,
        vector_dim: int,
        cross_attention: _CrossAttention | None = None,
        gated: bool = False,
    ):
        super().__init__()
        self.norm1 = _ChannelNorm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.cross_attention = cross_attention
        self.norm2 = _ChannelNorm(width)
        self.modulate = _Linear(vector_dim, 2 * width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.gate = _Gate(width) if gated else None
        self.shortcut = _PointConv(width_in, width) if width_in != width else nn.Identity()

    def forward(self, x: Tensor, condition: _Condition) -> Tensor:
        scratch = condition.scratch
        h = self.conv1(self.norm1(x, condition))
        if self.cross_attention is not None:
            positions = _positions(h).contiguous()
            # In this order, for the sum has the memory format of its first term.
            h = _image(self.cross_attention(positions, condition.tokens) + positions, h)
        scale, shift = self.modulate(condition.vector).chunk(2, dim=1)
        h = self.conv2(self.norm2(h, condition, scale + 1, shift))
        shortcut = self.shortcut(x)
        if scratch is None:
            return (h if self.gate is None else h * self.gate(h)) + shortcut
        # Into memory at hand.
        if self.gate is None:
            return torch.add(h, shortcut, out=h)
        return torch.addcmul(shortcut, h, self.gate(h), out=h)


class _Layer(nn.Module):
    """One resolution on the way down or up: a conditioned block, plain ones, a transformer, the resizing.

    Going up, the blocks are those of the way down mirrored: each takes in a skip.
    """

    def __init__(self, first: _ResNetBlock, rest: Any, transformer: _Transformer, resize: nn.Module):
        super().__init__()
        self.first = first
        self.rest = nn.ModuleList(rest)
        self.transformer = transformer
        self.resize = resize

    def descend(self, x: Tensor, condition: _Condition, skips: list[Tensor]) -> Tensor:
        """Put a skip on the stack for each plain block, and one more."""
        x = self.first(x, condition)
        for block in self.rest:
            x = block(x, condition)
            skips.append(x)
        x = self.transformer(x, condition.tokens)
        skips.append(x)
        return self.resize(x, condition.layout)

    def ascend(self, x: Tensor, condition: _Condition, skips: list[Tensor]) -> Tensor:
        """Take as many skips from the stack."""
        for block in (self.first, *self.rest):
            x = block(_join(x, skips.pop(), condition.scratch), condition)
        return self.resize(self.transformer(x, condition.tokens))


class _Middle(nn.Module):
    """The coarsest resolution: a block, self-attention without condition tokens, a block."""

    def __init__(
        self, width: int, vector_dim: int, crosses: Sequence[_CrossAttention], transformer: _Transformer
    ):
        super().__init__()
        self.first = _ResNetBlock(width, width, vector_dim, crosses[0])
        self.transformer = transformer
        self.last = _ResNetBlock(width, width, vector_dim, crosses[1])

    def forward(self, x: Tensor, condition: _Condition) -> Tensor:
        x = self.transformer(self.first(x, condition), condition.tokens)
        return self.last(x, condition)


class _Stem(nn.Module):
    """Parallel convolutions of several sizes; each larger one has half the channels of the one before."""

    def __init__(self, channels: int, width: int, kernels: Sequence[int]):
        super().__init__()
        widths = [width // 2**power for power in range(1, len(kernels))]
        widths.append(width - sum(widths))
        # Any: a ModuleList does not know what is in it.
        self.convs: Any = nn.ModuleList(
            nn.Conv2d(channels, part, kernel, padding=kernel // 2)
            for part, kernel in zip(widths, sorted(kernels), strict=True)
        )

    def forward(self, x: Tensor, layout: torch.memory_format) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            x = x.contiguous(memory_format=layout)
            return torch.cat([conv(x) for conv in self.convs], dim=1)
        # With channels last, the gradient of a kernel of 15 takes a CPU 70 times as long.
        parts = [
            F.conv2d(x.contiguous(), conv.weight.contiguous(), conv.bias, padding=conv.padding)
            for conv in self.convs
        ]
        return torch.cat(parts, dim=1).contiguous(memory_format=layout)


class _Shrink(nn.Module):
    """Halve the resolution."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.conv = _PointConv(4 * width_in, width)

    def forward(self, x: Tensor, layout: torch.memory_format) -> Tensor:
        return self.conv(F.pixel_unshuffle(x, 2).contiguous(memory_format=layout))


class _WidenInPlace(nn.Module):
    """The last layer's step to the middle, which keeps the resolution."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.area = nn.Conv2d(width_in, width, 3, padding=1)
        self.point = _PointConv(width_in, width)

    def forward(self, x: Tensor, _: torch.memory_format) -> Tensor:
        return self.area(x) + self.point(x)


class _Grow(nn.Module):
    """Double the resolution."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.conv = _PointConv(width_in, 4 * width)
        # The four pixels that come of one start out equal (Aitken et al. 2017): no checkerboard to unlearn.
        with torch.no_grad():
            weight, bias = self.conv.parameters()
            weight.copy_(weight[::4].repeat_interleave(4, dim=0))
            bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.silu(self.conv(x)), 2)


def _join(x: Tensor, skip: Tensor, scratch: _Scratch | None) -> Tensor:
    if scratch is None:
        return torch.cat([x, skip * _SKIP_SCALE], dim=1)
    joined = scratch.image("joined", x, x.shape[1] + skip.shape[1])
    joined[:, : x.shape[1]].copy_(x)
    torch.mul(skip, _SKIP_SCALE, out=joined[:, x.shape[1] :])
    return joined


def _positions(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def _image(positions: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) as (B, C, H, W), height and width those of ``like``."""
    return positions.transpose(1, 2).unflatten(2, like.shape[2:])


def _per_layer(option: _T | Sequence[_T], layers: int, name: str) -> list[_T]:
    values = list(option) if isinstance(option, Sequence) else [option] * layers
    if len(values) != layers:
        raise ValueError(f"{name} has {len(values)} values for {layers} layers")
    return values
