"""The mathematics of diffusion: pure functions and schedulers, no networks."""
