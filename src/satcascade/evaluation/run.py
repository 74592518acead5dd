"""An evaluation: a folder of generated images against the real ones of a split, and what is left of it.

Features are computed once for each network and shared by all that is measured on them.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.evaluation.inputs import Bundle, RealImages
from satcascade.evaluation.measures.distances import frechet_distance, kernel_distance
from satcascade.evaluation.measures.manifold import manifold_scores
from satcascade.evaluation.measures.memorisation import Memorisation, contact_sheet, memorisation
from satcascade.evaluation.measures.probe import LabelledFeatures, class_names, label_numbers
from satcascade.evaluation.measures.scene import SceneAccuracy, scene_accuracy
from satcascade.evaluation.measures.usefulness import fits, usefulness
from satcascade.evaluation.networks.clip import DEFAULT_CLIP, ClipScore, clip_score, load_clip
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import EFFICIENTNET, load_features, real_features
from satcascade.evaluation.report.data import (
    DETAILS,
    MEMORISATION,
    METRICS,
    ClassResult,
    Details,
    GeneratedImage,
    Nearest,
    thumbnail_path,
)
from satcascade.formats.prepared_set import MANIFEST
from satcascade.io.files import folder_written_whole

# What can be asked for. CLIP is not among the usual ones, since its weights have to be fetched.
USUAL = ("frechet", "kernel", "manifold", "scene", "usefulness", "memorisation")
ALL = (*USUAL, "clip")
_ON_NETWORKS = ("frechet", "kernel", "manifold")
_WITH_CLASSES = ("scene", "usefulness")
_THUMBNAIL = 128
_PACKAGES = ("satcascade", "torch", "transformers", "numpy", "pillow")

Advance = Callable[[int], None]


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        bundle: folder of generated images, see :class:`satcascade.evaluation.inputs.Bundle`.
        data: a prepared set, or a source that ``satcascade prepare`` takes, which is then prepared inside
            ``out``'s parent, once.
        out: the report's folder; missing, empty, or an earlier report, which is replaced.
        split: of the real images that the generated ones are compared with.
        metrics: names among ``ALL``; None is ``USUAL``, without those that need scene classes where there
            are none.
        features: names of feature networks, see
            :func:`satcascade.evaluation.networks.features.load_features`. The first serves
            all that is measured on one network only.
        clip: CLIP model of the CLIP-score, by name or folder.
        inception_weights: a copy of the Inception networks' weights file.

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

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics or () if name not in ALL]
        if unknown or self.metrics == ():
            found = f"unknown metric '{unknown[0]}'" if unknown else "no metric"
            raise UsageError(f"{found}: choose from {', '.join(ALL)}")
        if not self.features:
            raise UsageError(f"no feature network: {EFFICIENTNET} needs no download")


@dataclass
class RealSide:
    """What generated images are compared with; evaluations that share one compute its features once.

    Attributes:
        dataset: the prepared set.
        networks: the feature networks.
        features: of real images, by split and name of the network, as far as they were asked for.
    """

    dataset: PreparedDataset
    networks: list[FeatureNetwork]
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: PreparedDataset, request: EvaluationRequest) -> RealSide:
        """The real side of a request.

        Raises:
            UsageError: there is no feature network of that name.
            SatcascadeError: its weights cannot be had.
        """
        weights = request.inception_weights
        return cls(dataset, [load_features(name, weights) for name in request.features])

    def __call__(
        self, split: str, network: FeatureNetwork, stage: Callable[[str, int | None], Any]
    ) -> Tensor:
        """Features (N, D) of the real images of a split."""
        key = (split, network.name)
        if key not in self.features:
            count = len(RealImages.of(self.dataset, split))
            with stage(f"{network.name}, {split}", count) as advance:
                self.features[key] = real_features(self.dataset, split, network, advance)
        return self.features[key]


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
        UsageError: the split is missing, there are too few images for a statistic, or ``out`` holds
            something else.
        SatcascadeError: the bundle or the set is damaged, or a feature network cannot be had.
    """
    out = Path(request.out)
    if out.exists() and not (out / METRICS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something else than a report: choose another folder")
    dataset = real.dataset if real else _dataset(request, progress)
    with warnings.catch_warnings(record=True) as caught, _bars(progress) as stage:
        warnings.simplefilter("always")
        measured = _Evaluation(request, dataset, stage, real)
        metrics = measured.metrics()
    notes = measured.notes + [
        str(warning.message)
        for warning in caught
        if type(warning.message).__module__.startswith("satcascade")
    ]
    details = measured.details(notes)
    with folder_written_whole(out) as aside:
        measured.write_pictures(aside)
        (aside / METRICS).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        (aside / DETAILS).write_text(details.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for note in notes:
        warnings.warn(EvaluationWarning(note), stacklevel=2)
    return metrics


class EvaluationWarning(UserWarning):
    """Something that a reader of the numbers should know."""


@dataclass
class _Evaluation:
    """The parts of an evaluation, each computed when it is first asked for."""

    request: EvaluationRequest
    dataset: PreparedDataset
    stage: Callable[[str, int | None], Any]
    given: RealSide | None = None
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    scene: SceneAccuracy | None = None
    clip: ClipScore | None = None
    copies: Memorisation | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.stage("checking images", None) as advance:
            self.bundle = Bundle.open(self.request.bundle, advance)
        self.real = RealImages.of(self.dataset, self.request.split)
        self.labels = self.bundle.labels_in(self.dataset, self.request.split)
        # Known before hours of work: whether every network can be had.
        self.real_side = self.given or RealSide.of(self.dataset, self.request)
        self.networks = self.real_side.networks

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What is measured."""
        if self.request.metrics is not None:
            return self.request.metrics
        if None in self.labels or any(record.label is None for record in self.dataset.records):
            self.notes.append(
                "not all captions have a scene class, so scene accuracy and usefulness were left out"
            )
            return tuple(name for name in USUAL if name not in _WITH_CLASSES)
        return USUAL

    def metrics(self) -> dict[str, float | int]:
        """All numbers."""
        found: dict[str, float | int] = {"n_generated": len(self.bundle), "n_real": len(self.real)}
        for network in self.networks if set(self.names) & set(_ON_NETWORKS) else []:
            generated, real = self.generated(network), self.real_of(self.request.split, network)
            for name, measure in (
                ("frechet", frechet_distance),
                ("kernel", kernel_distance),
                ("manifold", manifold_scores),
            ):
                if name in self.names:
                    with self.timed(f"{name}/{network.name}"):
                        found |= measure(generated, real, network.name).metrics()
        if "scene" in self.names:
            with self.timed("scene"):
                self.scene = scene_accuracy(*self.labelled, self.classes)
            found |= self.scene.metrics()
        if "usefulness" in self.names:
            with self.timed("usefulness"), self.stage("usefulness", fits()) as advance:
                found |= usefulness(*self.labelled, self.classes, progress=advance).metrics()
        if "memorisation" in self.names:
            found |= self.memorisation().metrics()
        if "clip" in self.names:
            found |= self.clip_score().metrics()
        return found

    def generated(self, network: FeatureNetwork) -> Tensor:
        """Features of the generated images."""
        if network.name not in self.features:
            with (
                self.timed(f"features/{network.name}"),
                self.stage(f"{network.name}, generated", len(self.bundle)) as advance,
            ):
                self.features[network.name] = network(self.bundle.images, advance)
        return self.features[network.name]

    def real_of(self, split: str, network: FeatureNetwork) -> Tensor:
        """Features of the real images of a split."""
        return self.real_side(split, network, self.stage)

    @cached_property
    def train(self) -> RealImages:
        """The real training images; a set may have none, where nothing asks for them."""
        return RealImages.of(self.dataset, "train")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the scene classes."""
        return class_names([record.label for record in self.dataset.records])

    @cached_property
    def labelled(self) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
        """Real training, real test and generated features on the first network, with their classes."""
        network = self.networks[0]

        def real(split: str) -> LabelledFeatures:
            labels = [self.dataset.records[row].label for row in self.dataset.indices(split)]
            return LabelledFeatures(self.real_of(split, network), label_numbers(labels, self.classes))

        generated = label_numbers(self.labels, self.classes)
        return (
            real("train"),
            real(self.request.split),
            LabelledFeatures(self.generated(network), generated),
        )

    def memorisation(self) -> Memorisation:
        """Generated images against training images."""
        network = self.networks[0]
        features = (
            self.generated(network),
            self.real_of(self.request.split, network),
            self.real_of("train", network),
        )
        count = len(self.bundle) + len(self.real) + len(self.train)
        with self.timed("memorisation"), self.stage("memorisation", count) as advance:
            self.copies = memorisation(self.bundle.images, self.real, self.train, features, network, advance)
        return self.copies

    def clip_score(self) -> ClipScore:
        """Images against their captions."""
        model = load_clip(self.request.clip)
        images = self.generated(model.images)
        with self.timed("clip"), self.stage("captions", len(self.bundle)) as advance:
            texts = model.texts(self.bundle.captions, advance)
        self.clip = clip_score(images, texts, self.labels)
        return self.clip

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the seconds of a part."""
        start = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - start, 2)

    def details(self, notes: list[str]) -> Details:
        """What belongs to the numbers."""
        # Where it lay on somebody's disk is nobody's business.
        source = Path(str(self.dataset.manifest["source"])).name
        seed = {"seed": self.bundle.run["seed"]} if "seed" in self.bundle.run else {}
        model = self.bundle.manifest[0].get("model")
        return Details(
            name=str(model or self.bundle.path.name),
            bundle=self.bundle.path.name,
            data={"source": source, "split": self.request.split, "hash": self.dataset.hash},
            settings=self.bundle.settings | seed,
            versions={name: version(name) for name in _PACKAGES},
            timings=self.timings,
            classes=list(self.scene.classes) if self.scene else [],
            per_class=self._per_class(),
            confusion=self.scene.confusion.tolist() if self.scene else [],
            images=[self._image(number) for number in range(len(self.bundle))],
            notes=notes,
        )

    def _per_class(self) -> dict[str, ClassResult]:
        found = {}
        if self.scene is not None:
            found = {
                row.name: ClassResult(n=row.n_generated, accuracy=row.accuracy) for row in self.scene.table()
            }
        for name, score in (self.clip.by_class if self.clip else {}).items():
            before = found.get(name, ClassResult(n=score.n))
            found[name] = before.model_copy(update={"clip_score": score.score})
        return found

    def _image(self, number: int) -> GeneratedImage:
        nearest = None
        if self.copies is not None:
            near = self.copies.generated
            row = self.train.rows[int(near.row[number])]
            nearest = Nearest(
                row=self.dataset.records[row].filename,
                hash_distance=int(near.hash_distance[number]),
                similarity=float(near.similarity[number]),
            )
        return GeneratedImage(
            file=self.bundle.images.paths[number].name,
            caption=self.bundle.captions[number],
            label=self.labels[number],
            predicted=None if self.scene is None else self.scene.classes[int(self.scene.answers[number])],
            confidence=None if self.scene is None else float(self.scene.confidence[number]),
            clip_score=None if self.clip is None else float(self.clip.scores[number]),
            nearest=nearest,
        )

    def write_pictures(self, folder: Path) -> None:
        """Thumbnails, and the sheet of what is most like a training image."""
        for number, path in enumerate(self.bundle.images.paths):
            thumbnail = thumbnail_path(folder, path.name)
            thumbnail.parent.mkdir(parents=True, exist_ok=True)
            small = self.bundle.images[number].resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
            small.save(thumbnail, quality=85)
        if self.copies is not None:
            sheet = contact_sheet(self.copies.generated, self.bundle.images, self.train)
            sheet.save(folder / MEMORISATION)


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


@contextmanager
def _bars(shown: bool) -> Iterator[Callable[[str, int | None], Any]]:
    """A progress bar a stage on the error stream."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bars:

        @contextmanager
        def stage(name: str, total: int | None) -> Iterator[Advance]:
            task = bars.add_task(name, total=total)
            yield lambda done: bars.advance(task, done)
            bars.stop_task(task)

        yield stage
