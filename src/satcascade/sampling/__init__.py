"""From noise to images: a stage, what it is conditioned on, and the loop."""
