"""Whether the settings of an autoencoder fit the images and the teacher."""

from __future__ import annotations

from satcascade.config.codec import CodecSettings
from satcascade.errors import UsageError
from satcascade.training.codec.losses import LEAST_TEXTURED
from satcascade.training.codec.targets import TeacherTargets
from satcascade.training.codec.teacher import FACTOR


def check_fit(
    settings: CodecSettings, image_size: int, factor: int, targets: TeacherTargets | None, given: bool
) -> None:
    """Refuse settings that do not fit.

    Args:
        settings: of the run.
        image_size: side of the images.
        factor: by which the autoencoder reduces them.
        targets: of a teacher, if there is one.
        given: whether there is an encoder already.

    Raises:
        UsageError: what does not fit, and what to set.
    """
    grid = max(factor, FACTOR)
    if settings.crop > image_size or settings.crop % grid:
        raise UsageError(
            f"crops of {settings.crop} px are not possible with images of {image_size} px: set crop to at "
            f"most that and a multiple of {grid}"
        )
    if settings.crop < LEAST_TEXTURED and (settings.decoder.texture_weight or settings.model.decoder_grain):
        raise UsageError(
            f"crops of {settings.crop} px show no texture: set crop to {LEAST_TEXTURED} px or more"
        )
    if targets is None:
        if settings.decoder.needs_teacher:
            raise UsageError(
                "these settings learn from a teacher (decoder.teacher_...): give it, or set them to 0"
            )
        return
    if not given and not settings.encoder.steps:
        raise UsageError("a teacher is imitated in encoder.steps, which is 0: set it to 1 or more")
    teacher = targets.codec
    if (teacher.channels, teacher.factor) != (settings.model.latent_channels, factor):
        raise UsageError(
            f"the teacher has {teacher.channels} channels at 1/{teacher.factor} of the side, the "
            f"settings {settings.model.latent_channels} at 1/{factor}: set model to match"
        )
