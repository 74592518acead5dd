"""Codecs: what stands between images and what a stage diffuses.

:class:`PixelCodec` is the identity: a stage diffuses pixels. :class:`LatentCodec` puts a
:class:`TinyAutoencoder` between them: a stage diffuses its latents, an eighth of the side or so.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# For diffusers, which looks in a component's module for the base class that says how it is loaded.
from diffusers import AutoencoderTiny, ModelMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.models.grain import Grain

# What AutoencoderTiny writes into its configuration and this class neither uses nor takes.
_UNUSED = (
    *("in_channels", "out_channels", "block_out_channels", "force_upcast"),
    *("latent_magnitude", "latent_shift", "scaling_factor", "shift_factor"),
)


class WideBlock(AutoencoderTinyBlock):
    """A block that first adds to each position what a network of one hidden layer makes of it alone.

    Args:
        channels: width of the block.
        expansion: width of the hidden layer, in multiples of ``channels``.
        act_fn: as in ``AutoencoderTiny``.
    """

    def __init__(self, channels: int, expansion: int, act_fn: str):
        super().__init__(channels, channels, act_fn)
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, expansion * channels, 1),
            nn.ReLU(),
            nn.Conv2d(expansion * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (B, channels, H, W)."""
        result: Tensor = super().forward(x + self.pointwise(x))
        return result


