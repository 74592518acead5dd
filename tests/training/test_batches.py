"""Batches made ahead of the step that trains on them."""

from __future__ import annotations

import torch

from forked import Forked
from satcascade.training.batches import prefetched


def _threads_of_batches() -> None:
    torch.set_num_threads(2)
    seen = list(prefetched(lambda _: torch.get_num_threads(), 0, 3))  # type: ignore[arg-type]
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == 2


def test_batches_are_made_on_one_thread_and_the_trainer_keeps_its_own() -> None:
    """Two teams of OpenMP's in a process put each other to sleep between operations."""
    process = Forked(_threads_of_batches)
    assert process.wait() == 0, process.err
