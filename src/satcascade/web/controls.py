"""Controls that several tabs have: caption and examples, seed and dice, steps, guidance, solver."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.diffusion.solvers import SOLVERS
from satcascade.errors import UsageError
from satcascade.web.backend import Backend
from satcascade.web.pictures import LONGEST_CAPTION, Stages

EXAMPLES = (
    "a curved river with many green trees on both sides",
    "many storage tanks are near a river",
    "a large pond surrounded by green trees and meadow",
    "many pieces of farmland are together",
    "a viaduct with many cars near green trees",
    "many cars are parked in a parking lot",
)
# The page's seeds have a length that people can read and type.
_SEEDS = 1_000_000
_MOST_STEPS = 100
_MOST_GUIDANCE = 15
_MODEL_SOLVER = "the model's own"


def caption_box(tab: str) -> gr.Textbox:
    """The field for a caption."""
    return gr.Textbox(
        "",
        label="Caption",
        placeholder="Describe the scene in English, as seen from above",
        lines=1,
        max_lines=4,
        max_length=LONGEST_CAPTION,
        elem_id=f"{tab}-caption",
    )


def examples_of(caption: gr.Textbox) -> None:
    """Buttons that fill in the caption."""
    gr.Examples([[text] for text in EXAMPLES], [caption], label="Examples", cache_examples=False)


def seed_row(tab: str) -> gr.Number:
    """The field for a seed, and dice beside it."""
    with gr.Row(elem_classes="sc-seed"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, elem_id=f"{tab}-seed", scale=2, min_width=110
        )
        dice = gr.Button("\N{DIE FACE-5} New seed", size="md", elem_id=f"{tab}-dice", scale=1, min_width=110)
    dice.click(lambda: secrets.randbelow(_SEEDS), None, seed, queue=False, api_visibility="private")
    return seed


def whole(value: float | None, name: str) -> int:
    """The whole number in a field.

    Raises:
        UsageError: there is none.
    """
    if value is None or value != int(value):
        raise UsageError(f"{name} is missing: give a whole number")
    return int(value)


class StageControls:
    """Steps and guidance of each stage of the model, and a solver for all.

    Args:
        backend: whose model it is.
        tab: where they are.
        guidance: whether guidance of the base stage is asked for.
    """

    def __init__(self, backend: Backend, tab: str, *, guidance: bool = True):
        self._stages: list[StageName] = list(backend.pipeline.stage_names)
        self._guided = guidance
        self._own = {name: backend.pipeline.sampler(name) for name in self._stages}
        self.components: list[Any] = []
        for name in self._stages:
            _, steps, own = self._own[name]
            what = "" if name == "base" else " of super-resolution"
            most = max(_MOST_STEPS, steps)
            self.components.append(
                gr.Slider(1, most, steps, step=1, label=f"Steps{what}", elem_id=f"{tab}-{name}-steps")
            )
            if guidance or name != "base":
                self.components.append(
                    gr.Slider(
                        0,
                        max(_MOST_GUIDANCE, own.scale),
                        own.scale,
                        step=0.1,
                        label=f"Guidance{what}",
                        info="1 is none; more follows the caption more closely" if name == "base" else None,
                        elem_id=f"{tab}-{name}-guidance",
                    )
                )
        self.components.append(
            gr.Dropdown(
                [
                    (_MODEL_SOLVER, ""),
                    *((f"{name}: {solver.about}", name) for name, solver in SOLVERS.items()),
                ],
                value="",
                label="Solver",
                elem_id=f"{tab}-solver",
            )
        )

    def read(self, values: Sequence[Any]) -> Stages:
        """What the components say, in their order; what is as the model has it is left to the model."""
        *numbers, solver = values
        left = iter(numbers)
        stages: dict[StageName, StageSettings] = {}
        for name in self._stages:
            own = self._own[name]
            steps = whole(next(left), "the number of steps")
            guidance = next(left) if self._guided or name != "base" else None
            stages[name] = StageSettings(
                None if steps == own.steps else steps,
                None if guidance in (None, own.guidance.scale) else float(guidance),
                solver or None,
            )
        return stages
