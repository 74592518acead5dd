"""What a run tells about itself: a line a step on disk, TensorBoard scalars, and progress on the terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from satcascade.formats.training_run import METRICS, TENSORBOARD
from satcascade.io.files import atomic_write
from satcascade.io.progress import ProgressDisplay


class History:
    """Records the steps of a run.

    ``RUN/metrics.jsonl`` has a line a step (step, loss, grad_norm, learning_rate); what a killed run wrote
    beyond its last checkpoint is cut off on resume, so that the file is that of an uninterrupted run.

    Args:
        run: the run's folder.
        step: steps done already.
        steps: steps in all.
        batch_size: images a step, over all processes.
        device: whose memory is told.
        quiet: show no progress.
    """

    def __init__(
        self, run: Path, step: int, steps: int, batch_size: int, device: torch.device, quiet: bool = False
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / METRICS
        truncate(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=step)
        self._batch_size = batch_size
        self._device = device
        self._steps = steps
        self._since = (step, time.monotonic())
        self._waited = 0.0
        self._printed = time.monotonic()
        self._interactive = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._progress = ProgressDisplay(self._interactive, transient=False)
        self._task = self._progress.task("training", steps, completed=step)

    def __enter__(self) -> History:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        self._file.close()
        self._board.close()

    def add(self, rows: list[dict[str, Any]], waited: float = 0.0) -> None:
        """Record finished steps.

        Args:
            rows: in order; each has step, loss, grad_norm and learning_rate.
            waited: seconds that all steps so far waited for batches.
        """
        if not rows:
            return
        self._file.writelines(json.dumps(row) + "\n" for row in rows)
        self._file.flush()
        last = rows[-1]
        now = time.monotonic()
        elapsed = max(now - self._since[1], 1e-9)
        rate = (last["step"] - self._since[0]) * self._batch_size / elapsed
        wait, self._waited = (waited - self._waited) / elapsed, waited
        self._since = (last["step"], now)
        loss = sum(row["loss"] for row in rows) / len(rows)
        memory = _memory_in_use(self._device) / 2**30
        scalars = {
            "loss": loss,
            "grad_norm": last["grad_norm"],
            "learning_rate": last["learning_rate"],
            "images_per_second": rate,
            "data_wait_share": wait,
            "memory_gib": memory,
        }
        self.add_scalars(scalars, last["step"])
        status = (
            f"loss {loss:.4f}  gradient {last['grad_norm']:.3g}  {rate:.1f} images/s  data wait {wait:.0%}  "
            f"memory {memory:.1f} GiB"
        )
        self._task.update(last["step"], status)
        # A log file gets a line now and then instead of a bar.
        if (
            not self._interactive
            and not self._quiet
            and (now - self._printed > 30 or last["step"] == self._steps)
        ):
            self._printed = now
            left = (self._steps - last["step"]) * self._batch_size / max(rate, 1e-9) / 60
            print(
                f"step {last['step']}/{self._steps}  {status}  {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )

    def add_image(self, name: str, image: Any, step: int) -> None:
        """Show an image, uint8 (H, W, 3), in TensorBoard."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def leave_out(self, seconds: float) -> None:
        """Do not count the last seconds as time of the steps: something else was done in them."""
        self._since = (self._since[0], self._since[1] + seconds)

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Show numbers that belong to a step, in TensorBoard."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def say(self, line: str, always: bool = False) -> None:
        """Print a line without spoiling the bar; ``always`` even where no progress is shown."""
        if self._interactive:
            self._progress.print(line)
        elif always or not self._quiet:
            print(line, file=sys.stderr, flush=True)


def truncate(path: Path, step: int) -> None:
    """Cut off what a killed run wrote of later steps than ``step``."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read_rows(path, step)]
        with atomic_write(path) as aside:
            aside.write_text("".join(kept), encoding="utf-8")


def read_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows up to ``step`` of a file that has a row a line, in order; none where there is no file."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        # A killed process may have left half a line at the end.
        if not line.endswith("}") or (row := json.loads(line))["step"] > step:
            break
        rows.append(row)
    return rows


def _memory_in_use(device: torch.device) -> int:
    """Bytes: on a GPU the most that this process has had allocated, on a CPU what it has resident now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
