"""The old place of :class:`RSDiffScheduler`, which models saved before it moved refer to."""

# For diffusers, which looks in a component's module for the base class that says how it is loaded.
from diffusers import SchedulerMixin

from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler

__all__ = ["RSDiffScheduler", "SchedulerMixin"]
