"""Where a set's image files are, beside its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from satcascade.errors import SatcascadeError

# Relative to the annotations; the last is their own folder.
_USUAL_FOLDERS = ("RSICD_images", "rsicd_images", "UCM_images", "images", "Images", "imgs", ".")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


def find_images(folder: Path, names: Sequence[str]) -> Path:
    """The folder, in or beside the annotations, that holds most of the named images.

    Args:
        folder: where the annotations are.
        names: file names of the images.

    Raises:
        SatcascadeError: none of the usual folders holds a single one of them.
    """
    counts = {
        place: sum((place / name).is_file() for name in names if name)
        for place in (folder / each for each in _USUAL_FOLDERS)
    }
    best = max(counts, key=lambda place: counts[place])
    if not counts[best]:
        raise SatcascadeError(
            f"no images in {folder}: not one of the {len(names)} files that its annotations name is there or "
            "in its folder RSICD_images, images or imgs; put the images there"
        )
    return best


def list_images(folder: Path) -> list[Path]:
    """All image files under a folder, at any depth, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
