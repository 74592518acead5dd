"""The training loop of one stage, and the folder that a run lives in."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from satcascade.config import Preset, StageName, load_preset
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.files import written_whole
from satcascade.locks import held
from satcascade.models.factory import build_model
from satcascade.precision import compute_dtype
from satcascade.seeds import derived_seed
from satcascade.training.batches import Batch, BatchSource
from satcascade.training.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    load_optimizer_tensors,
    optimizer_tensors,
)
from satcascade.training.ema import WeightAverage
from satcascade.training.history import History
from satcascade.training.loss import DenoisingLoss
from satcascade.training.optimizers import learning_rate, make_optimizers
from satcascade.training.run_folder import open_run, trained_stage
from satcascade.training.samples import SampleGrid


def train(
    stage: StageName,
    *,
    preset: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    split: str = "train",
    init_from: Path | None = None,
    device: str | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train one stage of a cascade; called again on the same folder, go on where it stopped.

    A resumed run sees the same data, noise and dropout as an uninterrupted one and ends with the same
    weights (on the same machine). SIGINT and SIGTERM end it after the current step, with a checkpoint.

    Args:
        stage: ``base`` or ``sr``.
        preset: name or YAML file, see :func:`satcascade.config.load_preset`.
        data: folder written by ``satcascade prepare``.
        out: the run's folder.
        overrides: ``training.batch_size=16``, relative to the stage, or from the preset's top.
        split: the rows to train on.
        init_from: a run of the same network, whose averaged weights (of its last checkpoint) this one starts
            from; only read when the run begins.
        device: ``cpu`` forces the CPU; otherwise accelerate chooses.
        minutes: stop with a checkpoint after that many.
        quiet: show no progress.

    Returns:
        The folder of the last checkpoint.

    Raises:
        UsageError: unknown preset or key, missing split, or ``out`` belongs to a run with other settings.
        SatcascadeError: damaged data or checkpoint, full disk, or a loss that is not finite.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    settings = load_preset(preset, [_from_top(stage, override) for override in overrides])
    config, training = settings.stage(stage).model, settings.stage(stage).training
    dataset = PreparedDataset.open(data)
    _check_encoder(settings, stage, dataset)
    dtype = compute_dtype(training.precision, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if dtype is torch.bfloat16 else "no"
    )
    source = BatchSource(
        dataset,
        split,
        training,
        training.image_size or config.sample_size,
        config.low_res_resize if config.low_res else None,
        accelerator.process_index,
        accelerator.num_processes,
    )
    out = Path(out)
    folder = CheckpointFolder(out, training.keep_checkpoints)
    origin = None
    if init_from is not None and not folder.steps():
        origin = trained_stage(init_from, stage).model.state_dict()
    if accelerator.is_main_process:
        open_run(out, stage, settings, split, dataset, init_from)

    torch.manual_seed(derived_seed(training.seed, "weights"))
    model = build_model(config)
    if origin is not None:
        model.load_state_dict(origin)
    model.to(accelerator.device, memory_format=torch.channels_last)
    optimizers = make_optimizers(model, training)
    average = WeightAverage(model, training.ema_half_life)
    start = _resume(folder, model, average, optimizers)
    if start >= training.steps:
        return folder.folder(start)
    loss_module = accelerator.prepare(DenoisingLoss(model, training.weighting, config.sigma_data).train())

    def save(step: int) -> None:
        if accelerator.is_main_process:
            state = optimizer_tensors(optimizers)
            folder.save(Checkpoint(step, dict(model.state_dict()), average.shadow, state))
        accelerator.wait_for_everyone()

    def show(step: int) -> None:
        if history is not None:
            with average.applied(model):
                picture = grid(model, dtype)
            with written_whole(out / "samples" / f"step-{step:07d}.png") as aside:
                Image.fromarray(picture).save(aside, format="png")
            history.add_image("samples", picture, step)
        accelerator.wait_for_everyone()

    grid = SampleGrid(settings, stage, dataset)
    pending: list[tuple[int, Tensor, Tensor, float]] = []
    # Only one process writes to the folder.
    taken = f"another process is training in {out}: wait for it or end it"
    writes = accelerator.is_main_process
    with (
        held(out / ".lock", taken) if writes else nullcontext(),
        History(out, start, training.steps, training.batch_size, quiet)
        if writes
        else nullcontext() as history,
        _stop_signals() as stopped,
    ):
        for step, batch in enumerate(_prefetched(source, start, training.steps), start=start + 1):
            rate = learning_rate(step - 1, training)
            loss, norm = _step(
                accelerator, loss_module, optimizers, batch, training.gradient_clip, rate, step, training.seed
            )
            average.update(model, step * training.batch_size, training.batch_size)
            pending.append((step, loss, norm, rate))
            last = step == training.steps or _any(accelerator, bool(stopped) or _over(deadline))
            due = training.checkpoint_every and step % training.checkpoint_every == 0
            if last or due or step % training.log_every == 0:
                rows = _finite_rows(pending, folder)
                pending.clear()
                if history is not None:
                    history.add(rows)
            if last or due:
                save(step)
            if training.sample_every and (last or step % training.sample_every == 0):
                show(step)
            if last:
                break
    return folder.folder(step)


def _step(
    accelerator: Accelerator,
    loss_module: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    clip: float,
    rate: float,
    step: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """One optimiser step; the mean loss and the gradient's norm before clipping, as tensors."""
    # Dropout, the only draw inside the network, is seeded by step and process as everything else.
    torch.manual_seed(derived_seed(seed, "dropout", step, accelerator.process_index))
    with accelerator.autocast(), _attention(accelerator.device):
        loss = loss_module(batch.to(accelerator.device)).mean()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(loss_module.parameters(), clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return accelerator.reduce(loss.detach(), "mean"), torch.as_tensor(norm).detach()


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain attention on a CPU: the backward pass of the fused kernel is several times slower there."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _prefetched(source: BatchSource, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps start to stop, each made while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(source, start) if start < stop else None
        for step in range(start, stop):
            assert coming is not None
            batch = coming.result()
            coming = pool.submit(source, step + 1) if step + 1 < stop else None
            yield batch


def _finite_rows(
    pending: list[tuple[int, Tensor, Tensor, float]], folder: CheckpointFolder
) -> list[dict[str, Any]]:
    rows = [
        {"step": step, "loss": float(loss), "grad_norm": float(norm), "learning_rate": rate}
        for step, loss, norm, rate in pending
    ]
    for row in rows:
        if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
            kept = folder.steps()
            good = f"the last good checkpoint is {folder.folder(kept[-1])}" if kept else "no checkpoint yet"
            raise SatcascadeError(
                f"loss or gradient is not finite at step {row['step']}; {good}: "
                "start again with a lower training.learning_rate or training.precision=float32"
            )
    return rows


def _resume(
    folder: CheckpointFolder,
    model: torch.nn.Module,
    average: WeightAverage,
    optimizers: list[torch.optim.Optimizer],
) -> int:
    """Load the last checkpoint, if there is one; the number of steps done."""
    steps = folder.steps()
    if not steps:
        return 0
    checkpoint = folder.load(steps[-1])
    model.load_state_dict(checkpoint.model)
    average.load(checkpoint.ema)
    load_optimizer_tensors(optimizers, checkpoint.optimizer)
    return checkpoint.step


def _check_encoder(settings: Preset, stage: StageName, dataset: PreparedDataset) -> None:
    encoder = dataset.manifest["encoder"]
    expected = settings.stage(stage).model.text_dim
    if encoder["name"] != settings.text_encoder or encoder["dim"] != expected:
        raise UsageError(
            f"{dataset.path} holds embeddings of '{encoder['name']}' ({encoder['dim']} wide), preset "
            f"'{settings.name}' needs '{settings.text_encoder}' ({expected} wide): prepare it again with "
            f"--encoder {settings.text_encoder}"
        )


def _from_top(stage: StageName, override: str) -> str:
    return f"{stage}.{override}" if override.startswith(("model.", "training.")) else override


def _any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether ``flag`` is set in any of the processes: they must all stop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    received: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, lambda number, _: received.append(number)) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
