"""Losses of the decoder: pixels, edges, and a critic that compares patches with their originals."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class PatchCritic(nn.Sequential):
    """Scores of overlapping patches, (B, 1, H / 8, W / 8), of images (B, 3, H, W); H and W divisible by 8.

    Spectral normalisation bounds its slope (Miyato et al. 2018).
    """

    def __init__(self, widths: tuple[int, int, int] = (48, 96, 128)):
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        channels = 12
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))
        super().__init__(*layers)


def critic_loss(critic: PatchCritic, real: Tensor, made: Tensor) -> Tensor:
    """The critic's loss: each real patch is to score above the one made of it (Jolicoeur-Martineau 2018)."""
    return F.softplus(critic(made) - critic(real)).mean()


def adversarial_gradient(critic: PatchCritic, real: Tensor, made: Tensor) -> Tensor:
    """The gradient of the opposite loss with respect to what was made, (B, 3, H, W)."""
    # Scores of the real ones as for the critic, but nothing of it learns here.
    critic.requires_grad_(False)
    made = made.detach().requires_grad_()
    loss = F.softplus(critic(real) - critic(made)).mean()
    (gradient,) = torch.autograd.grad(loss, made)
    critic.requires_grad_(True)
    return gradient


def reconstruction_loss(made: Tensor, real: Tensor, gradient_weight: float) -> Tensor:
    """Mean absolute difference of pixels, and of the differences between neighbours.

    Args:
        made: (B, 3, H, W) in [-1, 1] or a little beyond.
        real: the same shape.
        gradient_weight: of the second part.
    """
    error = made - real
    loss = error.abs().mean()
    if gradient_weight:
        steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = loss + gradient_weight * steps / 2
    return loss
