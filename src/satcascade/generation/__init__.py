"""Many images to a folder."""
