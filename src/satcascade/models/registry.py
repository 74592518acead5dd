"""Networks from their configuration."""

from __future__ import annotations

from satcascade.models.compact_unet import CompactUNet
from satcascade.models.denoiser import Denoiser
from satcascade.models.network_config import NetworkConfig
from satcascade.models.rsdiff_unet import RSDiffUNet

_FAMILIES: dict[str, type[Denoiser]] = {"compact": CompactUNet, "rsdiff": RSDiffUNet}


def build_model(config: NetworkConfig) -> Denoiser:
    """A network with random weights (draw the seed first, with ``torch.manual_seed``)."""
    return _FAMILIES[config.architecture](**config.arguments())
