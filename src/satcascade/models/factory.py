"""Networks from their configuration."""

from __future__ import annotations

from diffusers import ModelMixin

from satcascade.config import CompactModel
from satcascade.models.compact_unet import CompactUNet


def build_model(config: CompactModel) -> ModelMixin:
    """A network with random weights (draw the seed first, with ``torch.manual_seed``)."""
    arguments = config.model_dump(exclude={"architecture"})
    # Lists, as they come back from the JSON that diffusers stores beside the weights.
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return CompactUNet(**arguments)
