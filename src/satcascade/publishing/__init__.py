"""Models to the hub: their card, and the upload."""
