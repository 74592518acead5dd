"""How well images fit their captions, by a CLIP model.

The score of a pair is the plain cosine of its two embeddings (Hessel et al. 2021 scale it by 2.5 and clip it
at 0, https://arxiv.org/abs/2104.08718; RSDiff does not, nor is that done here).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.networks.clip import load_clip
from satcascade.evaluation.networks.feature_network import FeatureNetwork

# Of RSDiff's published baseline.
SHUFFLE_SEED = 17


def measure_clip(comparison: Comparison, _: FeatureNetwork) -> Measured:
    """The CLIP-score of a comparison, of each image and of each scene class; on the CLIP model alone."""
    model = load_clip(comparison.clip, comparison.device)
    images = comparison.generated_features(model.images)
    with comparison.display.task("captions", len(comparison.bundle)) as task:
        texts = model.texts(comparison.bundle.captions, task.advance)
    result = clip_score(images, texts, comparison.labels)
    return Measured(
        result.metrics(),
        images=[{"clip_score": score} for score in result.scores.tolist()],
        classes={name: {"n": row.n, "clip_score": row.score} for name, row in result.by_class.items()},
    )


@dataclass(frozen=True)
class ClassScore:
    """The score of one scene class.

    Attributes:
        n: its images.
        score: mean cosine with their captions.
    """

    n: int
    score: float


@dataclass(frozen=True)
class ClipScore:
    """CLIP-score of captioned images.

    Attributes:
        n: images.
        score: mean cosine of image and caption.
        std: its standard deviation over images.
        shuffled: mean cosine of images and shuffled captions: what any image of such a set gets.
        by_class: the score of each scene class, by name; empty without labels.
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
        by_class[name] = ClassScore(len(rows), float(scores[rows].mean()))
    return ClipScore(
        len(scores), float(scores.mean()), float(scores.std()), float(shuffled.mean()), by_class, scores
    )
