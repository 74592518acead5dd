"""From the name of a model to a pipeline; the only place that knows which names there are.

Importing it makes the names known to :class:`satcascade.pipelines.cascade.CascadePipeline` too, and
loads neither torch nor diffusers, so that a wrong name is refused at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from satcascade.errors import SatcascadeError
from satcascade.pipelines.folder import MODEL_INDEX, without_loading_bars
from satcascade.pipelines.names import NamedModel, check_model_name, register_model

if TYPE_CHECKING:
    from satcascade.pipelines.cascade import CascadePipeline

__all__ = ["BUILTIN", "check_model_name", "load_pipeline"]

BUILTIN = Path(__file__).parent / "builtin"


def load_pipeline(
    model: str | Path = "builtin",
    *,
    device: str = "auto",
    precision: str = "float32",
    scheduler: str | None = None,
) -> CascadePipeline:
    """Load a pipeline, ready to sample.

    Args:
        model: ``builtin`` (also ``compact``: the weights inside the package), ``rsdiff`` (the released
            weights, converted at the first use), a folder, or ``owner/name`` on the hub.
        device: ``auto`` (a GPU where there is one, otherwise the CPU) or a torch device.
        precision: what the networks compute in: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the
            device computes in it natively).
        scheduler: short name of a sampler (:data:`satcascade.diffusion.solvers.SOLVERS`) to use in all
            stages instead of the saved ones.

    Raises:
        UsageError: unknown scheduler or precision, or a device that is not there.
        SatcascadeError: the model cannot be loaded.
    """
    from satcascade.config.stage_settings import StageSettings
    from satcascade.hardware.devices import pick_device
    from satcascade.hardware.precision import compute_dtype
    from satcascade.pipelines.cascade import CascadePipeline

    chosen = pick_device(device)
    compute_dtype(precision, chosen)
    with without_loading_bars():
        pipeline = CascadePipeline.from_pretrained(model)
    if scheduler is not None:
        for name in pipeline.stage_names:
            component = "scheduler" if name == "base" else "sr_scheduler"
            setattr(pipeline, component, pipeline.sampler(name, StageSettings(scheduler=scheduler)).scheduler)
    pipeline.precision = precision
    return pipeline.to(chosen)


def _builtin(**_: Any) -> Path:
    if not (BUILTIN / MODEL_INDEX).is_file():
        raise SatcascadeError(
            "this installation has no built-in weights: install a released package or name a model folder"
        )
    return BUILTIN


def _rsdiff(**hub: Any) -> Path:
    from satcascade.interop import released

    return released.released_model(released.RSDIFF, **hub)


register_model(NamedModel(("builtin", "latent"), "latent", _builtin))
register_model(NamedModel(("rsdiff",), "rsdiff", _rsdiff))
