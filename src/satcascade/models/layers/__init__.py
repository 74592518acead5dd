"""Layers and kernels that networks share."""
