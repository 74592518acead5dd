"""The compact cascade's UNet: small enough that a CPU samples, and even trains, it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

import torch

# For diffusers, which looks in a component's module for the base class that says how it is loaded.
from diffusers import ModelMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.diffusion.process import Prediction, alpha_sigma
from satcascade.diffusion.weighting import low_res_estimate, preconditioning, shift_prediction
from satcascade.models.denoiser import Denoiser, TextCondition
from satcascade.models.layers.activation_checkpointing import CheckpointedBlock
from satcascade.models.layers.compact_layers import (
    Attention,
    ChannelNorm,
    NoiseLevel,
    ResNetBlock,
    TextHead,
    zeroed,
)

_FILTERS = 4


class CompactUNet(Denoiser):
    """Text-conditioned denoiser that works at a quarter of the image's resolution.

    The image is pixel-unshuffled by ``patch_size``, so that the first level has (S / patch_size)^2
    positions. Each level is a stack of ResNet blocks, modulated by noise level and pooled caption
    (adaptive normalisation), some followed by attention over the image's own positions and the
    caption's tokens together. Beside them runs a linear path: a few convolutions of the input, mixed by
    noise level, which do what a Wiener filter can, so that the narrow first level need not carry every
    pixel's noise through to the output. The output is EDM-preconditioned
    (:func:`satcascade.diffusion.weighting.preconditioning`), if nothing else is said.

    Args:
        sample_size: pixels (positions of latents) a side, S.
        patch_size: side of the pixel block that makes one position.
        widths: channels of each level; each level halves the resolution of the one before.
        blocks: ResNet blocks of each level, going down and again going up.
        attention: for each level, whether its blocks are followed by attention.
        self_attention: attend to the image's positions too; otherwise to the caption's tokens only,
            which costs less and lets a network trained on crops run on whole images.
        head_dim: width of an attention head.
        cond_dim: width of the noise and caption vector.
        text_dim: width D of the text encoder's embeddings.
        dropout: within ResNet blocks.
        low_res: whether the network also takes a low-resolution image (super-resolution stage).
        low_res_resize: how that image is brought to S.
        sigma_data: root mean square of the training images in [-1, 1].
        prediction_type: what it predicts, ``v_prediction``, ``epsilon`` or ``sample`` (the clean image).
        sigma_residual: root mean square of what a low-resolution image lacks of the image. With it the
            network works on the difference from the best linear guess at the image by the low-resolution
            one (:func:`satcascade.diffusion.weighting.low_res_estimate`): untrained, it enlarges it. None
            works on the image itself.
        preconditioned: make the best linear guess outside the network; otherwise its output itself is the
            prediction.
        detail_width: channels of a last level at half the patch size, which takes what the others found
            and the image itself and adds what lies within a patch. It starts as nothing, so that a trained
            network can be given one. None is no such level.
        detail_blocks: its ResNet blocks.
        in_channels: channels of what it denoises, C: 3 for images, those of the codec for latents.
    """

    _supports_gradient_checkpointing = True
    # What is gathered on one device at a time where weights are sharded.
    _no_split_modules = ("_Stage",)

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 4,
        widths: Sequence[int] = (128, 224, 320),
        blocks: Sequence[int] = (2, 2, 2),
        attention: Sequence[bool] = (False, True, True),
        self_attention: bool = True,
        head_dim: int = 64,
        cond_dim: int = 384,
        text_dim: int = 384,
        dropout: float = 0.0,
        low_res: bool = False,
        low_res_resize: str = "bilinear",
        sigma_data: float = 0.5,
        prediction_type: Prediction = "v_prediction",
        sigma_residual: float | None = None,
        preconditioned: bool = True,
        detail_width: int | None = None,
        detail_blocks: int = 1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not len(widths) == len(blocks) == len(attention):
            raise ValueError("widths, blocks and attention must name as many levels")
        if prediction_type not in get_args(Prediction):
            raise ValueError(f"unknown prediction type '{prediction_type}'")
        if sigma_residual is not None and not (low_res and preconditioned):
            raise ValueError("sigma_residual is for a preconditioned super-resolution network")
        if detail_width is not None and patch_size % 2:
            raise ValueError("detail_width is for patches of an even size")
        self.text = TextHead(text_dim, cond_dim)
        self.noise_level = NoiseLevel(cond_dim)
        self.low_res_level = NoiseLevel(cond_dim) if low_res else None
        pixels = in_channels * patch_size**2
        pixels_in = pixels * (2 if low_res else 1)
        self.stem = nn.Conv2d(pixels_in, widths[0], 3, padding=1)
        self.filters = nn.Conv2d(pixels_in, _FILTERS * pixels, 3, padding=1, bias=False)
        self.mix = zeroed(nn.Linear(cond_dim, _FILTERS))

        def stage(level: int, merge: bool) -> nn.ModuleList:
            return nn.ModuleList(
                _Stage(
                    widths[level],
                    cond_dim,
                    head_dim if attention[level] else None,
                    self_attention,
                    dropout,
                    merge,
                )
                for _ in range(blocks[level])
            )

        # Any: a ModuleList of ModuleLists does not know what is in it.
        self.down: Any = nn.ModuleList(stage(level, merge=False) for level in range(len(widths)))
        self.shrink = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, stride=2, padding=1) for wide, narrow in pairwise(widths)
        )
        self.middle = _Stage(
            widths[-1], cond_dim, head_dim if attention[-1] else None, self_attention, dropout, merge=False
        )
        self.grow = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for narrow, wide in pairwise(widths))
        self.up: Any = nn.ModuleList(stage(level, merge=True) for level in range(len(widths)))
        self.out_norm = ChannelNorm(widths[0])
        self.out = zeroed(nn.Conv2d(widths[0], pixels, 3, padding=1))
        self.detail = (
            None
            if detail_width is None
            else _DetailLevel(
                pixels_in // 4, pixels // 4, widths[0], detail_width, detail_blocks, cond_dim, dropout
            )
        )

    @property
    def meaning(self) -> dict[str, Any]:
        """What is predicted, and whether it is the output itself."""
        return super().meaning | {"preconditioned": self.config.preconditioned}

    def data_std(self, low_res_log_snr: Tensor | None) -> float | Tensor:
        """``sigma_data``, or what the best linear guess by the low-resolution image leaves."""
        sigma_data: float = self.config.sigma_data
        if self.config.sigma_residual is None:
            return sigma_data
        assert low_res_log_snr is not None
        return low_res_estimate(low_res_log_snr, sigma_data, self.config.sigma_residual)[1].flatten()

    def starting_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With this network's own detail level where there was none: it adds nothing until it is trained."""
        if any(name.startswith("detail.") for name in weights):
            return dict(weights)
        own = {name: value for name, value in self.state_dict().items() if name.startswith("detail.")}
        return {**weights, **own}

    def rim_parameters(self) -> Iterator[nn.Parameter]:
        """Of the layers from and to the image, and those of the detail level."""
        layers = [self.stem, self.filters, self.out]
        if self.detail is not None:
            layers += [self.detail.stem, self.detail.out]
        for layer in layers:
            yield from layer.parameters()

    def encode_text(self, embeddings: Tensor, mask: Tensor, keep: Tensor | None = None) -> TextCondition:
        """Turn token embeddings into the condition that every denoising step reuses.

        Args:
            embeddings: (B, L, text_dim) of the frozen encoder.
            mask: (B, L) bool, True at real tokens.
            keep: (B,) bool; False gives the null caption of classifier-free guidance.
        """
        return self.text(embeddings, mask, keep)

    def forward(
        self,
        sample: Tensor,
        log_snr: Tensor,
        text: TextCondition,
        low_res: Tensor | None = None,
        low_res_log_snr: Tensor | None = None,
    ) -> Tensor:
        """Predict what ``prediction_type`` says.

        Args:
            sample: x_t, (B, C, H, W); H and W divide by patch_size * 2^(levels - 1).
            log_snr: (B,) noise level of ``sample``.
            text: from :meth:`encode_text`.
            low_res: the low-resolution image at the size of ``sample``, noised at ``low_res_log_snr``.
            low_res_log_snr: (B,).

        Returns:
            The prediction of shape (B, C, H, W), float32.

        Raises:
            ValueError: a low-resolution image is missing, or given to a network that takes none.
        """
        if (low_res is not None) != self.config.low_res:
            raise ValueError("low_res must be given to a super-resolution network, and to no other")
        config = self.config
        mean, sigma_data = None, config.sigma_data
        if config.sigma_residual is not None:
            assert low_res is not None
            assert low_res_log_snr is not None
            factor, sigma_data = low_res_estimate(low_res_log_snr, config.sigma_data, config.sigma_residual)
            mean = factor * low_res
            sample = sample - alpha_sigma(log_snr)[0] * mean
        c_skip, c_out, c_in = preconditioning(log_snr, sigma_data, config.prediction_type)
        cond = self.noise_level(log_snr) + text.pooled
        image = sample * c_in
        if low_res is not None:
            assert low_res_log_snr is not None
            assert self.low_res_level is not None
            scale = preconditioning(low_res_log_snr, config.sigma_data)[2]
            image = torch.cat([image, low_res * scale], dim=1)
            cond = cond + self.low_res_level(low_res_log_snr)
        cond = F.silu(cond)
        x = _patches(image, config.patch_size)
        linear = self.filters(x).unflatten(1, (_FILTERS, -1)) * self.mix(cond)[:, :, None, None, None]
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, stages in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
            for stage in stages:
                x = stage(x, cond, text)
                skips.append(x)
        x = self.middle(x, cond, text)
        for level in reversed(range(len(self.up))):
            for stage in self.up[level]:
                x = stage(x, cond, text, skips.pop())
            if level:
                x = F.interpolate(self.grow[level - 1](x), scale_factor=2.0, mode="nearest")
        output = self.out(F.silu(self.out_norm(x))) + linear.sum(dim=1)
        output = F.pixel_shuffle(output.float(), config.patch_size)
        if self.detail is not None:
            half = config.patch_size // 2
            detail = self.detail(_patches(image, half), x, cond, text)
            output = output + F.pixel_shuffle(detail.float(), half)
        if not config.preconditioned:
            return output
        output = c_skip * sample + c_out * output
        return output if mean is None else shift_prediction(output, mean, log_snr, config.prediction_type)


