"""What the shell may complete: names of models, presets, solvers and measures.

Where none fits, the shell completes files.
"""

from __future__ import annotations

from collections.abc import Iterable


def models(incomplete: str) -> list[str]:
    """Names of models that need no folder."""
    import satcascade.zoo  # noqa: F401 (it makes them known)
    from satcascade.pipelines.names import model_names

    return _fitting(model_names(), incomplete)


def presets(incomplete: str) -> list[str]:
    """Names of the presets of cascades."""
    from satcascade.config.preset import preset_names

    return _fitting(preset_names(), incomplete)


def codec_presets(incomplete: str) -> list[str]:
    """Names of the settings of autoencoders."""
    from satcascade.config.codec import codec_names

    return _fitting(codec_names(), incomplete)


def solvers(incomplete: str) -> list[str]:
    """Names of solvers."""
    from satcascade.diffusion.solvers import SOLVERS

    return _fitting(SOLVERS, incomplete)


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
