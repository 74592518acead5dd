"""Guidance and thresholding, whatever the numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.diffusion.guidance import Guidance, dynamic_threshold, guide
from satcascade.errors import UsageError


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 1000), st.booleans())
def test_guidance_of_one_is_the_conditional_prediction(seed, projected):
    conditional, null = images(seed), images(seed + 1)
    torch.testing.assert_close(guide(conditional, null, 1.0, projected), conditional)


@given(st.integers(0, 1000), st.floats(1.5, 10))
def test_projected_guidance_moves_at_a_right_angle(seed, scale):
    conditional, null = images(seed), images(seed + 1)
    move = guide(conditional, null, scale, projected=True) - conditional
    assert (move * conditional).sum((1, 2, 3)).abs().max() < 1e-8
    plain = guide(conditional, null, scale) - conditional
    torch.testing.assert_close(plain, (scale - 1) * (conditional - null))


@given(st.integers(0, 1000), st.booleans(), st.floats(1.5, 10))
def test_rescaled_guidance_has_the_deviation_of_the_conditional_prediction(seed, projected, scale):
    conditional, null = images(seed), images(seed + 1)
    guided = guide(conditional, null, scale, projected)
    rescaled = guide(conditional, null, scale, projected, rescale=1.0)
    own, theirs = rescaled.std(dim=(1, 2, 3)), conditional.std(dim=(1, 2, 3))
    torch.testing.assert_close(own, theirs)
    # In the direction of plain guidance, and half way if asked so.
    half = guide(conditional, null, scale, projected, rescale=0.5)
    torch.testing.assert_close(half, (guided + rescaled) / 2)
    ratios = rescaled / guided
    torch.testing.assert_close(ratios, ratios.flatten(1)[:, :1, None, None].expand_as(ratios))


@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_dynamic_threshold_keeps_images_in_range(seed, scale):
    x0 = images(seed) * scale
    result = dynamic_threshold(x0)
    assert result.abs().max() <= 1 + 1e-9
    inside = x0.clamp(-1, 1)
    torch.testing.assert_close(dynamic_threshold(inside), inside)


@given(st.floats(0, 10), st.floats(-12, 12), st.floats(-12, 12), st.floats(0, 24))
def test_guidance_applies_within_its_interval_and_where_it_does_something(scale, log_snr, low, width):
    everywhere, within = Guidance(scale), Guidance(scale, interval=(low, low + width))
    assert everywhere.applies(log_snr) == (scale != 1)
    assert within.applies(log_snr) == (scale != 1 and low <= log_snr <= low + width)


@pytest.mark.parametrize(
    "settings", [{"scale": -0.5}, {"scale": float("nan")}, {"rescale": 1.5}, {"rescale": -1.0}]
)
def test_guidance_out_of_range_is_refused(settings):
    with pytest.raises(UsageError, match="guidance"):
        Guidance(**settings)