class TinyAutoencoder(AutoencoderTiny):
    """diffusers' ``AutoencoderTiny`` on patches: no convolution works at full resolution.

    Patches of pixels become channels before the first convolution, and are put back after the last. The total
    factor is ``patch_size`` times two for each level after the first, in the encoder times
    ``encoder_reduction``, in the decoder times ``decoder_enlargement`` too. Encoder and decoder may have
    different patches and numbers of levels, as long as that factor is the same.

    Args:
        encoder_patch_size, decoder_patch_size: side of the patches.
        encoder_block_out_channels, decoder_block_out_channels: width of each level; the same in all of them.
        num_encoder_blocks, num_decoder_blocks: residual blocks of each level. An encoder of one level without
            blocks is linear: it can hold a transform such as that to principal components.
        latent_channels: channels C of the latents.
        latents_mean, latents_std: of each channel, over training images: latents are diffused after
            subtracting the one and dividing by the other. None before training has measured them.
        encoder_reduction: images are averaged down by this first: the decoder may then draw more detail than
            the encoder sees.
        decoder_enlargement: decoded images are enlarged by this last, bicubically.
        decoder_expansion: blocks of the decoder's first level are :class:`WideBlock` of this expansion; 0 is
            none. There the positions are few, and each stands for many pixels.
        decoder_grain: hidden channels of the :class:`satcascade.models.grain.Grain` of decoded images; 0 is
            none.
        imitates: ``Codec.fingerprint`` of the codec whose latents the encoder was trained to give, if any.
            A stage trained on that codec's latents can be decoded with this one.
        act_fn, upsample_fn, upsampling_scaling_factor: as in ``AutoencoderTiny``.

    Raises:
        ValueError: the factors of encoder and decoder differ.
    """

    @register_to_config
    def __init__(
        self,
        encoder_patch_size: int = 8,
        decoder_patch_size: int = 8,
        encoder_block_out_channels: Sequence[int] = (32,),
        decoder_block_out_channels: Sequence[int] = (96,),
        num_encoder_blocks: Sequence[int] = (0,),
        num_decoder_blocks: Sequence[int] = (4,),
        latent_channels: int = 32,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        encoder_reduction: int = 1,
        decoder_enlargement: int = 1,
        decoder_expansion: int = 0,
        decoder_grain: int = 0,
        imitates: str | None = None,
        act_fn: str = "relu",
        upsample_fn: str = "nearest",
        upsampling_scaling_factor: int = 2,
    ):
        super().__init__(
            in_channels=3 * encoder_patch_size**2,
            out_channels=3 * decoder_patch_size**2,
            encoder_block_out_channels=tuple(encoder_block_out_channels),
            decoder_block_out_channels=tuple(decoder_block_out_channels),
            num_encoder_blocks=tuple(num_encoder_blocks),
            num_decoder_blocks=tuple(num_decoder_blocks),
            latent_channels=latent_channels,
            act_fn=act_fn,
            upsample_fn=upsample_fn,
            upsampling_scaling_factor=upsampling_scaling_factor,
        )
        if decoder_expansion:
            # After one convolution and its activation.
            for place in range(2, 2 + num_decoder_blocks[0]):
                self.decoder.layers[place] = WideBlock(
                    decoder_block_out_channels[0], decoder_expansion, act_fn
                )
        self.factor = encoder_reduction * encoder_patch_size * 2 ** (len(num_encoder_blocks) - 1)
        decoded = (
            decoder_enlargement
            * decoder_patch_size
            * upsampling_scaling_factor ** (len(num_decoder_blocks) - 1)
        )
        if decoded != self.factor:
            raise ValueError(f"the encoder reduces by {self.factor}, the decoder enlarges by {decoded}")
        # Of the decoder: trained, averaged and kept with it.
        self.decoder.grain = Grain(latent_channels, decoder_grain, self.factor) if decoder_grain else None

    def register_to_config(self, **kwargs: Any) -> None:
        """Keep the settings that this class takes: diffusers warns of all others whenever it loads them."""
        super().register_to_config(**{key: value for key, value in kwargs.items() if key not in _UNUSED})

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderTinyOutput | tuple[Tensor]:
        """Latents (B, C, H / factor, W / factor) of images (B, 3, H, W) in [-1, 1], not normalised."""
        reduced = F.avg_pool2d(x, self.config.encoder_reduction)
        patches = F.pixel_unshuffle(reduced, self.config.encoder_patch_size)
        return super().encode(patches.contiguous(memory_format=torch.channels_last), return_dict)

    def decode(
        self, x: Tensor, generator: torch.Generator | None = None, return_dict: bool = True
    ) -> DecoderOutput | tuple[Tensor]:
        """Images (B, 3, H, W) of latents (B, C, H / factor, W / factor), not normalised.

        They may leave [-1, 1] a little. ``generator`` is not used.
        """
        images = self.drawn(x)
        if self.decoder.grain is not None:
            images = images + self.decoder.grain(x)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def drawn(self, latents: Tensor) -> Tensor:
        """What :meth:`decode` gives, without the grain."""
        patches = super().decode(latents, return_dict=False)[0]
        images = F.pixel_shuffle(patches, self.config.decoder_patch_size)
        if self.config.decoder_enlargement > 1:
            images = F.interpolate(images, scale_factor=self.config.decoder_enlargement, mode="bicubic")
        return images

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Images, encoded and decoded."""
        return self.decode(self.encode(sample, return_dict=False)[0], return_dict=return_dict)


class Codec(ABC):
    """What stands between images and what a stage diffuses.

    Attributes:
        channels: C, of what is diffused.
        factor: how much smaller its side is than that of the image.
        bounded: whether it lies in [-1, 1], so that an estimate of it may be clamped there.
        fingerprint: 16 hexadecimal digits; two codecs of the same one encode alike. A better decoder does
            not change it.
    """

    channels: int
    factor: int
    bounded: bool
    fingerprint: str

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """What a stage diffuses.

        Args:
            images: (B, 3, H, W) in [-1, 1]; H and W divisible by the factor.

        Returns:
            (B, C, H / factor, W / factor), of the type of ``images``; normalised, if it is not bounded.

        Raises:
            UsageError: the images have another number of channels, or a side that the factor does not divide.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of what a stage has made.

        Args:
            latents: (B, C, h, w), normalised as :meth:`encode` does it.

        Returns:
            (B, 3, h * factor, w * factor), of the type of ``latents``, clamped to [-1, 1].

        Raises:
            UsageError: the latents have another number of channels.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Codec:
        """The same codec on a device; this one stays where it is."""

    def _check(self, batch: Tensor, channels: int, factor: int) -> None:
        if batch.ndim != 4 or batch.shape[1] != channels:
            raise UsageError(f"expected a batch of {channels} channels, got shape {tuple(batch.shape)}")
        if batch.shape[2] % factor or batch.shape[3] % factor:
            height, width = batch.shape[2:]
            raise UsageError(
                f"an image of {height} x {width} px cannot be encoded: {factor} must divide both sides"
            )


