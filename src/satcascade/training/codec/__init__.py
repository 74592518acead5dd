"""Training of the autoencoder whose latents are diffused."""
