"""Presets: what a cascade is and how it is trained."""
