"""One stage in training: its network, optimisers, averaged weights, and the folder that its run lives in."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import torch
import torch._dynamo.exc
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import Tensor

from satcascade.config.preset import Preset, StageName
from satcascade.errors import SatcascadeError
from satcascade.io.files import atomic_write
from satcascade.io.locks import exclusive
from satcascade.models.codec import PIXELS, Codec
from satcascade.models.denoiser import Denoiser
from satcascade.models.registry import build_model
from satcascade.seeds import derived_seed
from satcascade.training.averages import PowerAverages, WeightAverage
from satcascade.training.batches import Batch, BatchSource, prefetched
from satcascade.training.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    load_optimizer_tensors,
    optimizer_tensors,
)
from satcascade.training.device_data import DeviceData
from satcascade.training.history import History
from satcascade.training.loss import DenoisingLoss, attention_kernel
from satcascade.training.optimizers import learning_rate, make_optimizers
from satcascade.training.run_folder import initial_weights, open_run
from satcascade.training.samples import SampleGrid
from satcascade.training.sharded import exchanged, fill, gathered, shard, unsharded
from satcascade.training.step_errors import refuse_in_a_line
from satcascade.training.validation import Validation


class StageTrainer:
    """Trains one stage step by step, from its last checkpoint if there is one.

    A context manager: inside it, the run's folder belongs to this process.

    Args:
        stage: ``base`` or ``sr``.
        settings: the preset, overrides applied.
        data: what it trains on.
        out: the run's folder.
        accelerator: devices and precision.
        dtype: what the networks compute in.
        init_from: a run or a saved cascade to start from; only read when the run begins.
        quiet: show no progress.
        codec: what the stage diffuses, on the accelerator's device.

    Attributes:
        step: steps done.
        source: draws their batches.
        waited: seconds that they waited for batches.

    Raises:
        UsageError: data that do not fit the stage, or ``out`` belongs to a run with other
            settings.
        SatcascadeError: damaged data or checkpoint.
    """

    def __init__(
        self,
        stage: StageName,
        settings: Preset,
        data: DeviceData,
        out: Path,
        accelerator: Accelerator,
        dtype: torch.dtype,
        init_from: Path | str | None = None,
        quiet: bool = False,
        codec: Codec = PIXELS,
    ):
        self.out = out
        self.waited = 0.0
        self.training = settings.stage(stage).training
        self._accelerator, self._dtype, self._quiet = accelerator, dtype, quiet
        self._config = config = settings.stage(stage).model
        self.source = BatchSource(
            data,
            self.training,
            self.training.augmentation.image_size or config.sample_size * codec.factor,
            config.low_res_resize if config.low_res else None,
            accelerator.process_index,
            accelerator.num_processes,
            codec,
        )
        self._checkpoints = CheckpointFolder(out, self.training.logging.keep_checkpoints)
        self._validation = (
            Validation(settings, stage, data.dataset, out, accelerator, codec)
            if self.training.validation.every
            else None
        )
        torch.manual_seed(derived_seed(self.training.seed, "weights"))
        model = build_model(config)
        if init_from is not None and not self._checkpoints.steps():
            model.load_state_dict(initial_weights(init_from, stage, model))
        if accelerator.is_main_process:
            open_run(out, stage, settings, data.split, data.dataset, init_from, codec)
        if self.training.hardware.activation_checkpointing:
            model.enable_gradient_checkpointing()
        self._sharded = sharded = self.training.hardware.fsdp and accelerator.num_processes > 1
        # FSDP wants parameters contiguous.
        layout = torch.contiguous_format if sharded else torch.channels_last
        self._model = model.to(accelerator.device, memory_format=layout)
        loss = DenoisingLoss(model, self.training.noise.weighting, self.training.hardware.compile).train()
        self._loss = shard(loss, accelerator) if sharded else accelerator.prepare(loss)
        self._optimizers = make_optimizers(model, self.training)
        self._average = WeightAverage(model, self.training.averages.half_life)
        self._power = PowerAverages(model, self.training.averages.lengths)
        self.step = self._resume()
        if self._validation is not None:
            self._validation.resume(self.step)
        self._grid = (
            SampleGrid(settings, stage, data.dataset, codec) if self.training.logging.sample_every else None
        )
        self._history: History | None = None
        # Losses and norms stay on the device until they are shown: nothing waits for it within a step.
        self._pending: list[tuple[int, float, Tensor]] = []
        self._saved = time.monotonic()
        self._open = ExitStack()

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or patience with them is at its end."""
        stalled = self._validation is not None and self._validation.stalled
        return self.step >= self.training.schedule.steps or stalled

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint of the last step."""
        return self._checkpoints.folder(self.step)

    @property
    def overdue(self) -> bool:
        """Whether the last checkpoint is older than ``training.logging.checkpoint_minutes``."""
        minutes = self.training.logging.checkpoint_minutes
        return minutes is not None and not self.done and time.monotonic() - self._saved > 60 * minutes

    def __enter__(self) -> StageTrainer:
        # Only one process writes to the folder.
        if self._accelerator.is_main_process and not self.done:
            taken = f"another process is training in {self.out}: wait for it or end it"
            self._open.enter_context(exclusive(self.out / ".lock", taken))
            self._checkpoints.clear_leftovers()
            training = self.training
            self._history = self._open.enter_context(
                History(
                    self.out,
                    self.step,
                    training.schedule.steps,
                    training.batch_size,
                    self._accelerator.device,
                    self._quiet,
                )
            )
            if self._validation is not None:
                self._validation.open()
                self._keep_best(self._validation)
        elif self._accelerator.is_main_process and self._validation is not None and self._validation.stalled:
            print(f"{self.out}: {self._validation.stalled_message()}", file=sys.stderr)
        self._batches = prefetched(self.source, self.step, self.training.schedule.steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batches.close()
        self._open.__exit__(kind, error, trace)

    def advance(self) -> None:
        """Take one optimiser step, and record, save and show what is due after it.

        Raises:
            SatcascadeError: the loss is not finite, memory or disk are full, or the network cannot be
                compiled here.
        """
        step, training = self.step + 1, self.training
        rate = learning_rate(
            self.step,
            training.optimizer.learning_rate,
            warmup_steps=training.optimizer.warmup_steps,
            steps=training.schedule.steps,
            decay_steps=training.schedule.decay_steps,
        )
        with refuse_in_a_line(training):
            began = time.monotonic()
            batch = next(self._batches)
            self.waited += time.monotonic() - began
            loss_and_norm = self._optimise(batch, rate, step)
        self._average.update(self._model, step * training.batch_size, training.batch_size)
        self._power.update(self._model, step)
        self._pending.append((step, rate, loss_and_norm))
        self.step = step
        # What belongs to a step is there before its checkpoint: no resume would make up for it.
        self._keep_milestone()
        self._keep_snapshot()
        if self._validation is not None and self._validation.due(step):
            self._validate(self._validation)
        due = training.logging.checkpoint_every and step % training.logging.checkpoint_every == 0
        if self.done or due:
            self.save()
        elif step % training.logging.log_every == 0:
            self._record()
        if training.logging.sample_every and (self.done or step % training.logging.sample_every == 0):
            self._show()

    def save(self) -> None:
        """Write a checkpoint of the last step, unless it is there.

        Raises:
            SatcascadeError: the loss was not finite, or the disk is full.
        """
        self._record()
        # The main process knows, and all must gather what is sharded.
        [kept] = broadcast_object_list([self.step in self._checkpoints.steps()])
        if not kept:
            main = self._accelerator.is_main_process
            weights = gathered(self._model.state_dict(), keep=main)
            average = gathered(self._average.shadow, keep=main)
            state = gathered(optimizer_tensors(self._optimizers), keep=main)
            power = gathered(self._power.tensors, keep=main)
            if main:
                self._checkpoints.save(Checkpoint(self.step, weights, average, state, power))
        self._saved = time.monotonic()
        self._accelerator.wait_for_everyone()

    def _optimise(self, batch: Batch, rate: float, step: int) -> Tensor:
        """One optimiser step; the mean loss and the gradient's norm before clipping, (2,)."""
        accelerator, training = self._accelerator, self.training
        # Dropout, the only draw inside the network, is seeded by step and process as everything else.
        torch.manual_seed(derived_seed(training.seed, "dropout", step, accelerator.process_index))
        # Gradients are averaged over processes, whose shares of the batch may be unequal.
        processes, images = accelerator.num_processes, training.batch_size
        total = torch.zeros((), device=accelerator.device)
        parts = batch.parts(training.hardware.accumulate)
        for part in parts:
            # Processes exchange gradients once a step.
            # The kernel of attention is that of the backward pass too, where activations are computed again.
            with (
                exchanged(self._loss, accelerator, now=part is parts[-1]),
                attention_kernel(accelerator.device),
            ):
                with accelerator.autocast():
                    loss = self._loss(part).mean() * (len(part) * processes / images)
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self._loss.parameters(), training.optimizer.gradient_clip)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return torch.stack([accelerator.reduce(total, "mean"), unsharded(torch.as_tensor(norm)).detach()])

    def _record(self) -> None:
        """Check and write down the steps since the last time."""
        if not self._pending:
            return
        steps, rates, values = zip(*self._pending, strict=True)
        self._pending.clear()
        rows = [
            {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate}
            for step, rate, (loss, norm) in zip(steps, rates, torch.stack(values).tolist(), strict=True)
        ]
        for row in rows:
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                kept = self._checkpoints.steps()
                where = self._checkpoints.folder(kept[-1]) if kept else None
                good = f"the last good checkpoint is {where}" if where else "no checkpoint yet"
                raise SatcascadeError(
                    f"loss or gradient is not finite at step {row['step']}; {good}: "
                    "start again with a lower training.optimizer.learning_rate or training.precision=float32"
                )
        if self._history is not None:
            self._history.add(rows, self.waited)

    def _show(self) -> None:
        picture = None
        with self._averaged() as model:
            if self._history is not None and self._grid is not None:
                picture = self._grid(model, self._dtype)
        if self._history is not None and picture is not None:
            with atomic_write(self.out / "samples" / f"step-{self.step:07d}.png") as aside:
                Image.fromarray(picture).save(aside, format="png")
            self._history.add_image("samples", picture, self.step)
        self._accelerator.wait_for_everyone()

    def _validate(self, validation: Validation) -> None:
        """Measure the averaged weights, and let all know what the main process found."""
        self._record()
        began = time.monotonic()
        with self._averaged() as model:
            measured = validation(model, self._dtype, self.step)
        [row] = broadcast_object_list([measured])
        if self._history is not None:
            self._history.leave_out(time.monotonic() - began)
        validation.add(row, write=self._history is not None)
        if self._history is not None:
            self._history.add_scalars(validation.scalars(), self.step)
            self._history.say(validation.message())
        if validation.best is row:
            self.save()
            if self._history is not None:
                self._keep_best(validation)
        if validation.stalled and self._history is not None:
            self._history.say(f"{self.out}: {validation.stalled_message()}", always=True)

    def _keep_best(self, validation: Validation) -> None:
        """Keep the best checkpoint from now on."""
        best = validation.best
        if best is not None and best["step"] in self._checkpoints.steps():
            self._checkpoints.set_best(best["step"], validation.measure, best[validation.measure])

    def _keep_milestone(self) -> None:
        """Keep the averaged weights where the last step has completed an epoch that is a milestone."""
        training = self.training
        images = training.logging.milestone_epochs * len(self.source.data.rows)
        if not images:
            return
        before, now = ((self.step - back) * training.batch_size // images for back in (1, 0))
        if before < now:
            self._record()
            main = self._accelerator.is_main_process
            average = gathered(self._average.shadow, keep=main)
            if main:
                self._checkpoints.save_milestone(self.step, average)

    def _keep_snapshot(self) -> None:
        """Keep the power function averages where it is time to."""
        training = self.training
        due = self.step % training.logging.snapshot_every == 0 or self.step >= training.schedule.steps
        if training.averages.lengths and due:
            self._record()
            main = self._accelerator.is_main_process
            power = gathered(self._power.tensors, keep=main)
            if main:
                self._checkpoints.save_snapshot(self.step, power)

    @contextmanager
    def _averaged(self) -> Iterator[Denoiser]:
        """The network with the averaged weights, as any of the processes may use it alone."""
        if not self._sharded:
            with self._average.applied(self._model):
                yield self._model
            return
        with torch.device(self._accelerator.device):
            model = build_model(self._config)
        for name, value in model.named_parameters():
            fill(value, unsharded(self._average.shadow[name]))
        yield model.eval()

    def _resume(self) -> int:
        """Load the last intact checkpoint, if there is one; the number of steps done."""
        checkpoint = self._checkpoints.load_last(quiet=not self._accelerator.is_main_process)
        if checkpoint is None:
            return 0
        for name, value in self._model.state_dict().items():
            fill(value, checkpoint.model[name])
        self._average.load(checkpoint.ema)
        self._power.load(checkpoint.power)
        load_optimizer_tensors(self._optimizers, checkpoint.optimizer)
        return checkpoint.step
