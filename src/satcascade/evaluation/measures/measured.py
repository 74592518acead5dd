"""What a measure answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Measured:
    """What was measured; all but the numbers may be empty.

    Attributes:
        numbers: flat keys and values for ``metrics.json``.
        images: for each generated image fields of
            :class:`satcascade.evaluation.report.data.GeneratedImage`.
        classes: for each scene class fields of :class:`satcascade.evaluation.report.data.ClassResult`.
        details: fields of :class:`satcascade.evaluation.report.data.Details`.
        pictures: files of the report's folder, by name.
    """

    numbers: dict[str, float | int]
    images: Sequence[dict[str, Any]] = ()
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Image.Image] = field(default_factory=dict)
