"""Where the noise of each image comes from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from satcascade.errors import UsageError


def image_generators(
    count: int,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[torch.Generator]:
    """One generator an image.

    Args:
        count: how many images.
        generator: one an image. A single one serves one image as it is, and is asked for a seed an image
            where there are several.
        seeds: one an image instead, integers in [0, 2^63). Without either, torch's own generator decides.

    Raises:
        UsageError: both are given, not one an image, or a seed is out of range.
    """
    if generator is not None and seeds is not None:
        raise UsageError("give either seeds or generators, not both")
    if isinstance(generator, torch.Generator):
        if count == 1:
            return [generator]
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    elif generator is not None:
        if len(generator) != count:
            raise UsageError(f"{len(generator)} generators for {count} images: give one an image")
        return list(generator)
    if seeds is None:
        seeds = torch.randint(2**63 - 1, (count,)).tolist()
    if len(seeds) != count:
        raise UsageError(f"{len(seeds)} seeds for {count} images: give one an image")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range: give an integer from 0 to 2^63 - 1")
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]
