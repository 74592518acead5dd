from __future__ import annotations

import pytest
import torch
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.evaluation.measures.manifold import manifold_scores


def blobs(n: int, seed: int, kinds: int = 5, noise: float = 1.0) -> Tensor:
    """Features in a few far clusters, n in all."""
    generator = torch.Generator().manual_seed(seed)
    centres = 8 * torch.randn(5, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    rows = torch.randn(n, 12, generator=generator, dtype=torch.float64) * noise
    return rows + centres[torch.arange(n) % kinds]


def test_identical_sets_are_perfect() -> None:
    a = blobs(60, 1)
    found = manifold_scores(a, a.clone(), "x")
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_identical_sets_with_many_copies_of_an_image_are_perfect() -> None:
    a = torch.cat([blobs(20, 1) + 1000, (blobs(1, 2) + 1000).expand(10, -1)])
    found = manifold_scores(a, a.clone(), "x")
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_far_sets_share_nothing() -> None:
    found = manifold_scores(blobs(60, 1), blobs(60, 2) + 500, "x")
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_mode_collapse_costs_recall_and_coverage_but_not_precision() -> None:
    real, good, collapsed = blobs(300, 1), blobs(300, 2), blobs(300, 3, kinds=1)
    before, after = manifold_scores(good, real, "x"), manifold_scores(collapsed, real, "x")
    assert after.recall < 0.3 < 0.7 < before.recall
    assert after.coverage < 0.3 < 0.7 < before.coverage
    assert after.precision > before.precision - 0.1


def test_noise_costs_precision_and_density() -> None:
    real = blobs(300, 1)
    scores = [manifold_scores(blobs(300, 2, noise=noise), real, "x") for noise in (1, 1.5, 3)]
    assert scores[0].precision > scores[1].precision > scores[2].precision
    assert scores[0].density > scores[1].density > scores[2].density


def test_values_on_a_line() -> None:
    # Real at 0, 1, 2, 3 with k = 1: balls of radius 1, so that 3.5 lies in one, 1 in three, 9 in none.
    real = torch.arange(4.0)[:, None]
    found = manifold_scores(torch.tensor([[3.5], [1.0], [9.0]]), real, "x", k=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3)
    assert found.coverage == 1
    # Generated balls: 2.5 around 3.5, 2.5 around 1, 5.5 around 9.
    assert found.recall == 1


def test_agrees_with_the_definition_across_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, k = blobs(50, 1), blobs(40, 2), 3
    radii = [torch.cdist(x, x).sort(1).values[:, k] for x in (a, b)]
    between = torch.cdist(a, b)
    monkeypatch.setattr("satcascade.evaluation.measures.manifold._ROWS_AT_ONCE", 7)
    found = manifold_scores(a, b, "net", k)
    assert found.metrics() == pytest.approx(
        {
            "precision/net": float((between <= radii[1]).any(1).double().mean()),
            "recall/net": float((between <= radii[0][:, None]).any(0).double().mean()),
            "density/net": float((between <= radii[1]).double().sum(1).mean()) / k,
            "coverage/net": float((between <= radii[1]).any(0).double().mean()),
        }
    )


def test_too_few_images_and_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="too few images for precision and recall: 5, at least 6"):
        manifold_scores(blobs(5, 1), blobs(60, 2), "x")
    with pytest.raises(UsageError, match="width 12 and 11"):
        manifold_scores(blobs(60, 1), blobs(60, 2)[:, :11], "x")
