"""A grid of settings and checkpoints."""
