"""The folder that a training run lives in; see docs/reference/run-folder.md."""

# What the run is.
RUN_FILE = "run.json"
# A row a step, and a row a validation.
METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
TENSORBOARD = "tensorboard"
# The step that validation found best.
BEST = "best.json"
# The autoencoder whose latents a run is trained on.
VAE = "vae"
