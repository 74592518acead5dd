"""The critic of a decoder: which pictures are real (Goodfellow et al. 2014; hinge loss of Lim and Ye 2017).

Errors of pixels make a decoder paint the mean of all details that a latent leaves open, which is a blur. The
critic pulls it to one of them. Its gradient at the decoded pixels is brought to the norm of that of the other
errors, so that its share does not depend on how sure it is (as the adaptive weight of Esser et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

# Steps in which the weight of its gradient rises from 0.
CRITIC_WARMUP = 500
_PATCH = 4
_WIDTHS = (64, 96, 128)


class Critic(nn.Module):
    """A score for each patch of a picture: above 1 is surely real, below -1 surely made.

    Convolutions work on patches of 4 x 4 pixels, so at a quarter of the side and below; spectral
    normalisation (Miyato et al. 2018) bounds how steep they are.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.layers = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv2d(3 * _PATCH**2, first, 3, padding=1),
                nn.Conv2d(first, second, 4, stride=2, padding=1),
                nn.Conv2d(second, third, 4, stride=2, padding=1),
                nn.Conv2d(third, third, 3, padding=1),
                nn.Conv2d(third, 1, 3, padding=1),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, 1, S / 16, S / 16) of images (B, 3, S, S) in [-1, 1]; S divisible by 16."""
        x = F.pixel_unshuffle(images, _PATCH).contiguous(memory_format=torch.channels_last)
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        scores: Tensor = self.layers[-1](x)
        return scores


def critic_loss(critic: Critic, real: Tensor, decoded: Tensor) -> Tensor:
    """The hinge loss of a critic on real and on decoded pictures, each (B, 3, S, S)."""
    scores_real, scores_decoded = critic(torch.cat([real, decoded])).chunk(2)
    return (F.relu(1 - scores_real).mean() + F.relu(1 + scores_decoded).mean()) / 2


def adversarial_gradient(critic: Critic, decoded: Tensor, beside: Tensor) -> Tensor:
    """The direction in which decoded pictures look less real to a critic.

    Args:
        critic: not changed.
        decoded: (B, 3, S, S).
        beside: a gradient of that shape.

    Returns:
        The gradient of the negated mean score at ``decoded``, scaled to the norm of ``beside``.
    """
    leaf = decoded.detach().requires_grad_()
    # Without another step of the power iteration behind spectral normalisation.
    critic.eval()
    (gradient,) = torch.autograd.grad(-critic(leaf).mean(), leaf)
    critic.train()
    return gradient * (beside.norm() / gradient.norm().clamp(min=1e-20))
