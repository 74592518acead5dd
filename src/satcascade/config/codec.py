"""Settings of the autoencoder and of its training, as checked YAML like the presets of cascades."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from satcascade.config.section import Section
from satcascade.config.settings_file import load_settings, settings_names


class Autoencoder(Section):
    """Arguments of :class:`satcascade.models.codec.TinyAutoencoder`, which explains them."""

    latent_channels: PositiveInt
    encoder_reduction: PositiveInt = 1
    decoder_enlargement: PositiveInt = 1
    decoder_expansion: int = Field(0, ge=0)
    decoder_grain: int = Field(0, ge=0)
    encoder_patch_size: PositiveInt
    decoder_patch_size: PositiveInt
    encoder_block_out_channels: tuple[PositiveInt, ...]
    decoder_block_out_channels: tuple[PositiveInt, ...]
    num_encoder_blocks: tuple[int, ...]
    num_decoder_blocks: tuple[int, ...]


class Phase(Section):
    """How the encoder or the decoder is trained.

    Attributes:
        optimizer: ``adamw``, or ``muon`` for kernels (AdamW for biases): these networks normalise nothing,
            and Muon's updates are of one size whatever the size of the gradients.
        steps: optimiser steps.
        learning_rate: peak.
        warmup_steps: steps in which the learning rate rises linearly to its peak.
        decay_steps: steps at the end in which it falls linearly to zero.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: int = Field(ge=0)
    learning_rate: PositiveFloat
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0)


class EncoderTraining(Phase):
    """How the encoder is made. Its steps imitate a teacher's latents; without a teacher there are none.

    Attributes:
        images: how many of the training split, at the most and evenly spread, principal components or the
            statistics of the teacher's latents are computed on.
        views: which of the eight symmetries of the images the teacher's latents are made of.
        spectrum: deviation of principal component k after encoding: its own to this power. 1 leaves natural
            proportions, 0 makes all alike; between them coarse components stay larger than fine ones, so that
            noise hides these first.
    """

    images: PositiveInt
    views: tuple[Annotated[int, Field(ge=0, le=7)], ...] = (0, 7)
    spectrum: float = Field(0.5, ge=0.0, le=1.0)


class DecoderTraining(Phase):
    """How the decoder is trained, for latents as a diffusion model makes them: not quite right.

    Attributes:
        noise_share: share of the crops whose latents get noise.
        noise_low, noise_high: smallest and largest deviation of that noise (uniform in its logarithm), in
            deviations of the normalised latents.
        pixel_weight: weight of the errors against the real image: of its pixels and of the differences
            between neighbours.
        gradient_weight: weight of the error of these differences, beside that of pixels.
        teacher_latents: share of the crops whose latents are the teacher's, the others' being the encoder's:
            for a decoder that also serves stages trained on the teacher's latents. With a teacher only.
        teacher_pictures: weight of the errors against what the teacher decodes of the same latents, at the
            teacher's own size, beside those against the real image. A picture follows from its latents
            there, so that nothing is left open to be blurred. With a teacher only.
        teacher_features: weight of the errors of what the decoder's blocks give against the teacher's, see
            :mod:`satcascade.training.codec.features`; blocks of 64 channels. With a teacher only.
        texture_weight: weight of the error of the amount of texture, see
            :func:`satcascade.training.codec.losses.texture_error`.
        adversarial_weight: weight of the adversarial gradient beside that of the other errors, both taken at
            the decoded pixels and brought to the same norm, see :mod:`satcascade.training.codec.critic`.
        adversarial_after: steps of the decoder before which there is no critic.
        critic_alone: steps in which it then learns alone: one that has seen nothing points anywhere, and one
            that is followed too early never learns.
        critic_warmup: steps in which the adversarial gradient then rises to its weight.
        critic_learning_rate: learning rate of the critic that it comes from.
    """

    noise_share: float = Field(0.0, ge=0.0, le=1.0)
    noise_low: PositiveFloat = 0.02
    noise_high: PositiveFloat = 0.2
    pixel_weight: float = Field(1.0, ge=0.0)
    gradient_weight: float = Field(1.0, ge=0.0)
    teacher_latents: float = Field(0.0, ge=0.0, le=1.0)
    teacher_pictures: float = Field(0.0, ge=0.0)
    teacher_features: float = Field(0.0, ge=0.0)
    texture_weight: float = Field(0.0, ge=0.0)
    adversarial_weight: float = Field(0.0, ge=0.0)
    adversarial_after: int = Field(0, ge=0)
    critic_alone: int = Field(300, ge=0)
    critic_warmup: PositiveInt = 300
    critic_learning_rate: PositiveFloat = 5e-4

    @property
    def needs_teacher(self) -> bool:
        """Whether any error or latent is a teacher's."""
        return bool(self.teacher_latents or self.teacher_pictures or self.teacher_features)

    @model_validator(mode="after")
    def _check_noise(self) -> DecoderTraining:
        if self.noise_low > self.noise_high:
            raise ValueError(f"noise_low ({self.noise_low}) is above noise_high ({self.noise_high})")
        return self


class CodecSettings(Section):
    """An autoencoder and its training.

    Attributes:
        name: of the settings.
        model: the autoencoder.
        encoder: how its encoder is made.
        decoder: how its decoder is trained.
        batch_size: crops a step.
        crop: their side in pixels.
        ema_half_life: of the decoder's averaged weights, in crops seen.
        gradient_clip: largest norm of the gradient.
        seed: of everything random.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints; 0 is only at the end.
        checkpoint_minutes: also a checkpoint that long after the last; None is only every
            ``checkpoint_every``.
    """

    name: str
    model: Autoencoder
    encoder: EncoderTraining
    decoder: DecoderTraining
    batch_size: PositiveInt = 4
    crop: PositiveInt = 128
    ema_half_life: PositiveInt = 4000
    gradient_clip: PositiveFloat = 1.0
    seed: int = Field(0, ge=0)
    log_every: PositiveInt = 20
    checkpoint_every: int = Field(1000, ge=0)
    checkpoint_minutes: PositiveFloat | None = None


def codec_names() -> list[str]:
    """Names of the settings that come with the package."""
    return settings_names(resources.files("satcascade.presets") / "codec")


def load_codec_settings(name: str, overrides: Sequence[str] = ()) -> CodecSettings:
    """Read settings by name, or from a YAML file, and apply overrides.

    Args:
        name: one of :func:`codec_names`, or a path that ends in ``.yaml``.
        overrides: ``section.key=value``, for example ``decoder.steps=1000``.

    Raises:
        UsageError: unknown name or key, or a value of the wrong kind or range.
    """
    folder = resources.files("satcascade.presets") / "codec"
    return load_settings(CodecSettings, "codec settings", name, overrides, folder)
