"""Configuration of :class:`satcascade.models.rsdiff_unet.RSDiffUNet`, read without loading torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from satcascade.models.network_config import NetworkConfig, Resize


class RSDiffModel(NetworkConfig):
    """Arguments of :class:`satcascade.models.rsdiff_unet.RSDiffUNet`, which explains them.

    Where a layer's option may be one value for all layers, it is stored as that value.
    """

    architecture: Literal["rsdiff"]
    sample_size: PositiveInt
    width: PositiveInt
    width_multipliers: tuple[PositiveFloat, ...]
    blocks: int | tuple[int, ...]
    self_attention: bool | tuple[bool, ...]
    cross_attention: bool | tuple[bool, ...]
    attention_depth: PositiveInt | tuple[PositiveInt, ...] = 1
    heads: PositiveInt = 8
    head_dim: PositiveInt = 64
    ff_mult: PositiveFloat = 2
    middle_attention_depth: PositiveInt = 1
    middle_ff_mult: PositiveFloat = 2
    middle_cross_heads: PositiveInt = 8
    middle_cross_head_dim: PositiveInt = 64
    cond_dim: PositiveInt
    text_dim: PositiveInt = 768
    max_text_len: PositiveInt = 256
    text_latents: PositiveInt = 32
    text_mean_latents: int = Field(4, ge=0)
    resampler_depth: PositiveInt = 2
    resampler_ff_mult: PositiveFloat = 4
    resampler_positions: PositiveInt = 512
    time_tokens: PositiveInt = 2
    sinusoidal_dim: PositiveInt = 16
    stem_kernels: tuple[PositiveInt, ...] = (3, 7, 15)
    low_res: bool = False
    low_res_resize: Resize = "nearest"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
