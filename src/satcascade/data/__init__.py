"""Captioned image sets: reading them where they are, and preparing them for training."""
