"""CLIP models, which embed images and captions into one space: Radford et al. 2021.

https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from satcascade.errors import SatcascadeError, one_line
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.io.hashing import weights_fingerprint

CLIP_PREFIX = "clip-image:"
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipEmbedder:
    """A CLIP model that embeds images and captions into one space.

    Attributes:
        name: what it was loaded by.
        images: embeds images, as the feature network ``clip-image:name`` does; not normalised.
        model: the ``CLIPModel``.
        tokenizer: that of its captions.
    """

    name: str
    images: FeatureNetwork
    model: Any
    tokenizer: Any

    @torch.inference_mode()
    def texts(
        self, captions: Sequence[str], progress: Callable[[int], None] | None = None, batch: int = 256
    ) -> Tensor:
        """Embed captions, cut where they are longer than the model reads.

        Args:
            captions: N texts.
            progress: called with numbers of captions done.
            batch: captions at once.

        Returns:
            (N, D) float64, on the CPU, not normalised.
        """
        limit = self.model.config.text_config.max_position_embeddings
        features = torch.empty(len(captions), self.images.dim, dtype=torch.float64)
        for start in range(0, len(captions), batch):
            part = list(captions[start : start + batch])
            tokens = self.tokenizer(
                part, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(self.images.device)
            output = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            features[start : start + len(part)] = self.model.text_projection(output.pooler_output).cpu()
            if progress:
                progress(len(part))
        return features


def load_clip(name: str = DEFAULT_CLIP, device: torch.device | str = "cpu") -> ClipEmbedder:
    """Load a CLIP model and its tokenizer.

    Args:
        name: on the hub, or a folder written by ``save_pretrained``.
        device: where it computes, as torch names it.

    Raises:
        SatcascadeError: it is not there, cannot be fetched, or is no CLIP model.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "clip":
            raise ValueError(f"it is a {kind} model")
        loaded: Any = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        model, loading = loaded
        if loading["missing_keys"]:
            raise ValueError(f"it lacks weights, such as {min(loading['missing_keys'])}")
        tokenizer = AutoTokenizer.from_pretrained(name)
        mean, std = _pixel_statistics(name)
    except Exception as error:  # transformers and the hub client raise many kinds for "cannot be had"
        raise SatcascadeError(
            f"CLIP model '{name}' cannot be loaded ({one_line(error)}): give the folder of one, written by "
            "save_pretrained; of the feature networks, efficientnet-lite0 needs no download"
        ) from error
    fingerprint = weights_fingerprint(model.state_dict())
    device = torch.device(device)
    model.eval().to(device)
    scale, offset = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (std, mean))

    def embed(images: Tensor) -> Tensor:
        output = model.vision_model(pixel_values=(images.float() / 255 - offset) / scale)
        return model.visual_projection(output.pooler_output)

    config: Any = model.config
    network = FeatureNetwork(
        f"{CLIP_PREFIX}{name}",
        config.projection_dim,
        fingerprint,
        config.vision_config.image_size,
        embed,
        device,
    )
    return ClipEmbedder(name, network, model, tokenizer)


def _pixel_statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the pixels that the model was trained with."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(name)
    except OSError:
        settings = {}
    return settings.get("image_mean", _OPENAI_MEAN), settings.get("image_std", _OPENAI_STD)
