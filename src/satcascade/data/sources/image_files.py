"""Where a set's image files are, beside its annotations, and that they are in the set's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from satcascade.data.sources.sample import Problem, normal_split, one_line
from satcascade.errors import SatcascadeError

# Relative to the annotations; the last is their own folder.
_USUAL_FOLDERS = ("RSICD_images", "rsicd_images", "UCM_images", "images", "Images", "imgs", ".")
_SHOWN_FOLDERS = "RSICD_images, images or imgs"
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


def locate_image(root: Path, folder: Path, name: str) -> Path | Problem:
    """The image that a set's annotations name, if it may be read as part of the set.

    A set may come from a stranger: what its annotations name is read only in the set's own folder.

    Args:
        root: the folder of the set.
        folder: what the name is relative to; ``root`` or a folder in it.
        name: the file, with slashes or, as Windows writes it, with backslashes.

    Returns:
        A path in ``root`` without ``.`` and ``..``, where there may be no file; or the problem that the name,
        or a link on its way, leads out of ``root``, or that no file can be called so.
    """
    shown = one_line(name)
    spellings = dict.fromkeys((name, name.replace("\\", "/")))
    relatives = [os.path.normpath(folder.relative_to(root) / spelling) for spelling in spellings]
    inside = [
        not (Path(relative).is_absolute() or Path(relative).parts[:1] == (os.pardir,))
        for relative in relatives
    ]
    try:
        name.encode()  # a lone surrogate, which JSON may hold, is no part of a name that can be written down
        for relative, stays in zip(relatives, inside, strict=True):
            if stays and (root / relative).is_file():
                if is_inside(root, root / relative):
                    return root / relative
                return Problem("image outside the folder", shown, "a link leads there")
    except (OSError, ValueError):
        return Problem("missing image", shown, "no file can have this name")
    if PureWindowsPath(name).anchor:
        return Problem("image outside the folder", shown, "the path is absolute")
    if not all(inside):
        return Problem("image outside the folder", shown)
    return root / relatives[-1]


def name_in(folder: Path, image: Path) -> str:
    """An image's path relative to a folder, with slashes."""
    return Path(os.path.relpath(image, folder)).as_posix()


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a path, its links followed, is in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that go round
        return False


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a file of annotations that a link takes out of the set's folder.

    Raises:
        SatcascadeError: the path, its links followed, is not in the folder.
    """
    if not is_inside(folder, path):
        raise SatcascadeError(
            f"{path} is a link that leads out of {folder}, and what is outside is not read: copy the set "
            "with its links followed (cp -rL)"
        )


def find_images(folder: Path, names: Sequence[str]) -> Path:
    """The folder, in or beside the annotations, that holds most of the named images.

    Args:
        folder: where the annotations are.
        names: file names of the images.

    Raises:
        SatcascadeError: none of the usual folders holds a single one of them.
    """
    counts: dict[Path, int] = {}
    outside: Problem | None = None
    for place in (folder / each for each in _USUAL_FOLDERS):
        located = [locate_image(folder, place, name) for name in names if name]
        counts[place] = sum(isinstance(each, Path) and each.is_file() for each in located)
        outside = outside or first_outside(located)
    best = max(counts, key=lambda place: counts[place])
    if not counts[best]:
        names_them = f"not one of the {len(names)} files that its annotations name"
        raise no_images(folder, f"{names_them} is there or in its folder {_SHOWN_FOLDERS}", outside)
    return best


def no_images(folder: Path, reason: str, outside: Problem | None) -> SatcascadeError:
    """The error to raise where not one of the images that the annotations name can be read.

    Args:
        folder: the folder of the set.
        reason: what is to be said where none is outside of the folder.
        outside: the first that is.
    """
    if outside:
        return SatcascadeError(
            f"no images in {folder}: '{outside.name}' is outside of it"
            f"{f' ({outside.detail})' if outside.detail else ''}, and what is outside is not read: copy the "
            "images into the folder, links followed (cp -rL), and name them relative to it"
        )
    return SatcascadeError(f"no images in {folder}: {reason}; put the images there")


def first_outside(located: Sequence[Path | Problem]) -> Problem | None:
    """The first problem of an image outside of the set's folder."""
    problems = (each for each in located if isinstance(each, Problem))
    return next((each for each in problems if each.kind == "image outside the folder"), None)


def list_images(folder: Path) -> list[Path]:
    """All image files under a folder, at any depth, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def split_on_path(filename: str) -> str | None:
    """The first folder on an image's path that is called as a split is; None where none is."""
    return next((part for part in Path(filename).parts[:-1] if normal_split(part)), None)


def class_on_path(filename: str) -> str | None:
    """The last folder on an image's path that is called neither as a split nor ``images`` or the like."""
    usual = {name.lower() for name in _USUAL_FOLDERS}
    parts = reversed(Path(filename).parts[:-1])
    return next((part for part in parts if not normal_split(part) and part.lower() not in usual), None)