class PixelCodec(Codec):
    """Pixels are diffused as they are."""

    channels = 3
    factor = 1
    bounded = True
    fingerprint = hashlib.sha256(b"pixels").hexdigest()[:16]

    def encode(self, images: Tensor) -> Tensor:
        """The images themselves."""
        self._check(images, 3, 1)
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The images themselves, clamped to [-1, 1]."""
        self._check(latents, 3, 1)
        return latents.clamp(-1, 1)

    def to(self, device: torch.device | str) -> PixelCodec:
        """Itself: pixels are encoded where they are."""
        return self


PIXELS = PixelCodec()


class LatentCodec(Codec):
    """Normalised latents of a trained autoencoder are diffused.

    Args:
        vae: frozen by this: it takes no gradients from now on (gradients pass through it). It computes in its
            own type and on its own device, where the batches must be.

    Raises:
        SatcascadeError: its configuration has no means or deviations, or not one of each a channel.
    """

    bounded = False

    def __init__(self, vae: TinyAutoencoder):
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config.latent_channels)
        self.factor = vae.factor
        self._mean, self._std = (_one_a_channel(vae, name) for name in ("latents_mean", "latents_std"))
        self.fingerprint = encoder_fingerprint(vae)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> LatentCodec:
        """The codec of a folder that ``satcascade train codec`` or ``save_pretrained`` wrote.

        Raises:
            SatcascadeError: there is none, or it is damaged.
        """
        try:
            vae = TinyAutoencoder.from_pretrained(str(folder), use_safetensors=True, torch_dtype=dtype)
        except Exception as error:  # diffusers and safetensors raise many kinds
            raise SatcascadeError(f"{folder} holds no whole autoencoder ({one_line(error)})") from error
        return cls(vae)

    def serves(self, fingerprint: str) -> bool:
        """Whether it decodes what a stage makes that was trained on latents of such a codec."""
        return fingerprint in (self.fingerprint, self.vae.config.imitates)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents of images, see :meth:`Codec.encode`."""
        self._check(images, 3, self.factor)
        (latents,) = self.vae.encode(images.to(self.vae.dtype), return_dict=False)
        return ((latents.float() - self._mean.to(latents.device)) / self._std.to(latents.device)).to(
            images.dtype
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Images of normalised latents, see :meth:`Codec.decode`."""
        self._check(latents, self.channels, 1)
        raw = latents.float() * self._std.to(latents.device) + self._mean.to(latents.device)
        (images,) = self.vae.decode(raw.to(self.vae.dtype), return_dict=False)
        return images.clamp(-1, 1).to(latents.dtype)

    def to(self, device: torch.device | str) -> LatentCodec:
        """A copy on a device, see :meth:`Codec.to`; itself where it is there already."""
        device = torch.device(device)
        if device.type == self.vae.device.type and device.index in (None, self.vae.device.index):
            return self
        return LatentCodec(copy.deepcopy(self.vae).to(device))


def encoder_fingerprint(vae: TinyAutoencoder) -> str:
    """16 hexadecimal digits of the SHA-256 over all that normalised latents depend on.

    That is the encoder's shape and weights, and the means and deviations. Weights count as float16 holds
    them, so that a copy stored in float16 has the same fingerprint.
    """
    names = "encoder_reduction", "encoder_patch_size", "act_fn", "latents_mean", "latents_std"
    shape = [vae.config[name] for name in names]
    digest = hashlib.sha256(json.dumps(shape).encode())
    for key, value in sorted(vae.encoder.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _one_a_channel(vae: TinyAutoencoder, name: str) -> Tensor:
    """A setting that has a number a channel, as float32 (C, 1, 1)."""
    values, channels = vae.config[name], vae.config.latent_channels
    if values is None or len(values) != channels:
        count = "no" if values is None else len(values)
        raise SatcascadeError(
            f"the autoencoder has {count} {name} for {channels} channels: train it to its end"
        )
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
