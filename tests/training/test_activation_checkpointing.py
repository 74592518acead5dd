"""Activation checkpointing: the same training from less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from satcascade.models.compact_unet import CompactUNet
from satcascade.models.rsdiff_unet import RSDiffUNet
from tiny_training import assert_same, run

NETWORKS: dict[str, Callable[[], CompactUNet | RSDiffUNet]] = {
    "compact": lambda: CompactUNet(
        sample_size=32, widths=(16, 32), blocks=(1, 1), attention=(False, True), head_dim=16, text_dim=16
    ),
    "rsdiff": lambda: RSDiffUNet(
        sample_size=32,
        width=8,
        width_multipliers=[1, 2],
        blocks=1,
        self_attention=[False, True],
        cross_attention=[False, True],
        heads=2,
        head_dim=8,
        cond_dim=16,
        text_dim=16,
        low_res=False,
    ),
}


def backward(unet: CompactUNet | RSDiffUNet) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients by parameter, and how many numbers were kept for them beside what blocks are given."""
    draw = torch.Generator().manual_seed(1)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    unet.zero_grad()
    text = unet.encode_text(torch.randn(2, 5, 16, generator=draw), torch.ones(2, 5, dtype=torch.bool))
    images = torch.randn(2, 3, 32, 32, generator=draw)
    with saved_tensors_hooks(count, lambda tensor: tensor):
        predicted = unet(images, torch.zeros(2), text)
    (predicted * torch.randn(predicted.shape, generator=draw)).sum().backward()
    gradients = {name: part.grad for name, part in unet.named_parameters() if part.grad is not None}
    return gradients, kept


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_from_a_fraction_of_what_is_kept(name: str) -> None:
    torch.manual_seed(0)
    unet = NETWORKS[name]().train()
    with torch.no_grad():
        # Not as it starts, where many gradients are zero.
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    expected, all_kept = backward(unet)
    unet.enable_gradient_checkpointing()
    found, kept = backward(unet)
    assert kept < 0.5 * all_kept
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_run_takes_the_same_steps(tiny_preset: str, prepared_synthetic: Any, tmp_path: Any) -> None:
    """With dropout: a block is computed again with the draws of the first time. It may go on without, too."""
    with_it = "training.activation_checkpointing=true"

    def steps(name: str, count: int, *more: str) -> Any:
        settings = (f"training.steps={count}", "training.decay_steps=0", *more)
        return run(tiny_preset, prepared_synthetic, tmp_path / name, *settings)

    plain = steps("plain", 4)
    assert_same(plain, steps("all", 4, with_it))
    steps("half", 2, with_it)
    assert_same(plain, steps("half", 4))
