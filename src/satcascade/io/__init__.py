"""Files, folders and locks: what reaches the disk, whole or not at all."""
