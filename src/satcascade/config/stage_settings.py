"""What a caller may say of how a stage samples: one name a setting, from the command line to the records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageSettings:
    """How one stage samples; None stands for the model's own setting.

    Attributes:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        scheduler: short name of a sampler (:data:`satcascade.diffusion.solvers.SOLVERS`).
    """

    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
