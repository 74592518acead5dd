"""An evaluation: a folder of generated images against the real ones of a split, and what is left of it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison, RealSide
from satcascade.evaluation.inputs import Bundle
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.registry import MEASURES, needing
from satcascade.evaluation.networks.clip import DEFAULT_CLIP
from satcascade.evaluation.networks.features import EFFICIENTNET
from satcascade.evaluation.report.data import ClassResult, Details, GeneratedImage, thumbnail_path
from satcascade.formats.prepared_set import MANIFEST
from satcascade.formats.report import DETAILS, METRICS
from satcascade.hardware.devices import pick_device
from satcascade.io.files import atomic_folder
from satcascade.io.json import write_json
from satcascade.io.progress import ProgressDisplay

_THUMBNAIL = 128
_PACKAGES = ("satcascade", "torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        bundle: folder of generated images, see :class:`satcascade.evaluation.inputs.Bundle`.
        data: a prepared set, or a source that ``satcascade prepare`` takes, which is then prepared inside
            ``out``'s parent, once.
        out: the report's folder; missing, empty, or an earlier report, which is replaced.
        split: of the real images that the generated ones are compared with.
        metrics: names among ``MEASURES``; None is the usual ones, without those that need scene classes where
            there are none.
        features: names of feature networks, see
            :func:`satcascade.evaluation.networks.features.load_features`. The first serves
            all that is measured on one network only.
        clip: CLIP model of the CLIP-score, by name or folder.
        inception_weights: a copy of the Inception networks' weights file.
        device: where feature networks compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ... Statistics are
            computed on the CPU in float64.

    Raises:
        UsageError: an unknown metric, or none, or no feature network.
    """

    bundle: Path
    data: Path
    out: Path
    split: str = "test"
    metrics: tuple[str, ...] | None = None
    features: tuple[str, ...] = (EFFICIENTNET,)
    clip: str = DEFAULT_CLIP
    inception_weights: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics or () if name not in MEASURES]
        if unknown or self.metrics == ():
            fault = f"unknown metric '{unknown[0]}'" if unknown else "no metric"
            raise UsageError(f"{fault}: choose from {', '.join(MEASURES)}")
        if not self.features:
            raise UsageError(f"no feature network: {EFFICIENTNET} needs no download")


