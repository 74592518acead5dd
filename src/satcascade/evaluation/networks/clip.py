"""How well images fit their captions, by a CLIP model: Radford et al. 2021, https://arxiv.org/abs/2103.00020.

The score of a pair is the plain cosine of its two embeddings (Hessel et al. 2021 scale it by 2.5 and clip it
at 0, https://arxiv.org/abs/2104.08718; RSDiff does not, nor is that done here).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.evaluation.networks.feature_network import FeatureNetwork, weights_fingerprint

CLIP_PREFIX = "clip-image:"
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
# Of RSDiff's published baseline.
SHUFFLE_SEED = 17
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClassScore:
    """The score of one scene class.

    Attributes:
        n: its images.
        score: mean cosine with their captions.
        shuffled: the same with the shuffled captions.
    """

    n: int
    score: float
    shuffled: float

    @property
    def lift(self) -> float:
        """Score less shuffled score."""
        return self.score - self.shuffled


@dataclass(frozen=True)
class ClipScore:
    """CLIP-score of captioned images.

    Attributes:
        n: images.
        score: mean cosine of image and caption.
        std: its standard deviation over images.
        shuffled: mean cosine of images and shuffled captions: what any image of such a set gets.
        by_class: the same for each scene class, by name; empty without labels.
        scores: (N,) float64, of each image.
    """

    n: int
    score: float
    std: float
    shuffled: float
    by_class: dict[str, ClassScore]
    scores: Tensor

    @property
    def lift(self) -> float:
        """Score less shuffled score: what the captions themselves contribute."""
        return self.score - self.shuffled

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``."""
        return {
            "clip_score": self.score,
            "clip_score_std": self.std,
            "clip_score_shuffled": self.shuffled,
            "clip_lift": self.lift,
        }


def clip_score(
    images: Tensor, texts: Tensor, labels: Sequence[str | None] | None = None, seed: int = SHUFFLE_SEED
) -> ClipScore:
    """Cosines of images and their captions, with the baseline of shuffled captions.

    The captions are shuffled as ``random.seed(seed); random.shuffle(captions)`` does it, once; some keep
    their place.

    Args:
        images: (N, D) embeddings of images.
        texts: (N, D) embeddings of their captions.
        labels: N scene classes, None where unknown; for the table by class.
        seed: of the shuffle.

    Raises:
        UsageError: there are fewer than 2 images, or not as many images as captions.
    """
    if len(images) != len(texts):
        raise UsageError(f"{len(images)} images and {len(texts)} captions: there must be as many")
    if len(images) < 2:
        raise UsageError(f"too few images for the CLIP-score: {len(images)}, at least 2 are needed")
    images, texts = (F.normalize(x.double(), dim=1) for x in (images, texts))
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    scores, shuffled = (images * texts).sum(1), (images * texts[order]).sum(1)
    by_class = {}
    for name in sorted({label for label in labels or () if label is not None}):
        rows = [row for row, label in enumerate(labels or ()) if label == name]
        by_class[name] = ClassScore(len(rows), float(scores[rows].mean()), float(shuffled[rows].mean()))
    return ClipScore(
        len(scores), float(scores.mean()), float(scores.std()), float(shuffled.mean()), by_class, scores
    )


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
            (N, D) float64, not normalised.
        """
        limit = self.model.config.text_config.max_position_embeddings
        features = torch.empty(len(captions), self.images.dim, dtype=torch.float64)
        for start in range(0, len(captions), batch):
            part = list(captions[start : start + batch])
            tokens = self.tokenizer(
                part, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            found = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            features[start : start + len(part)] = self.model.text_projection(found.pooler_output)
            if progress:
                progress(len(part))
        return features


def load_clip(name: str = DEFAULT_CLIP) -> ClipEmbedder:
    """Load a CLIP model and its tokenizer.

    Args:
        name: on the hub, or a folder written by ``save_pretrained``.

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
    model.eval()
    scale, offset = (torch.tensor(values).reshape(3, 1, 1) for values in (std, mean))

    def embed(images: Tensor) -> Tensor:
        found = model.vision_model(pixel_values=(images.float() / 255 - offset) / scale)
        return model.visual_projection(found.pooler_output)

    config: Any = model.config
    network = FeatureNetwork(
        f"{CLIP_PREFIX}{name}",
        config.projection_dim,
        weights_fingerprint(model),
        config.vision_config.image_size,
        embed,
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
