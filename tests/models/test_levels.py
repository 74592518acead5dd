"""Pictures in [-1, 1] and their levels."""

from __future__ import annotations

import torch

from satcascade.models.levels import from_levels, to_levels


def test_every_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pictures = from_levels(levels)
    assert pictures.dtype == torch.float32
    assert (pictures.min(), pictures.max()) == (-1, 1)
    assert torch.equal(to_levels(pictures), levels)


def test_a_picture_goes_to_the_nearest_level():
    pictures = torch.linspace(-1, 1, 10_001, dtype=torch.float64)
    misses = (pictures + 1) * 127.5 - to_levels(pictures)
    assert misses.abs().max() <= 0.5 + 1e-9


def test_the_levels_given_are_not_changed():
    levels = torch.tensor([0, 128, 255], dtype=torch.uint8)
    from_levels(levels)
    assert levels.tolist() == [0, 128, 255]
