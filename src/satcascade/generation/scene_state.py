"""The state of a scene on its way, in a file that is safe to read: tensors, and JSON beside them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from satcascade.errors import one_line
from satcascade.io.files import atomic_write
from satcascade.io.json import damaged
from satcascade.sampling.scene import SceneState

_SOLVER = "solver."


class SceneStateFile:
    """Where a scene's state is kept, written every so many seconds.

    Args:
        path: the file; it may be missing.
        seconds: between two states that are written, at least; 0 writes one after every step.
    """

    def __init__(self, path: Path, seconds: float):
        self.path = path
        self._seconds = seconds
        self._written = time.monotonic()

    def read(self) -> SceneState | None:
        """The state; None where there is none.

        Raises:
            SatcascadeError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                state = json.loads(file.metadata()["state"])
            return SceneState(
                stage=state["stage"],
                done=state["done"],
                x=tensors.pop("x"),
                picture=tensors.pop("picture", None),
                solver=state["solver"],
                solver_tensors={name.removeprefix(_SOLVER): value for name, value in tensors.items()},
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise damaged(
                self.path, one_line(error), "remove it, and the same command begins anew"
            ) from error

    def offer(self, state: Callable[[], SceneState]) -> None:
        """Write a state if it is time to.

        Raises:
            SatcascadeError: the disk is full.
        """
        if time.monotonic() - self._written >= self._seconds:
            self._write(state())
            self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)

    def _write(self, state: SceneState) -> None:
        tensors = {"x": state.x.contiguous()}
        if state.picture is not None:
            tensors["picture"] = state.picture.contiguous()
        tensors |= {_SOLVER + name: value for name, value in state.solver_tensors.items()}
        plain = json.dumps({"stage": state.stage, "done": state.done, "solver": state.solver})
        with atomic_write(self.path) as aside:
            save_file(tensors, aside, {"state": plain})
