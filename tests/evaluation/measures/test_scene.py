"""Scene accuracy: right and wrong captions, mode collapse, missing classes and labels."""

from __future__ import annotations

import pytest
import torch

from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe, class_names, label_numbers
from satcascade.evaluation.measures.scene import SceneAccuracy, scene_accuracy

CLASSES = ["Beach", "Desert", "Forest", "Pond"]
WIDTH = 12


def clouds(images: int, seed: int, spread: float = 0.3) -> LabelledFeatures:
    """Features around a centre a class, which the seed has no part in; labels in turn."""
    centres = torch.randn(len(CLASSES), WIDTH, generator=torch.Generator().manual_seed(99)).double()
    labels = torch.arange(images) % len(CLASSES)
    noise = torch.randn(images, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    return LabelledFeatures(centres[labels] + spread * noise, labels)


def relabelled(data: LabelledFeatures, labels: torch.Tensor) -> LabelledFeatures:
    return LabelledFeatures(data.features, labels)


def measured(generated: LabelledFeatures) -> SceneAccuracy:
    return scene_accuracy(clouds(200, 0), clouds(80, 1), generated, CLASSES)


def test_separable_classes_are_told() -> None:
    result = measured(clouds(100, 2))
    assert result.metrics() == {"scene_accuracy": 1, "scene_accuracy_real": 1, "zero_shot_accuracy": 1}
    assert result.confusion.equal(25 * torch.eye(4, dtype=torch.int64))
    assert [(row.n_generated, row.accuracy) for row in result.table()] == [(25, 1)] * 4
    assert result.confusion_real.equal(20 * torch.eye(4, dtype=torch.int64))


def test_the_class_asked_for_is_likely_where_it_is_the_answer() -> None:
    generated = clouds(12, 5)
    result = measured(
        relabelled(generated, torch.where(torch.arange(len(generated)) < 3, 2, generated.labels))
    )
    right = result.answers == torch.where(torch.arange(len(generated)) < 3, 2, generated.labels)
    assert result.confidence[right].min() > 0.5 > result.confidence[~right].max()
    assert 0 < int(right.sum()) < len(generated)


def test_wrong_captions_lower_scene_accuracy_by_their_share() -> None:
    generated = clouds(100, 2)
    labels = generated.labels.clone()
    labels[:20] = (labels[:20] + 1) % 4
    assert measured(relabelled(generated, labels)).metrics()["scene_accuracy"] == 0.8


def test_shuffled_labels_come_to_chance() -> None:
    generated = clouds(400, 2)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(5))
    accuracy = measured(relabelled(generated, generated.labels[order])).metrics()["scene_accuracy"]
    assert 0.15 < accuracy < 0.35


def test_a_collapsed_generator_fails_in_both_directions() -> None:
    """Every image shows a beach, whatever the caption asks for."""
    beaches = clouds(400, 2).features[::4]
    result = measured(LabelledFeatures(beaches, torch.arange(100) % 4))
    assert result.metrics()["scene_accuracy"] == 0.25
    assert result.metrics()["zero_shot_accuracy"] < 0.7
    assert result.metrics()["scene_accuracy_real"] == 1
    assert [CLASSES[column] for column in result.confusion.argmax(1)] == ["Beach"] * 4


def test_a_class_that_was_not_generated_counts_against_the_reverse_alone() -> None:
    generated = clouds(100, 2)
    result = measured(generated.subset(torch.nonzero(generated.labels != 3).flatten()))
    assert [row.name for row in result.table() if not row.n_generated] == ["Pond"]
    assert result.table()[3].accuracy is None
    assert result.confusion_real[3, 3] == result.confusion_real[3].sum()
    assert result.confusion_zero_shot[3, 3] == 0
    assert result.metrics()["scene_accuracy"] == 1
    assert result.metrics()["zero_shot_accuracy"] == 0.75


def test_one_generated_image_is_enough_to_be_asked_about() -> None:
    result = measured(clouds(1, 2))
    assert result.metrics()["scene_accuracy"] == 1
    assert result.metrics()["zero_shot_accuracy"] == 0.25


def test_the_result_depends_on_the_seed_and_on_no_global_state() -> None:
    hard = clouds(200, 0, spread=2.0)
    torch.manual_seed(1)
    first = LinearProbe(hard, 4)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = LinearProbe(hard, 4)
    assert torch.get_rng_state().equal(before)
    assert first.layer.weight.equal(second.layer.weight)
    assert not first.layer.weight.equal(LinearProbe(hard, 4, seed=1).layer.weight)


def test_the_probe_begins_as_the_one_that_measured_the_anchors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("satcascade.evaluation.measures.probe.STEPS", 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.nn.Linear(WIDTH, 4)
    assert LinearProbe(clouds(20, 0), 4).layer.weight.equal(expected.weight)


def test_features_need_not_be_standardised_beforehand() -> None:
    train, test = clouds(200, 0), clouds(80, 1)
    scale = torch.logspace(-3, 3, WIDTH).double()
    probe = LinearProbe(LabelledFeatures(1000 + scale * train.features, train.labels), 4)
    assert probe.accuracy(LabelledFeatures(1000 + scale * test.features, test.labels)) == 1


def test_a_feature_that_is_constant_in_training_is_left_out() -> None:
    train, test = clouds(20, 0), clouds(80, 1)
    train.features[:, 3] = 0
    probe = LinearProbe(train, 4)
    before = probe(test.features)
    test.features[:, 3] += 5
    assert probe(test.features).equal(before)
    assert probe.accuracy(test) > 0.9


def test_labels_become_places_among_sorted_names() -> None:
    labels = ["Pond", "Beach", "Pond"]
    assert class_names(labels) == ["Beach", "Pond"]
    assert label_numbers(labels, ["Beach", "Pond"]).tolist() == [1, 0, 1]


def test_missing_or_foreign_labels_are_refused_in_one_line() -> None:
    with pytest.raises(
        SatcascadeError, match=r"^2 of 3 images have no scene class \(the first: image 1\): .*"
    ):
        class_names(["Pond", None, None])
    with pytest.raises(SatcascadeError, match=r"^scene class 'Moon' is none of the 2 .*: Beach, Pond$"):
        label_numbers(["Pond", "Moon"], ["Beach", "Pond"])


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(UsageError, match="2 features and 3 labels"):
        LabelledFeatures(torch.zeros(2, 5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="0 features and 0 labels"):
        LabelledFeatures(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    narrow = LabelledFeatures(torch.zeros(4, 5).double(), torch.arange(4))
    with pytest.raises(UsageError, match="width 5 and 12 do not compare"):
        measured(narrow)
