"""Text to satellite image with a two-stage text-conditioned diffusion cascade.

>>> from satcascade import load_pipeline
>>> pipe = load_pipeline("builtin")
>>> pipe("a curved river with many green trees on both sides", seeds=[0]).images[0].save("river.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Makes the names of models known, `builtin` among them, whichever module is asked for one.
import satcascade.zoo  # noqa: F401

if TYPE_CHECKING:
    from satcascade.config.stage_settings import StageSettings
    from satcascade.data.captions import Captions
    from satcascade.errors import SatcascadeError, UsageError
    from satcascade.generation.run import GenerationRequest, generate
    from satcascade.pipelines.cascade import CascadePipeline
    from satcascade.pipelines.output import CascadeOutput
    from satcascade.zoo import load_pipeline

__all__ = [
    "Captions",
    "CascadeOutput",
    "CascadePipeline",
    "GenerationRequest",
    "SatcascadeError",
    "StageSettings",
    "UsageError",
    "__version__",
    "generate",
    "load_pipeline",
]

# Loaded when asked for: importing the package alone must not take the seconds that torch takes.
_HOMES = {
    "CascadeOutput": "pipelines.output",
    "CascadePipeline": "pipelines.cascade",
    "Captions": "data.captions",
    "GenerationRequest": "generation.run",
    "SatcascadeError": "errors",
    "StageSettings": "config.stage_settings",
    "UsageError": "errors",
    "generate": "generation.run",
    "load_pipeline": "zoo",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("satcascade")
    if name in _HOMES:
        return getattr(import_module(f"satcascade.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'satcascade' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
