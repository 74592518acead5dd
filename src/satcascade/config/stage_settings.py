"""How a stage samples: one name a setting, from the command line to the records of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from satcascade.diffusion.solvers import check_solver
from satcascade.errors import UsageError

StageName = Literal["base", "sr"]
# What messages call them.
_STEPS = {"base": "base steps", "sr": "super-resolution steps"}
_GUIDANCE = {"base": "guidance", "sr": "sr guidance"}


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


def check_stages(stages: Mapping[StageName, StageSettings]) -> None:
    """Refuse settings that no model can sample with.

    Args:
        stages: settings by the names of the stages.

    Raises:
        UsageError: a number is out of its range, or no sampler goes by a name.
    """
    for name, settings in stages.items():
        if settings.steps is not None and settings.steps < 1:
            raise UsageError(f"{_STEPS[name]}: {settings.steps} is not possible, give 1 or more")
        if settings.guidance is not None and not 0 <= settings.guidance < math.inf:
            raise UsageError(
                f"{_GUIDANCE[name]}: {settings.guidance} is not possible, give 0 or more (1 is none)"
            )
        if settings.scheduler is not None:
            check_solver(settings.scheduler)
