"""What a training step may fail by, in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._dynamo.exc

from satcascade.config.training import Training
from satcascade.errors import SatcascadeError


@contextmanager
def refuse_in_a_line(training: Training) -> Iterator[None]:
    """Turn what a step may fail by for want of memory or of a compiler into one line.

    Raises:
        SatcascadeError: with what to set instead.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        # The compiler's own error is inside that of the tracer, and says in its first line what matters.
        inner = getattr(error, "inner_exception", error)
        reason = str(inner).strip().splitlines()[0].rstrip(" .:")[:200]
        raise SatcascadeError(
            f"the network cannot be compiled here ({reason}): set training.hardware.compile=false"
        ) from error
    except RuntimeError as error:
        full = isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not full:
            raise
        size, parts = training.batch_size, 2 * training.hardware.accumulate
        same = f"training.hardware.accumulate={parts} (the same results), or " if parts <= size else ""
        raise SatcascadeError(
            f"out of memory with {size} images a batch: try {same}training.batch_size={max(size // 2, 1)}"
        ) from error
