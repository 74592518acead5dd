"""The samplers that go by a short name: pure data, so that a wrong name is refused before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from satcascade.errors import UsageError


@dataclass(frozen=True)
class Solver:
    """One sampler.

    Attributes:
        scheduler: name of its class, in ``diffusers`` but for RSDiff's.
        about: one line for help texts.
        options: what it needs beyond the noise schedule; also when another scheduler is turned into it.
    """

    scheduler: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)


SOLVERS: Mapping[str, Solver] = {
    "dpm++": Solver(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++ (2M): 10 to 30 steps",
        {
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "solver_order": 2,
            "lower_order_final": True,
            "final_sigmas_type": "zero",
        },
    ),
    "dpm++sde": Solver(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++ (2M) with fresh noise at every step: 15 to 30 steps",
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_type": "midpoint",
            "solver_order": 2,
            "lower_order_final": True,
            "final_sigmas_type": "zero",
        },
    ),
    "unipc": Solver(
        "UniPCMultistepScheduler",
        "UniPC, predictor and corrector: 10 to 25 steps",
        {"solver_type": "bh2", "solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"},
    ),
    "deis": Solver(
        "DEISMultistepScheduler",
        "DEIS: 15 to 30 steps",
        {"algorithm_type": "deis", "solver_type": "logrho", "solver_order": 2, "lower_order_final": True},
    ),
    "ddim": Solver("DDIMScheduler", "DDIM: 50 steps and more", {"set_alpha_to_one": True}),
    "ddpm": Solver(
        "DDPMScheduler",
        "ancestral sampling with fresh noise at every step: 250 steps and more",
        {"variance_type": "fixed_small"},
    ),
    "euler": Solver("EulerDiscreteScheduler", "Euler: 30 steps and more", {"final_sigmas_type": "zero"}),
    "euler-a": Solver(
        "EulerAncestralDiscreteScheduler", "Euler with fresh noise at every step: 30 steps and more"
    ),
    "heun": Solver("HeunDiscreteScheduler", "Heun: 15 to 30 steps, each costs two network calls"),
    "rsdiff": Solver("RSDiffScheduler", "RSDiff's own ancestral sampler, on its own schedule: 1,000 steps"),
}


def check_solver(name: str) -> str:
    """Return ``name`` if a sampler goes by it.

    Raises:
        UsageError: none does; the message lists those there are.
    """
    if name not in SOLVERS:
        raise UsageError(f"unknown scheduler '{name}': choose one of {', '.join(SOLVERS)}")
    return name
