"""Validation while a stage trains: loss at fixed noise, quality of pictures, and which checkpoint is best.

All of it is measured with the averaged weights, on the split ``val``, by all processes together, and draws
nothing from the random state of training. ``RUN/validation.jsonl`` has a line a validation: ``step``,
``loss``, ``images`` (how many the loss is of) and, where pictures are made, ``samples`` (how many),
``frechet_distance`` and, where the set has scene classes, ``scene_accuracy``.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from satcascade.config.preset import Preset, Stage, StageName
from satcascade.data.latents import StoredLatents
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.errors import UsageError
from satcascade.evaluation.measures.distances import Statistics, frechet
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe, class_names, label_numbers
from satcascade.evaluation.measures.registry import COLUMNS, FRECHET_IMAGES
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.formats.training_run import VALIDATION
from satcascade.hardware.precision import autocast
from satcascade.io.files import full_disk_refused
from satcascade.models.codec import PIXELS, Codec
from satcascade.models.denoiser import Denoiser
from satcascade.seeds import derived_seed
from satcascade.training.batches import BatchSource
from satcascade.training.device_data import DeviceData
from satcascade.training.history import read_rows, truncate
from satcascade.training.loss import DenoisingLoss
from satcascade.training.processes import shared_out
from satcascade.training.samples import draw, spread

SPLIT = "val"
# Draws are made for so many images together, whatever a run's batch size.
_AT_ONCE = 16
# The most steps of a preset's own sampler; where it needs more, another one does.
_FAST_STEPS = 50
_FAST = {"scheduler": "dpm++", "steps": 20}


class Validation:
    """The validations of a run, and what follows from them; the same after a resume.

    Args:
        settings: the preset, overrides applied.
        stage: which stage is trained.
        dataset: prepared images and captions.
        out: the run's folder.
        accelerator: knows the processes that measure together; None is this one alone.
        codec: what the stage diffuses.

    Attributes:
        rows: those done so far, in order.

    Raises:
        UsageError: the set has no validation split, or too few images in it.
        SatcascadeError: pictures are asked for, and the extra ``eval`` is not installed.
    """

    def __init__(
        self,
        settings: Preset,
        stage: StageName,
        dataset: PreparedDataset,
        out: Path,
        accelerator: Accelerator | None = None,
        codec: Codec = PIXELS,
    ):
        self._training = settings.stage(stage).training
        if SPLIT not in dataset.splits:
            raise UsageError(
                f"no split '{SPLIT}' in {dataset.path} to validate on: prepare the set with one, or set "
                "training.validation.every=0"
            )
        self._loss = FixedLoss(settings.stage(stage), dataset, accelerator, codec)
        samples = self._training.validation.samples
        self._quality = (
            SampleQuality(settings, stage, dataset, samples, accelerator, codec) if samples else None
        )
        self._path = out / VALIDATION
        self._counts = {"images": self._loss.images} | ({"samples": samples} if samples else {})
        self.rows: list[dict[str, Any]] = []
        self._step = 0

    @property
    def measure(self) -> str:
        """What says which validation is best: the least of it."""
        return "loss" if self._quality is None else "frechet_distance"

    @property
    def best(self) -> dict[str, Any] | None:
        """The best row, the first of equals; None where there is none yet.

        Rows of other numbers of images, from before a change of the settings, do not compare.
        """
        return min(self._comparable(), key=self._value, default=None)

    @property
    def stalled(self) -> bool:
        """Whether patience is at its end."""
        best = self.best
        if best is None or not self._training.validation.patience:
            return False
        return (
            sum(row["step"] > best["step"] for row in self._comparable())
            >= self._training.validation.patience
        )

    def due(self, step: int) -> bool:
        """Whether a step is followed by a validation."""
        return step % self._training.validation.every == 0 or step >= self._training.schedule.steps

    def resume(self, step: int) -> None:
        """Go on from a step: later validations are forgotten."""
        self.rows = read_rows(self._path, step)
        self._step = step

    def open(self) -> None:
        """Make ready what writing and measuring needs; in the main process only.

        Raises:
            SatcascadeError: the disk is full.
        """
        truncate(self._path, self._step)
        if self._quality is not None:
            self._quality.open()

    def __call__(self, model: Denoiser, dtype: torch.dtype, step: int) -> dict[str, Any]:
        """A row of measurements of a network as it is now, computing in ``dtype``.

        That of the main process counts: in the others the quality of pictures is missing.
        """
        row = {"step": step, "loss": self._loss(model, dtype)} | self._counts
        return row if self._quality is None else row | self._quality(model, dtype)

    def add(self, row: dict[str, Any], write: bool = True) -> None:
        """Remember a row; ``write`` in only one of several processes.

        Raises:
            SatcascadeError: the disk is full.
        """
        self.rows.append(row)
        if write:
            with full_disk_refused(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                # A checkpoint of this step must never be on the disk without this row.
                file.flush()
                os.fsync(file.fileno())

    def scalars(self) -> dict[str, float]:
        """The measurements of the last validation, by their names in TensorBoard."""
        row = self.rows[-1]
        return {f"validation/{name}": row[name] for name in _measures(row)}

    def message(self) -> str:
        """The last validation in a line."""
        row, best = self.rows[-1], self.best
        text = ", ".join(f"{_words(name)} {row[name]:.4g}" for name in _measures(row))
        return f"step {row['step']}: validation {text}, " + (
            "the best so far" if row is best else self._best_message()
        )

    def stalled_message(self) -> str:
        """Why the run ends before its last step, in a line."""
        return (
            f"stopped at step {self.rows[-1]['step']}: no better {_words(self.measure)} in "
            f"{self._training.validation.patience} validations, {self._best_message()} "
            "(a larger training.validation.patience resumes)"
        )

    def _best_message(self) -> str:
        best = self.best
        assert best is not None
        return f"the best is {best[self.measure]:.4g} at step {best['step']}"

    def _comparable(self) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows
            if {key: row[key] for key in ("images", "samples") if key in row} == self._counts
        ]

    def _value(self, row: dict[str, Any]) -> float:
        value = float(row[self.measure])
        return value if math.isfinite(value) else math.inf


class FixedLoss:
    """The training loss on validation images without dropout or augmentation, at draws that never change.

    Images, first captions, noise and noise levels are the same for all runs on a set, whatever their seed,
    batch size and device. Levels follow the stage's distribution and losses its weighting: only runs
    that share these compare.

    Args:
        stage: network and training.
        dataset: prepared images and captions.
        accelerator: knows the processes that measure together; None is this one alone.
        codec: what the stage diffuses.

    Attributes:
        images: how many it is the mean of: ``training.validation.images``, or all there are.
    """

    def __init__(
        self,
        stage: Stage,
        dataset: PreparedDataset,
        accelerator: Accelerator | None = None,
        codec: Codec = PIXELS,
    ):
        self._accelerator = accelerator
        training, model = stage.training, stage.model
        # On the CPU, where draws are the same for all devices.
        codec = codec.to("cpu")
        image_size = training.augmentation.image_size or model.sample_size * codec.factor
        latents = None
        if codec.factor > 1 and training.hardware.latents == "stored":
            latents = StoredLatents.open(dataset, codec, image_size, (0,))
        data = DeviceData(dataset, SPLIT, torch.device("cpu"), resident=False, latents=latents)
        self.images = min(training.validation.images, len(data.rows))
        self._weighting = training.noise.weighting
        self._size = min(_AT_ONCE, self.images)
        fixed = {
            "seed": 0,
            "batch_size": self._size,
            "hardware.accumulate": 1,
            "hardware.compile": False,
            "augmentation.crop": None,
            "augmentation.symmetries": False,
            "augmentation.colour_jitter": 0.0,
            "augmentation.all_captions": False,
            "augmentation.caption_dropout": 0.0,
        }
        self._source = BatchSource(
            data,
            training.replace(fixed),
            image_size,
            model.low_res_resize if model.low_res else None,
            codec=codec,
        )

    @torch.no_grad()
    def __call__(self, model: Denoiser, dtype: torch.dtype) -> float:
        """The loss with the weights that ``model`` has now, computing in ``dtype``."""
        was_training = model.training
        device = next(model.parameters()).device
        loss = DenoisingLoss(model, self._weighting).eval()

        def losses(step: int) -> torch.Tensor:
            values: torch.Tensor = loss(self._source(step).to(device))
            return values.double().cpu()

        with autocast(dtype, device):
            batches = shared_out(-(-self.images // self._size), losses, self._accelerator)
        model.train(was_training)
        return float(torch.cat(batches)[: self.images].mean())


class SampleQuality:
    """Frechet distance and scene accuracy of pictures that the network draws for validation captions.

    The base stage draws at its own size, super-resolution from the captions' real images reduced to half.
    Captions and seeds are the same every time; the sampler is the preset's where it takes at most 50 steps,
    otherwise DPM-Solver++ with 20. Features are those of EfficientNet-Lite0, as they are for the real images
    of the split, which the pictures are compared with.

    Args:
        settings: the preset.
        stage: which stage the network is.
        dataset: prepared images and captions.
        count: how many pictures.
        accelerator: knows the processes that draw together; None is this one alone.
        codec: what the stage diffuses.

    Raises:
        UsageError: too few for a Frechet distance, or more than there are validation images.
        SatcascadeError: the feature network is not installed.
    """

    def __init__(
        self,
        settings: Preset,
        stage: StageName,
        dataset: PreparedDataset,
        count: int,
        accelerator: Accelerator | None = None,
        codec: Codec = PIXELS,
    ):
        rows = dataset.indices(SPLIT)
        if not FRECHET_IMAGES <= count <= len(rows):
            raise UsageError(
                f"training.validation.samples={count} is not possible: give {FRECHET_IMAGES} or more and at "
                f"most the {len(rows)} images of split '{SPLIT}', or 0 for none"
            )
        self._accelerator = accelerator
        self._settings, self._stage, self._dataset = _fast(settings, stage), stage, dataset
        self._codec = codec
        self._size = settings.stage(stage).model.sample_size * codec.factor
        self._network = load_features(device=accelerator.device if accelerator else "cpu")
        self._rows = spread(rows, count)
        labels = [record.label for record in dataset.records]
        known = None not in labels and "train" in dataset.splits
        self._classes = class_names(labels) if known else []
        self._real: Statistics | None = None
        self._probe: LinearProbe | None = None

    def open(self) -> None:
        """Compute what is needed of the real images; their features are kept in the prepared set's folder."""
        self._real = Statistics.of(real_features(self._dataset, SPLIT, self._network))
        if self._classes:
            features = real_features(self._dataset, "train", self._network)
            train = LabelledFeatures(features, self._labels(self._dataset.indices("train")))
            self._probe = LinearProbe(train, len(self._classes))

    def __call__(self, model: Denoiser, dtype: torch.dtype) -> dict[str, float]:
        """Draw with the weights that ``model`` has now, computing in ``dtype``, and measure.

        Nothing is measured where :meth:`open` has not been called.
        """

        def drawn(batch: int) -> torch.Tensor:
            start = batch * _AT_ONCE
            rows = self._rows[start : start + _AT_ONCE]
            text = self._dataset.text([self._dataset.records[row].caption_ids[0] for row in rows])
            real = to_float(torch.from_numpy(self._dataset.images[rows]), self._size)
            seeds = [derived_seed(0, "validation", start + place) for place in range(len(rows))]
            made = draw(self._settings, self._stage, model, dtype, text, real, seeds, self._codec)
            levels = (made * 255).round().byte().permute(0, 2, 3, 1).numpy()
            return self._network([Image.fromarray(image) for image in levels])

        features = torch.cat(shared_out(-(-len(self._rows) // _AT_ONCE), drawn, self._accelerator))
        if self._real is None:
            return {}
        measured = {"frechet_distance": frechet(features, self._real)}
        if self._probe is not None:
            measured["scene_accuracy"] = self._probe.accuracy(
                LabelledFeatures(features, self._labels(self._rows))
            )
        return measured

    def _labels(self, rows: Any) -> torch.Tensor:
        return label_numbers([self._dataset.records[row].label for row in rows], self._classes)


def _measures(row: dict[str, Any]) -> list[str]:
    """What was measured, of the keys of a row."""
    return [name for name in row if name == "loss" or name in COLUMNS]


def _words(measure: str) -> str:
    return measure.replace("_", " ").replace("frechet", "Frechet")


def _fast(settings: Preset, stage: StageName) -> Preset:
    """The preset with a sampler of few steps in a stage."""
    own = getattr(settings.sampling, stage)
    if own.steps <= _FAST_STEPS:
        return settings
    sampling = settings.sampling.model_copy(update={stage: own.model_copy(update=_FAST)})
    return settings.model_copy(update={"sampling": sampling})