def _patches(image: Tensor, side: int) -> Tensor:
    """Blocks of side x side pixels as channels, laid out as convolutions like it."""
    return F.pixel_unshuffle(image, side).contiguous(memory_format=torch.channels_last)


class _DetailLevel(nn.Module):
    """What lies within a patch: the image in patches of half the size, with the network's last features."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        coarse_width: int,
        width: int,
        blocks: int,
        cond_dim: int,
        dropout: float,
    ):
        super().__init__()
        self.stem = nn.Conv2d(channels_in, width, 3, padding=1)
        self.grow = nn.Conv2d(coarse_width, width, 1)
        self.stages = nn.ModuleList(
            _Stage(width, cond_dim, None, False, dropout, merge=False) for _ in range(blocks)
        )
        self.out_norm = ChannelNorm(width)
        self.out = zeroed(nn.Conv2d(width, channels_out, 3, padding=1))

    def forward(self, image: Tensor, coarse: Tensor, cond: Tensor, text: TextCondition) -> Tensor:
        grown = F.interpolate(self.grow(coarse), scale_factor=2.0, mode="nearest")
        x = self.stem(image) + grown
        for stage in self.stages:
            x = stage(x, cond, text)
        return self.out(F.silu(self.out_norm(x)))


class _Stage(CheckpointedBlock):
    """One ResNet block, with the skip it takes in first and the attention that may follow."""

    def __init__(
        self,
        width: int,
        cond_dim: int,
        head_dim: int | None,
        self_attention: bool,
        dropout: float,
        merge: bool,
    ):
        super().__init__()
        self.merge = nn.Conv2d(2 * width, width, 1) if merge else None
        self.block = ResNetBlock(width, cond_dim, dropout)
        self.attention = Attention(width, cond_dim, head_dim, self_attention) if head_dim else None

    def forward(self, x: Tensor, cond: Tensor, text: TextCondition, skip: Tensor | None = None) -> Tensor:
        if self.merge is not None:
            assert skip is not None
            x = self.merge(torch.cat([x, skip], dim=1))
        x = self.block(x, cond)
        return x if self.attention is None else self.attention(x, text)
