"""What training runs have come to, read from their folders: one beside the other, and as curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satcascade.config.preset import Preset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.formats.training_run import METRICS, RUN_FILE, TENSORBOARD, VALIDATION
from satcascade.io.files import atomic_write
from satcascade.io.tables import aligned_table
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.run_folder import read_description

# Loss and gradient norm of single steps jump about: these are means over so many.
_RECENT = 100
_PLOTS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class RunSummary:
    """A run as far as it has come.

    Attributes:
        run: its folder.
        description: the content of ``run.json``.
        settings: model and training of its stage, as ``training.batch_size``.
        steps: the recorded steps, in order; the last is how many are done.
        losses: the loss of each.
        last: the last row of ``metrics.jsonl``; empty before the first step.
        grad_norm: mean gradient norm, before clipping, of the last 100 steps.
        checkpoints: steps of the complete checkpoints.
        validations: the rows of ``validation.jsonl``, in order.
        best: the step of the best of them; None where there is none.
        speed: steps, and images a second up to each, as TensorBoard has them; empty where it has none.
    """

    run: Path
    description: dict[str, Any]
    settings: dict[str, Any]
    steps: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    last: dict[str, Any]
    grad_norm: float | None
    checkpoints: list[int]
    validations: list[dict[str, Any]]
    best: int | None
    speed: tuple[list[int], list[float]]

    @property
    def batch_size(self) -> int:
        """Images a step, over all processes."""
        return int(self.settings["training.batch_size"])

    def rows(self) -> dict[str, str]:
        """What there is to tell, in words."""
        identity, versions = self.description["identity"], self.description.get("versions", {})
        git = self.description.get("git")
        done = int(self.steps[-1]) if len(self.steps) else 0
        recent = self.losses[-_RECENT:]
        return {
            "stage": identity["stage"],
            "preset": identity["preset"],
            "started from": identity["init_from"] or "random weights",
            "steps": f"{done:,} of {self.settings['training.schedule.steps']:,}",
            "images seen": f"{done * self.batch_size:,}",
            "loss, last step": _number(self.last.get("loss")),
            f"loss, last {_RECENT}": _number(recent.mean() if len(recent) else None),
            "gradient norm": _number(self.grad_norm),
            "learning rate": _number(self.last.get("learning_rate")),
            "images/s": f"{statistics.median(self.speed[1]):.1f}" if self.speed[1] else "-",
            "validation": self._validation(),
            "checkpoints": ", ".join(f"{step:,}" for step in self.checkpoints) or "none",
            "data": f"{identity['data'][:12]} {identity['split']}",
            "seed": str(self.settings["training.seed"]),
            "versions": ", ".join(
                f"{name} {versions[name]}" for name in ("satcascade", "torch") if name in versions
            ),
            "git": "-" if not git else git["commit"][:12] + (" with changes" if git["changed"] else ""),
        }

    def to_json(self) -> dict[str, Any]:
        """What there is to tell, as JSON has it: numbers as numbers, null for what is not known."""
        identity = self.description["identity"]
        recent = self.losses[-_RECENT:]
        return {
            "run": self.run.as_posix(),
            **{key: identity[key] for key in ("stage", "preset", "init_from", "data", "split")},
            "step": int(self.steps[-1]) if len(self.steps) else 0,
            "last": self.last,
            "mean_loss": float(recent.mean()) if len(recent) else None,
            "mean_grad_norm": self.grad_norm,
            "images_per_second": statistics.median(self.speed[1]) if self.speed[1] else None,
            "checkpoints": self.checkpoints,
            "validations": self.validations,
            "best": self.best,
            "settings": self.settings,
            "versions": self.description.get("versions", {}),
            "git": self.description.get("git"),
        }

    def _validation(self) -> str:
        if not self.validations:
            return "none"
        last = self.validations[-1]
        best = "" if self.best is None else f"; best at step {self.best:,}"
        return f"loss {_number(last['loss'])} at step {last['step']:,}{best}"


def summarize(folders: Sequence[Path | str]) -> list[RunSummary]:
    """Read runs; a folder of runs of both stages counts as two.

    Raises:
        UsageError: a folder holds no run.
        SatcascadeError: what describes a run is damaged.
    """
    runs: list[Path] = []
    for folder in map(Path, folders):
        inside = [folder / stage for stage in ("base", "sr") if (folder / stage / RUN_FILE).exists()]
        runs += [folder] if (folder / RUN_FILE).exists() or not inside else inside
    return [_summary(run) for run in runs]


def table(runs: Sequence[RunSummary]) -> str:
    """The runs side by side and, of several, the settings in which they differ; aligned text."""
    names = [run.run.as_posix() for run in runs]
    lines = [["", *names]]
    columns = [run.rows() for run in runs]
    lines += [[key, *(rows[key] for rows in columns)] for key in columns[0]]
    differing = differences(runs)
    text = aligned_table(lines)
    if len(runs) > 1:
        shown = [[key, *map(_setting, values)] for key, values in differing.items()]
        text += "\n\n" + (
            aligned_table([["settings that differ", *names], *shown]) if shown else "the same settings"
        )
    return text


def differences(runs: Sequence[RunSummary]) -> dict[str, tuple[Any, ...]]:
    """The settings of model and training that are not the same in all runs, with the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key) for run in runs) for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def plot(runs: Sequence[RunSummary], path: Path | str) -> None:
    """Draw smoothed losses, validation losses and images a second of runs over the images they have seen.

    Args:
        runs: the runs, one curve each.
        path: a ``.png``, ``.svg`` or ``.pdf`` file.

    Raises:
        UsageError: another kind of file.
        SatcascadeError: matplotlib is not installed, or no run has recorded a step.
    """
    path = Path(path)
    if path.suffix.lower() not in _PLOTS:
        raise UsageError(f"{path} is no kind of figure: give a file that ends in {', '.join(_PLOTS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SatcascadeError(
            'matplotlib, which draws the curves, is not installed: pip install "satcascade[eval]"'
        ) from error
    if not any(len(run.steps) for run in runs):
        raise SatcascadeError(f"{runs[0].run} has recorded no step yet: plot it later")
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for run in runs:
        window = max(1, min(_RECENT, len(run.losses) // 10))
        steps, losses = (_smoothed(values, window) for values in (run.steps, run.losses))
        (line,) = upper.plot(steps * run.batch_size, losses, label=run.run.as_posix())
        measured = [(row["step"] * run.batch_size, row["loss"]) for row in run.validations]
        if measured:
            upper.plot(*zip(*measured, strict=True), ".--", color=line.get_color(), label="its validation")
        seen, rates = run.speed
        lower.plot([step * run.batch_size for step in seen], rates, linewidth=1)
    upper.set_ylabel(f"loss, mean of up to {_RECENT} steps")
    upper.legend(frameon=False, fontsize="small")
    lower.set(ylabel="images/s", ylim=(0, None), xlabel="images seen")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with atomic_write(path) as aside:
        figure.savefig(aside, format=path.suffix[1:].lower(), dpi=150)


def _summary(run: Path) -> RunSummary:
    description = read_description(run)
    stage = Preset.model_validate(description["settings"]).stage(description["identity"]["stage"])
    metrics = _metrics(run / METRICS)
    recent = [row["grad_norm"] for row in metrics[-_RECENT:]]
    checkpoints = CheckpointFolder(run)
    return RunSummary(
        run=run,
        description=description,
        settings=_flat({"model": stage.model.model_dump(), "training": stage.training.model_dump()}),
        steps=np.array([row["step"] for row in metrics], dtype=np.int64),
        losses=np.array([row["loss"] for row in metrics], dtype=np.float64),
        last=metrics[-1] if metrics else {},
        grad_norm=statistics.fmean(recent) if recent else None,
        checkpoints=checkpoints.steps(),
        validations=_metrics(run / VALIDATION),
        best=checkpoints.best(),
        speed=_speed(run / TENSORBOARD),
    )


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of the steps; of a run at work the last line may be half."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    try:
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [row for row in rows if row["loss"] is not None]
    except (ValueError, KeyError, TypeError) as error:
        raise SatcascadeError(
            f"{path} is damaged ({error}): the run itself mends it when it is resumed"
        ) from error


def _speed(board: Path) -> tuple[list[int], list[float]]:
    if not board.is_dir():
        return [], []
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return [], []
    # Its own way with what a killed run wrote beyond its last checkpoint is to purge it, and to say so.
    events = EventAccumulator(str(board), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    if "images_per_second" not in events.Tags()["scalars"]:
        return [], []
    # The points of a step that was done twice: the last is that of the run as it went on.
    rates = {point.step: point.value for point in events.Scalars("images_per_second")}
    return sorted(rates), [rates[step] for step in sorted(rates)]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _smoothed(values: npt.NDArray[Any], window: int) -> npt.NDArray[np.float64]:
    return np.convolve(values, np.full(window, 1 / window), mode="valid") if len(values) else values


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _setting(value: Any) -> str:
    return "-" if value is None else json.dumps(value) if isinstance(value, list | tuple) else str(value)
