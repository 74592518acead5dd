"""Where to compute: the torch device behind a name a user gives."""

from __future__ import annotations

import torch

from satcascade.errors import UsageError


def pick_device(device: str = "auto") -> torch.device:
    """The torch device of a name.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...

    Raises:
        UsageError: no such device on this machine.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "cpu": 1,
    }
    if device == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if (chosen.index or 0) >= counts.get(chosen.type, 0):
        available = ", ".join(
            f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items() if count
        )
        raise UsageError(f"no device '{device}' on this machine: it has {available}")
    return chosen