def evaluate(
    request: EvaluationRequest, progress: bool = True, real: RealSide | None = None
) -> dict[str, float | int]:
    """Measure a bundle and write its report folder, which appears whole.

    ``metrics.json`` holds the numbers, ``details.json`` all that belongs to them, ``thumbnails/`` the
    generated images at 128 pixels, ``memorisation.png`` the pairs of generated and training images most
    alike.

    Args:
        request: what to measure.
        progress: show progress on the error stream.
        real: what an earlier evaluation with the same data and features has computed; None begins anew.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UsageError: the split is missing, there are too few images for a statistic, there is no such device,
            or ``out`` holds something else.
        SatcascadeError: the bundle or the set is damaged, or a feature network cannot be had.
    """
    out = Path(request.out)
    if out.exists() and not (out / METRICS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something else than a report: choose another folder")
    device = pick_device(request.device)
    dataset = real.dataset if real else _dataset(request, progress)
    with warnings.catch_warnings(record=True) as caught, ProgressDisplay(progress) as display:
        warnings.simplefilter("always")
        with display.task("checking images", None) as task:
            bundle = Bundle.open(request.bundle, task.advance)
        dataset.indices(request.split)
        # Known before hours of work: whether every network can be had.
        real = real or RealSide.load(dataset, request.features, request.inception_weights, device)
        comparison = Comparison(bundle, real, request.split, display, device, request.clip)
        names, notes = _names(request, comparison)
        measured = _measure(names, comparison)
    notes += [
        str(warning.message)
        for warning in caught
        if type(warning.message).__module__.startswith("satcascade")
    ]
    metrics: dict[str, float | int] = {"n_generated": len(bundle), "n_real": len(comparison.real)}
    for result in measured:
        metrics |= result.numbers
    details = _details(comparison, measured, notes)
    with atomic_folder(out) as aside:
        _write_thumbnails(bundle, aside)
        for result in measured:
            for name, picture in result.pictures.items():
                picture.save(aside / name)
        write_json(aside / METRICS, metrics)
        (aside / DETAILS).write_text(details.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for note in notes:
        warnings.warn(EvaluationWarning(note), stacklevel=2)
    return metrics


class EvaluationWarning(UserWarning):
    """Something that a reader of the numbers should know."""


def _names(request: EvaluationRequest, comparison: Comparison) -> tuple[list[str], list[str]]:
    """Which measures are asked for, and what a reader should know about that."""
    if request.metrics is not None:
        return [name for name in MEASURES if name in request.metrics], []
    usual = [name for name, measure in MEASURES.items() if measure.usual]
    records = comparison.dataset.records
    if None not in comparison.labels and all(record.label is not None for record in records):
        return usual, []
    left_out = needing(usual, "scene classes")
    note = f"not all captions have a scene class, so {' and '.join(left_out)} were left out"
    return [name for name in usual if name not in left_out], [note]


def _measure(names: list[str], comparison: Comparison) -> list[Measured]:
    """What each measure answers; those with a value a network first, network by network."""
    measures = [MEASURES[name] for name in names]
    results = []
    for network in comparison.networks:
        for measure in measures:
            if measure.per_network:
                with comparison.timings(f"{measure.name}/{network.name}"):
                    results.append(measure.compute(comparison, network))
    for measure in measures:
        if not measure.per_network:
            with comparison.timings(measure.name):
                results.append(measure.compute(comparison, comparison.networks[0]))
    return results


def _details(comparison: Comparison, measured: list[Measured], notes: list[str]) -> Details:
    """What belongs to the numbers."""
    bundle, dataset = comparison.bundle, comparison.dataset
    images: list[dict[str, Any]] = [
        {"file": path.name, "caption": caption, "label": label}
        for path, caption, label in zip(bundle.images.paths, bundle.captions, comparison.labels, strict=True)
    ]
    classes: dict[str, dict[str, Any]] = defaultdict(dict)
    fields: dict[str, Any] = {}
    for result in measured:
        for image, more in zip(images, result.images, strict=False):
            image |= more
        for name, more in result.classes.items():
            classes[name] |= more
        fields |= result.details
    # Where it lay on somebody's disk is nobody's business.
    source = Path(str(dataset.manifest["source"])).name
    seed = {"seed": bundle.run["seed"]} if "seed" in bundle.run else {}
    return Details(
        name=str(bundle.manifest[0].get("model") or bundle.path.name),
        bundle=bundle.path.name,
        data={"source": source, "split": comparison.split, "hash": dataset.hash},
        settings=bundle.settings | seed,
        versions={name: version(name) for name in _PACKAGES},
        timings=comparison.timings.seconds,
        per_class={name: ClassResult.model_validate(result) for name, result in classes.items()},
        images=[GeneratedImage.model_validate(image) for image in images],
        notes=notes,
        **fields,
    )


def _write_thumbnails(bundle: Bundle, folder: Path) -> None:
    for number, path in enumerate(bundle.images.paths):
        thumbnail = thumbnail_path(folder, path.name)
        thumbnail.parent.mkdir(parents=True, exist_ok=True)
        small = bundle.images[number].resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
        small.save(thumbnail, quality=85)


def _dataset(request: EvaluationRequest, progress: bool) -> PreparedDataset:
    """The prepared set, made of a published one where need be."""
    data = Path(request.data)
    if (data / MANIFEST).is_file() or not data.exists():
        return PreparedDataset.open(data)

    from satcascade.data.prepare import prepare

    prepared = Path(request.out).parent / f"{data.resolve().name}-prepared"
    if not (prepared / MANIFEST).is_file():
        prepare(data, prepared, progress=progress)
    return PreparedDataset.open(prepared)
