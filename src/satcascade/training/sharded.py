"""Fully sharded training: each process keeps its part of every weight, gradient and optimiser state.

By PyTorch's ``fully_shard`` (FSDP2; Zhao et al. 2023, "PyTorch FSDP"). Blocks are gathered when they are
computed and let go again. What is read from or written to disk is whole tensors, the same as without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(loss: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Share out the parameters of a module among all processes, in place.

    Args:
        loss: its submodules of the classes that ``_no_split_modules`` of any of them names are gathered one
            by one, all the rest together. Parameters become DTensors: make optimisers afterwards.
        accelerator: knows the processes.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    names = {name for module in loss.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    for module in loss.modules():
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    return loss


@contextmanager
def exchanged(loss: nn.Module, accelerator: Accelerator, now: bool) -> Iterator[None]:
    """Exchange gradients among processes in the backward pass inside it, or let them add up till one does.

    Args:
        loss: distributed whole or sharded, or neither.
        accelerator: what distributed it.
        now: whether to.
    """
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(now)
        yield
    elif now:
        yield
    else:
        with accelerator.no_sync(loss):
            yield


def unsharded(tensor: Tensor) -> Tensor:
    """A tensor as it is without sharding. All processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors, one after the other; all processes must ask together.

    Args:
        tensors: the same names in the same order in all processes.
        keep: whether this process wants them; sharded ones come to main memory.

    Returns:
        Nothing unless ``keep``.
    """
    gathered_tensors = {}
    for name, tensor in tensors.items():
        full = unsharded(tensor)
        if keep:
            gathered_tensors[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return gathered_tensors


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded; every process has the value."""
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        # The value is the same everywhere: nobody need send it.
        value = distribute_tensor(value.to(mesh.device_type), mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(value)
