"""The old place of :class:`RSDiffScheduler`, which models saved before it moved refer to."""

from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler

__all__ = ["RSDiffScheduler"]
