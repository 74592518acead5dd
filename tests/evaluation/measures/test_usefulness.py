"""Usefulness: synthetic images that help, that do not, and what is drawn."""

from __future__ import annotations

import pytest
import torch

from satcascade.errors import UsageError
from satcascade.evaluation.measures.probe import LabelledFeatures
from satcascade.evaluation.measures.usefulness import BOTH, REAL, SYNTHETIC, Usefulness, fits, usefulness

CLASSES = ["Beach", "Desert", "Forest"]
WIDTH = 24
SIZES = (2, 10)


def clouds(images: int, seed: int, centres: int = 99) -> LabelledFeatures:
    """Features spread widely around a centre a class, so that few of them do not tell where it is."""
    middle = torch.randn(len(CLASSES), WIDTH, generator=torch.Generator().manual_seed(centres)).double()
    labels = torch.arange(images) % len(CLASSES)
    noise = torch.randn(images, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    return LabelledFeatures(middle[labels] + 2 * noise, labels)


def measured(generated: LabelledFeatures, seeds: tuple[int, ...] = (0, 1)) -> Usefulness:
    return usefulness(clouds(60, 0), clouds(300, 1), generated, CLASSES, SIZES, seeds)


@pytest.fixture(scope="module")
def faithful() -> Usefulness:
    """Generated images that are as good as real ones."""
    return measured(clouds(600, 2))


@pytest.mark.slow
def test_good_images_help_most_where_real_ones_are_fewest(faithful: Usefulness) -> None:
    found = faithful.metrics()
    gains = [found[f"usefulness/{BOTH}/{size}"] - found[f"usefulness/{REAL}/{size}"] for size in SIZES]
    assert gains[0] > gains[1] > 0
    assert found[f"usefulness/{REAL}/2"] < found[f"usefulness/{REAL}/10"]
    assert found[f"usefulness/{SYNTHETIC}"] > 0.8


def test_images_of_the_wrong_class_do_harm(faithful: Usefulness) -> None:
    good = clouds(600, 2)
    wrong = measured(LabelledFeatures(good.features, (good.labels + 1) % 3), seeds=(0,)).metrics()
    assert wrong[f"usefulness/{SYNTHETIC}"] < 0.2
    assert wrong[f"usefulness/{BOTH}/10"] < wrong[f"usefulness/{REAL}/10"] - 0.2
    assert wrong[f"usefulness/{REAL}/10"] == faithful.rows[2].accuracies[0], "these see no generated image"


def test_the_table_says_what_was_learnt_from(faithful: Usefulness) -> None:
    assert [(row.kind, row.size, row.n_train) for row in faithful.rows] == [
        (REAL, 2, 6),
        (BOTH, 2, 606),
        (REAL, 10, 30),
        (BOTH, 10, 630),
        (SYNTHETIC, None, 600),
    ]


def test_mean_and_spread_are_over_the_seeds(faithful: Usefulness) -> None:
    first = faithful.rows[0]
    assert len(set(first.accuracies)) > 1, "each seed draws other real images"
    assert first.mean == pytest.approx(sum(first.accuracies) / 2)
    assert first.std == pytest.approx(float(torch.tensor(first.accuracies, dtype=torch.float64).std()))
    found = faithful.metrics()
    assert (found["usefulness/real/2"], found["usefulness_std/real/2"]) == (first.mean, first.std)


def test_a_seed_gives_the_same_numbers_alone_and_among_others(faithful: Usefulness) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    alone = measured(clouds(600, 2), seeds=(1,))
    assert torch.get_rng_state().equal(before)
    assert [row.accuracies for row in alone.rows] == [row.accuracies[1:2] for row in faithful.rows]
    assert alone.rows[0].std == 0


def test_a_class_with_fewer_images_gives_all() -> None:
    train = clouds(60, 0)
    rare = train.subset(torch.cat([torch.tensor([2]), torch.nonzero(train.labels != 2).flatten()]))
    done: list[int] = []
    result = usefulness(rare, clouds(30, 1), clouds(30, 2), CLASSES, SIZES, (0,), done.append)
    assert [row.n_train for row in result.rows if row.kind == REAL] == [2 + 2 + 1, 10 + 10 + 1]
    assert sum(done) == fits(SIZES, (0,)) == 5


def test_more_images_than_there_are_is_the_whole_set() -> None:
    result = usefulness(clouds(60, 0), clouds(30, 1), clouds(30, 2), CLASSES, (1000,), (0,))
    assert result.rows[0].n_train == 60


def test_what_cannot_be_measured_is_refused() -> None:
    data = clouds(30, 0)
    with pytest.raises(UsageError, match="sizes of 1 or more"):
        usefulness(data, data, data, CLASSES, (0, 5))
    with pytest.raises(UsageError, match="a seed or more"):
        usefulness(data, data, data, CLASSES, seeds=())
    with pytest.raises(UsageError, match="width 24 and 3 do not compare"):
        usefulness(data, data, LabelledFeatures(data.features[:, :3], data.labels), CLASSES)
