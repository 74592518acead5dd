"""Image folders without a table: captions in text files beside the images, or none."""

from __future__ import annotations

from pathlib import Path

from satcascade.data.sources.image_files import class_on_path, is_inside, list_images, split_on_path
from satcascade.data.sources.sample import Problem, Sample, Source
from satcascade.data.sources.text_files import read_text
from satcascade.errors import one_line

# The later goes before the earlier where an image has both.
_SUFFIXES = (".caption", ".txt")


def read_caption_files(folder: Path, split: str, class_folders: bool) -> Source:
    """A folder of images, at any depth, with the captions of each in a text file beside it.

    Format: ``t0.png`` and ``t0.txt`` (or ``t0.caption``, or ``t0.png.txt``), one caption a line, in UTF-8 or
    with a byte order mark; empty lines are passed over. This is what kohya's scripts and SimpleTuner read
    and img2dataset writes. An image without such a file has no captions.

    Splits: the first folder on the image's path that is called as a split is; else ``split``.

    Labels: with ``class_folders`` the last folder on the path that is no split and not ``images``; else none.

    Args:
        folder: the folder.
        split: the split of images to which no folder gives one.
        class_folders: whether folders are named after scene classes.
    """
    texts = _caption_files(folder)
    samples: list[Sample] = []
    problems: list[Problem] = []
    for image in list_images(folder):
        name = image.relative_to(folder).as_posix()
        if not is_inside(folder, image):
            problems.append(Problem("image outside the folder", name, "a link leads there"))
            continue
        text = texts.get(image.with_suffix("")) or texts.get(image)
        captions: tuple[str, ...] = ()
        if text and not is_inside(folder, text):
            problems.append(Problem("captions outside the folder", name, "a link leads there"))
            continue
        if text:
            try:
                captions = tuple(line for line in read_text(text).split("\n") if line.strip())
            except (OSError, UnicodeError) as error:
                where = text.relative_to(folder).as_posix()
                problems.append(Problem("unreadable captions", where, one_line(error)))
                continue
        samples.append(
            Sample(
                filename=name,
                split=split_on_path(name) or split,
                label=class_on_path(name) if class_folders else None,
                captions=captions,
                image=image,
            )
        )
    return Source(str(folder), "imagefolder", samples, problems)


def has_caption_files(folder: Path) -> bool:
    """Whether any image under a folder has a text file of captions beside it."""
    texts = _caption_files(folder)
    return bool(texts) and any(
        image in texts or image.with_suffix("") in texts for image in list_images(folder)
    )


def _caption_files(folder: Path) -> dict[Path, Path]:
    """Each text file under a folder by its path without the suffix."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES)
    by_suffix = sorted(files, key=lambda path: _SUFFIXES.index(path.suffix.lower()))
    return {path.with_suffix(""): path for path in by_suffix}
