"""Networks from their configuration."""

from __future__ import annotations

from diffusers import ModelMixin

from satcascade.config.preset import CompactModel, RSDiffModel
from satcascade.models.compact_unet import CompactUNet
from satcascade.models.rsdiff_unet import RSDiffUNet

_FAMILIES = {"compact": CompactUNet, "rsdiff": RSDiffUNet}


def build_model(config: CompactModel | RSDiffModel) -> ModelMixin:
    """A network with random weights (draw the seed first, with ``torch.manual_seed``)."""
    return _FAMILIES[config.architecture](**model_arguments(config))


def model_arguments(config: CompactModel | RSDiffModel) -> dict[str, object]:
    """The network's constructor arguments, as they come back from the JSON that diffusers stores."""
    arguments = config.model_dump(exclude={"architecture"})
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
