"""An encoder in closed form: principal components of the patches of images, and the decoder that inverts it.

The covariance of patches is averaged over the eight symmetries of the square. Each component then looks the
same in a mirror up to its sign, and a transposition exchanges components up to their signs: the latents of a
turned image are those of the image, turned, with some channels exchanged or negated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.data.views import to_float
from satcascade.errors import UsageError
from satcascade.models.codec import TinyAutoencoder

# Root mean square of the latents before normalisation. The decoder begins with 3 tanh(z / 3), which at
# 0.2 takes more than 1 dB from bright and dark images.
SCALE = 0.025
_IMAGES_AT_ONCE = 8
# Separates components of equal variance by their symmetry, far below what separates others.
_TIE = 1e-7


@dataclass(frozen=True)
class Components:
    """Principal components of patches of P x P pixels, in [-1, 1].

    Attributes:
        mean: (3 P P,), of the patches.
        basis: (3 P P, C), orthonormal columns, by falling variance.
        deviations: (C,), of the patches along each.
    """

    mean: Tensor
    basis: Tensor
    deviations: Tensor

    def scales(self, spectrum: float) -> Tensor:
        """Deviations (C,) of the latents: those of the patches to a power, ``SCALE`` over all channels."""
        powers = self.deviations**spectrum
        return SCALE * powers / powers.square().mean().sqrt()


@torch.no_grad()
def patch_components(
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    patch: int,
    channels: int,
    progress: Callable[[int], None] | None = None,
) -> Components:
    """Principal components of the patches of images.

    Args:
        images: (N, S, S, 3), RGB; S divisible by ``patch``.
        rows: which of them.
        patch: side P of the patches.
        channels: how many components, C.
        progress: called with numbers of images done.

    Returns:
        In float64.
    """
    size = 3 * patch**2
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    count = 0
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        pixels = torch.from_numpy(images[rows[start : start + _IMAGES_AT_ONCE]])
        patches = F.pixel_unshuffle(to_float(pixels, images.shape[1]), patch).movedim(1, -1).flatten(0, 2)
        total += patches.sum(0)
        products += patches.T @ patches
        count += len(patches)
        if progress:
            progress(len(pixels))
    mean = total / count
    covariance = products / count - mean.outer(mean)

    unit = torch.eye(size, dtype=torch.float64)
    patches = unit.unflatten(1, (3, patch, patch))
    left_right, up_down, exchanged = (
        patches.flip(-1).flatten(1),
        patches.flip(-2).flatten(1),
        patches.mT.flatten(1),
    )
    turns = [a @ b @ c for a in (unit, exchanged) for b in (unit, left_right) for c in (unit, up_down)]
    covariance = sum((turn.T @ covariance @ turn for turn in turns), torch.zeros_like(covariance)) / 8
    mean = sum((turn @ mean for turn in turns), torch.zeros_like(mean)) / 8
    tie = _TIE * covariance.diagonal().mean() * (left_right + 0.4 * up_down)
    variances, basis = torch.linalg.eigh(covariance + tie)
    variances, basis = variances.flip(0)[:channels], basis.flip(1)[:, :channels]
    # A sign that does not depend on the solver.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return Components(mean, basis * largest.sign(), variances.clamp(min=1e-12).sqrt())


@torch.no_grad()
def set_encoder(vae: TinyAutoencoder, components: Components, spectrum: float) -> None:
    """Make the encoder the transform to components, with its statistics.

    Deviations are stored as one for all channels, so that normalised latents keep the proportions that
    ``spectrum`` gives them.

    Raises:
        UsageError: the encoder has not the one level without blocks of which this can be made.
    """
    config, channels = vae.config, components.basis.shape[1]
    if tuple(config.num_encoder_blocks) != (0,) or config.encoder_block_out_channels[0] < channels:
        raise UsageError(
            "an encoder of principal components has model.num_encoder_blocks=[0] and is at least as wide as "
            "latents have channels: set that, or give a teacher"
        )
    first, second = vae.encoder.layers
    for convolution in (first, second):
        _clear(convolution)
    whitened = components.basis.T / components.deviations[:, None]
    # The encoder brings pixels from [-1, 1] to [0, 1] first.
    first.weight[:channels, :, 1, 1] = 2 * whitened
    first.bias[:channels] = -whitened @ (1 + components.mean)
    second.weight[:, :channels, 1, 1] = components.scales(spectrum).diag()
    vae.register_to_config(latents_mean=[0.0] * channels, latents_std=[SCALE] * channels)


@torch.no_grad()
def set_decoder(vae: TinyAutoencoder, components: Components, spectrum: float) -> None:
    """Let the decoder begin as the inverse of the transform, where its shape can hold it.

    Its blocks begin as the identity on what is not negative: latents and negated latents go through them
    beside each other.
    """
    config, channels = vae.config, components.basis.shape[1]
    width = config.decoder_block_out_channels[0]
    fits = len(config.num_decoder_blocks) == 1 and config.decoder_patch_size == config.encoder_patch_size
    if not fits or width < 2 * channels:
        return
    layers = vae.decoder.layers
    first, last = layers[0], layers[-1]
    first.weight[: 2 * channels].zero_()
    first.bias.zero_()
    unit = torch.eye(channels)
    first.weight[: 2 * channels, :, 1, 1] = torch.cat([unit, -unit])
    for block in layers:
        if hasattr(block, "conv"):
            _clear(block.conv[-1])
    _clear(last)
    # The decoder brings pixels from [0, 1] to [-1, 1] last.
    inverse = components.basis * (components.deviations / components.scales(spectrum)) / 2
    last.weight[:, : 2 * channels, 1, 1] = torch.cat([inverse, -inverse], dim=1)
    last.bias.copy_((components.mean + 1) / 2)


def _clear(convolution: nn.Module) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
