"""What every source yields: samples, and the problems met on the way to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Sample:
    """One captioned image as its source describes it.

    Attributes:
        filename: unique name within the source.
        split: the split as the source names it.
        label: scene class, or None.
        captions: texts as the source gives them; some may be empty.
        image: the image file, or a call that returns its encoded bytes.
    """

    filename: str
    split: str
    label: str | None
    captions: tuple[str, ...]
    image: Path | Callable[[], bytes]

    def encoded(self) -> bytes:
        """The bytes of the image file."""
        return self.image.read_bytes() if isinstance(self.image, Path) else self.image()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a source.

    Attributes:
        kind: what is wrong, such as ``missing image``; problems are counted by it.
        name: where: the file name of the image.
        detail: more about it, or empty.
    """

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


@dataclass(frozen=True)
class Source:
    """A captioned image set, read but for its pixels.

    Attributes:
        name: the path or Hub name it was asked for by.
        kind: which reader read it.
        samples: all its rows, the bad ones too.
        problems: rows that could not even become a sample.
    """

    name: str
    kind: str
    samples: list[Sample]
    problems: list[Problem] = field(default_factory=list)


def normal_split(name: str) -> str | None:
    """``train``, ``val`` or ``test`` for any usual name of one of them; None for another name."""
    return _SPLIT_NAMES.get(name.strip().lower())


def one_line(caption: str) -> str:
    """A caption with each run of white space made one space, and none at the ends."""
    # A lone surrogate, which JSON may hold, cannot be written as UTF-8.
    return " ".join(caption.encode("utf-8", "ignore").decode("utf-8").split())


def check_samples(samples: Iterable[Sample]) -> tuple[list[Sample], list[Problem]]:
    """Part the usable samples from the problems that show without decoding an image.

    A sample stays, with its split name normalised and its empty captions left out, if it has a known
    split, a name in Unicode and not seen before, an image file and a caption.

    Returns:
        The usable samples in their order, and the problems.
    """
    good: list[Sample] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for sample in samples:
        faults, split = [], normal_split(sample.split)
        captions = tuple(text for text in map(one_line, sample.captions) if text)
        if split is None:
            faults.append(Problem("unknown split", sample.filename, f"'{sample.split}'"))
        if sample.filename in seen:
            faults.append(Problem("duplicate name", sample.filename))
        seen.add(sample.filename)
        if one_line(sample.filename).split() != sample.filename.split():
            faults.append(Problem("unreadable name", one_line(sample.filename), "not Unicode"))
        if isinstance(sample.image, Path) and not sample.image.is_file():
            faults.append(Problem("missing image", sample.filename))
        if not sample.captions:
            faults.append(Problem("no caption", sample.filename))
        if split is not None and captions and not faults:
            good.append(Sample(sample.filename, split, sample.label, captions, sample.image))
        empty = len(sample.captions) - len(captions)
        if empty:
            faults.append(Problem("empty caption", sample.filename, f"{empty} of {len(sample.captions)}"))
        problems += faults
    return good, problems


def describe(problems: Iterable[Problem], shown: int = 12) -> str:
    """Problems as one report: a line a kind with its count and the first ``shown`` names."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    lines = []
    for kind, group in groups.items():
        names = ", ".join(map(str, group[:shown]))
        more = f" and {len(group) - shown} more" if len(group) > shown else ""
        lines.append(f"  {kind}: {len(group)}: {names}{more}")
    return "\n".join(lines)


def split_counts(samples: Iterable[Sample]) -> dict[str, int]:
    """The number of samples of each split that has any, in the order train, val, test."""
    counts = Counter(sample.split for sample in samples)
    return {split: counts[split] for split in SPLITS if counts[split]}
