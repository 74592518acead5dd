"""The diffusers pipeline, how it is built, and its folder."""
