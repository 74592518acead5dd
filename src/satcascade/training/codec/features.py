"""What a decoder learns from inside a teacher: the outputs of its residual blocks (Romero et al. 2015).

A picture at the end of 30 convolutions says little about what the first should have done. A teacher that is
built alike says it for each block, and a decoder follows it some ten times sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

from satcascade.errors import UsageError
from satcascade.models.codec import TinyAutoencoder
from satcascade.training.codec.teacher import WIDTH, Teacher, TeacherBlock

# Of channels that never fire.
_LEAST_VARIANCE = 1e-6


class FeatureTargets:
    """The blocks of a decoder beside those of its teacher.

    The first block of a level follows the teacher's first there, and so on; blocks and levels that only one
    of them has are left alone.

    Args:
        vae: whose decoder follows.
        teacher: whose it follows.

    Raises:
        UsageError: no pair, or blocks of another width than the teacher's.
    """

    def __init__(self, vae: TinyAutoencoder, teacher: Teacher):
        own = _levels(vae.decoder.layers, AutoencoderTinyBlock)
        theirs = _levels(teacher.decoder_layers, TeacherBlock)
        levels = zip(own, theirs, strict=False)
        pairs = [pair for level in levels for pair in zip(*level, strict=False)]
        if not pairs or set(vae.config.decoder_block_out_channels) != {WIDTH}:
            raise UsageError(
                f"decoder.teacher_features needs blocks of {WIDTH} channels in the decoder: set "
                "model.decoder_block_out_channels and model.num_decoder_blocks"
            )
        self._own, self._theirs = zip(*pairs, strict=True)
        # What comes after the last of its blocks here has nothing to say.
        last = list(teacher.decoder_layers).index(self._theirs[-1])
        self._layers = teacher.decoder_layers[: last + 1]

    def recorded(self) -> AbstractContextManager[list[Tensor]]:
        """A list to which the decoder's blocks add what they give, (B, C, H, W), inside the context."""
        return _recorded(self._own)

    @torch.no_grad()
    def of(self, latents: Tensor) -> list[Tensor]:
        """What the teacher's blocks give for latents (B, C, h, w) as it takes them, not normalised."""
        with _recorded(self._theirs) as outputs:
            self._layers(latents.contiguous(memory_format=torch.channels_last))
        return outputs


def feature_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The mean over blocks of the squared error as a share of the variance of the target's channels.

    Args:
        outputs: of each block (B, C, H, W).
        targets: the same shapes.
    """
    errors = [
        (output - target).square().mean() / target.var((0, 2, 3)).mean().clamp(min=_LEAST_VARIANCE)
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(errors).mean()


def _levels(layers: nn.Sequential, block: type[nn.Module]) -> list[list[nn.Module]]:
    levels: list[list[nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, nn.Upsample):
            levels.append([])
        elif isinstance(layer, block):
            levels[-1].append(layer)
    return levels


@contextmanager
def _recorded(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in blocks
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
