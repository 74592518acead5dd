"""The texture that a decoder leaves out: noise, as strong as the latents say.

What a latent leaves open, a small decoder paints over: water, a canopy or roofs come out as smooth strokes. A
codec of films has the same trouble and the same way out: it sends how strong the grain was, and the player
makes grain of that strength (Norkin and Birkbeck, "Film Grain Synthesis for AV1", 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Side of the block of noise that each position of the latents has.
_BLOCK = 8
# Fine and coarse noise, the coarse at half the resolution.
_KINDS = 2
_SEED = 0


class Grain(nn.Module):
    """Noise of two sizes, with a strength a position and a tint.

    The noise follows from the latents by a fixed function that no training changes and that is all but
    random: the same latents have the same grain, in any batch, window or process. It is white within a block
    and between blocks; positions have equal noise only if their latents are equal.

    Args:
        latent_channels: C of the latents.
        hidden: channels of the network that tells the strength.
        factor: how many pixels a position of the latents is wide; divisible by 8.

    Raises:
        ValueError: the factor is not divisible by 8.
    """

    phases: Tensor
    directions: Tensor

    def __init__(self, latent_channels: int, hidden: int, factor: int):
        super().__init__()
        if factor % _BLOCK:
            raise ValueError(f"grain needs a factor divisible by {_BLOCK}, not {factor}")
        self._enlargement = factor // _BLOCK
        strength = nn.Conv2d(hidden, _KINDS, 3, padding=1)
        if strength.bias is not None:
            # Of the logarithm: next to nothing before training.
            nn.init.constant_(strength.bias, -4.0)
        self.strength = nn.Sequential(nn.Conv2d(latent_channels, hidden, 3, padding=1), nn.ReLU(), strength)
        self.tint = nn.Parameter(torch.ones(_KINDS, 3))
        generator = torch.Generator().manual_seed(_SEED)
        count = _KINDS * _BLOCK**2
        # Numbers that float16 and bfloat16 hold exactly, so that the grain is nearly the same in all of them.
        directions = torch.randn(count, latent_channels, 1, 1, generator=generator)
        self.register_buffer("directions", (directions * 24).round() / 4, persistent=False)
        phases = torch.randint(0, 50, (count,), generator=generator) / 8
        self.register_buffer("phases", phases, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """What to add to pictures: (B, 3, h * factor, w * factor).

        Args:
            latents: (B, C, h, w), of deviation about 1.
        """
        fine, coarse = (self._noise(latents) * self._deviations(latents)).chunk(_KINDS, 1)
        fine = self._enlarged(fine * self.tint[0].view(3, 1, 1), self._enlargement)
        # Means of four are half as strong.
        coarse = 2 * F.avg_pool2d(coarse, 2) * self.tint[1].view(3, 1, 1)
        return fine + self._enlarged(coarse, 2 * self._enlargement)

    def _noise(self, latents: Tensor) -> Tensor:
        """(B, 2, 8 h, 8 w) of mean 0 and variance 1, in float32: half precision loses the turns."""
        with torch.autocast(latents.device.type, enabled=False):
            angles = F.conv2d(latents.float(), self.directions.float(), self.phases.float())
        return F.pixel_shuffle(2**0.5 * angles.sin(), _BLOCK).to(latents.dtype)

    def _deviations(self, latents: Tensor) -> Tensor:
        return F.interpolate(self.strength(latents), scale_factor=_BLOCK, mode="bilinear").exp()

    @staticmethod
    def _enlarged(planes: Tensor, times: int) -> Tensor:
        return F.interpolate(planes, scale_factor=times, mode="bicubic") if times > 1 else planes
