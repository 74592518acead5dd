"""The critic of a decoder: which pictures are real (Goodfellow et al. 2014; hinge loss of Lim and Ye 2017).

Errors of pixels make a decoder paint the mean of all details that a latent leaves open, which is a blur. The
critic pulls it to one of them. Its gradient at the decoded pixels is brought to the norm of that of the other
errors, so that its share does not depend on how sure it is (as the adaptive weight of Esser et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Pictures are averaged down by this first: no decoder has the finest detail of real ones, and a critic that
# sees it looks at nothing else.
_REDUCTION = 2
_PATCH = 2
_WIDTHS = (48, 96, 128)
# What differs from the mean of a window of this side is shown to it a second time, this much stronger.
# Without that it takes ten times as many steps to see textures at all.
_DETAIL_WINDOW = 5
_DETAIL_GAIN = 5


class Critic(nn.Module):
    """Scores for the patches of a picture: above 1 is surely real, below -1 surely made.

    Args:
        latent_channels: C of the latents that pictures are decoded from.
    """

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.patches = nn.Conv2d(2 * 3 * _PATCH**2, first, 3, padding=1)
        self.middle = nn.Conv2d(first, second, 4, stride=2, padding=1)
        self.middle_score = nn.Conv2d(second, 1, 3, padding=1)
        self.coarse = nn.Conv2d(second, third, 4, stride=2, padding=1)
        self.beside_latents = nn.Conv2d(third + latent_channels, third, 3, padding=1)
        self.coarse_score = nn.Conv2d(third, 1, 3, padding=1)

    def forward(self, images: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, 1, S / 8, S / 8) and (B, 1, S / 16, S / 16).

        Args:
            images: (B, 3, S, S) in [-1, 1]; S divisible by 16.
            latents: (B, C, s, s), normalised, that they were or could be decoded from.
        """
        reduced = F.avg_pool2d(images, _REDUCTION)
        mean = F.avg_pool2d(
            reduced, _DETAIL_WINDOW, stride=1, padding=_DETAIL_WINDOW // 2, count_include_pad=False
        )
        shown = F.pixel_unshuffle(torch.cat([reduced, _DETAIL_GAIN * (reduced - mean)], 1), _PATCH)
        x = _activated(self.patches(shown.contiguous(memory_format=torch.channels_last)))
        x = _activated(self.middle(x))
        middle = self.middle_score(x)
        x = _activated(self.coarse(x))
        beside = F.interpolate(latents, x.shape[-2:])
        return middle, self.coarse_score(_activated(self.beside_latents(torch.cat([x, beside], 1))))


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def critic_loss(critic: Critic, real: Tensor, decoded: Tensor, latents: Tensor) -> Tensor:
    """The hinge loss of a critic on real and on decoded pictures, each (B, 3, S, S); 1 before it knows.

    Args:
        critic: in training.
        real: pictures.
        decoded: what was decoded of their latents.
        latents: (B, C, s, s), normalised.
    """
    both = critic(torch.cat([real, decoded]), torch.cat([latents, latents]))
    losses = [
        (F.relu(1 - scores_real).mean() + F.relu(1 + scores_decoded).mean()) / 2
        for scores_real, scores_decoded in (scores.chunk(2) for scores in both)
    ]
    return torch.stack(losses).mean()


def adversarial_gradient(critic: Critic, decoded: Tensor, latents: Tensor, beside: Tensor) -> Tensor:
    """The direction in which decoded pictures look less real to a critic.

    Args:
        critic: not changed.
        decoded: (B, 3, S, S).
        latents: (B, C, s, s), normalised, that they were decoded from.
        beside: a gradient of the shape of ``decoded``.

    Returns:
        The gradient of the negated mean scores at ``decoded``, scaled to the norm of ``beside``.
    """
    leaf = decoded.detach().requires_grad_()
    middle, coarse = critic(leaf, latents)
    (gradient,) = torch.autograd.grad(-middle.mean() - coarse.mean(), leaf)
    return gradient * (beside.norm() / gradient.norm().clamp(min=1e-20))
