"""The card of a model: what it is, how it is used, what was measured of it, as the hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satcascade.errors import UsageError
from satcascade.formats.report import DETAILS, METRICS
from satcascade.io.json import read_json
from satcascade.io.tables import markdown_table
from satcascade.pipelines.folder import MODEL_INDEX, weight_files

CARD = "README.md"
TAGS = ("satcascade", "satellite-imagery", "remote-sensing", "diffusion")
_TASK = "text-to-image"


@dataclass(frozen=True)
class Measurements:
    """What was measured of a model.

    Attributes:
        numbers: by name, as ``satcascade evaluate`` writes them.
        data: name of the real images; None where it is not known.
        split: of these; None likewise.
    """

    numbers: Mapping[str, float]
    data: str | None = None
    split: str | None = None

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """Read a report's folder, or a file of numbers.

        Raises:
            UsageError: it is missing, or holds other things than numbers.
            SatcascadeError: it is damaged.
        """
        folder = path if path.is_dir() else path.parent
        file = path / METRICS if path.is_dir() else path
        missing = UsageError(
            f"no metrics in {path}: give a report of 'satcascade evaluate', or its {METRICS}"
        )
        numbers = read_json(file, "measure again", missing)
        if not all(isinstance(value, int | float) for value in numbers.values()):
            raise UsageError(f"{file} holds other things than numbers: give a {METRICS}")
        details = folder / DETAILS
        about = read_json(details, "measure again").get("data", {}) if details.is_file() else {}
        return cls(numbers, about.get("source"), about.get("split"))


def model_card(
    folder: Path,
    repository: str,
    licence: str,
    measured: Measurements | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """The card of a model folder; one that is in the folder already is kept, with the sections added.

    Args:
        folder: of a saved pipeline.
        repository: ``owner/name`` on the hub.
        licence: as the hub calls it (``apache-2.0``, ``other``, ...); for a card that is kept it is not used.
        measured: for a section of numbers.
        pictures: paths within the repository, for a section that shows them.
    """
    there = folder / CARD
    parts = [there.read_text(encoding="utf-8").rstrip() + "\n"] if there.is_file() else []
    if not parts:
        parts = [_front_matter(repository, licence, measured), _about(folder, repository)]
    if pictures:
        shown = "\n".join(f"![Generated pictures; they show no real place]({path})" for path in pictures)
        parts.append(f"## Pictures\n\n{shown}\n")
    if measured:
        parts.append(_measured(measured))
    return "\n".join(parts)


def _front_matter(repository: str, licence: str, measured: Measurements | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    # The hub takes no number without the data that it was measured on.
    if measured and measured.data:
        results = [
            EvalResult(
                task_type=_TASK,
                dataset_type=measured.data,
                dataset_name=measured.data,
                dataset_split=measured.split,
                metric_type=name,
                metric_value=value,
            )
            for name, value in measured.numbers.items()
        ]
    data = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag=_TASK,
        tags=list(TAGS),
        model_name=repository.partition("/")[2],
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _about(folder: Path, repository: str) -> str:
    index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
    steps, guidance = (f"{index.get(f'base_{name}', '-')}" for name in ("steps", "guidance"))
    rows = [["Part", "Parameters", "Bytes"], *_networks(folder)]
    return f"""# {repository.partition("/")[2]}

Text to satellite image: a diffusion pipeline of `satcascade`. Its pictures show no real place.

- Text encoder: `{index.get("text_encoder", "-")}` (frozen, not in this repository)
- By default {steps} steps in the base stage, with guidance {guidance}

{markdown_table(rows)}
```python
from satcascade import load_pipeline

pipe = load_pipeline("{repository}")
pipe("a curved river with many green trees on both sides", seeds=[0]).images[0].save("river.png")
```
"""


def _networks(folder: Path) -> list[list[str]]:
    """Each component with weights: its parameters and the bytes of its files."""
    from safetensors import safe_open

    found: dict[str, tuple[int, int]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            shapes: list[Any] = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        part = path.parent.relative_to(folder).as_posix()
        parameters, size = found.get(part, (0, 0))
        found[part] = (parameters + sum(map(_product, shapes)), size + path.stat().st_size)
    return [[f"`{part}`", f"{count:,}", f"{size:,}"] for part, (count, size) in found.items()]


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _measured(measured: Measurements) -> str:
    rows = [["Measure", "Value"]]
    for name, value in measured.numbers.items():
        rows.append([name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}"])
    against = f", against the split {measured.split} of {measured.data}" if measured.data else ""
    return f"## Measured\n\nBy `satcascade evaluate`{against}.\n\n{markdown_table(rows)}"
