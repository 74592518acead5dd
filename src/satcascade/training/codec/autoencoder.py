"""An autoencoder from its settings."""

from __future__ import annotations

from satcascade.config.codec import CodecSettings
from satcascade.errors import UsageError
from satcascade.models.codec import TinyAutoencoder


def new_autoencoder(settings: CodecSettings) -> TinyAutoencoder:
    """An autoencoder with random weights.

    Raises:
        UsageError: its encoder and decoder do not fit each other.
    """
    arguments = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in settings.model.model_dump().items()
    }
    try:
        return TinyAutoencoder(**arguments)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
