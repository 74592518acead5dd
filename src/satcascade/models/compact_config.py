"""Configuration of :class:`satcascade.models.compact_unet.CompactUNet`, read without loading torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from satcascade.models.network_config import NetworkConfig, Resize


class CompactModel(NetworkConfig):
    """Arguments of :class:`satcascade.models.compact_unet.CompactUNet`, which explains them."""

    architecture: Literal["compact"] = "compact"
    sample_size: PositiveInt
    patch_size: PositiveInt = 4
    widths: tuple[PositiveInt, ...]
    blocks: tuple[PositiveInt, ...]
    attention: tuple[bool, ...]
    self_attention: bool = True
    head_dim: PositiveInt = 64
    cond_dim: PositiveInt = 384
    text_dim: PositiveInt = 384
    dropout: float = Field(0.0, ge=0.0, le=1.0)
    low_res: bool = False
    low_res_resize: Resize = "bilinear"
    sigma_data: PositiveFloat = 0.5
    sigma_residual: PositiveFloat | None = None
    prediction_type: Literal["v_prediction", "epsilon", "sample"] = "v_prediction"
    preconditioned: bool = True
    detail_width: PositiveInt | None = None
    detail_blocks: PositiveInt = 1
    in_channels: PositiveInt = 3

    @property
    def channels(self) -> int:
        """Channels of what the network denoises."""
        return self.in_channels
