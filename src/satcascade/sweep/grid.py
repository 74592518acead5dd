"""The cells of a sweep: what each one samples with, and how."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.data.prepared import PreparedDataset
from satcascade.diffusion.schedulers import solver_name
from satcascade.errors import UsageError
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sweep.request import SweepRequest
from satcascade.sweep.table import KEY, cell_text
from satcascade.training.assemble import with_trained_stage
from satcascade.training.checkpoints import CheckpointFolder
from satcascade.training.run_folder import named_checkpoint, read_description, trained_stage
from satcascade.zoo import check_model_name, load_pipeline


@dataclass(frozen=True)
class Source:
    """What a cell samples with: a model, or a step of a training run inside one."""

    label: str
    model: str
    run: Path | None = None
    step: int | None = None
    length: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell: what to sample with and how, the texts of its columns, and its folder's name."""

    source: Source
    stages: Mapping[StageName, StageSettings]
    columns: dict[str, str]
    folder: str

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other cells."""
        return tuple(self.columns[column] for column in KEY)


class Grid:
    """The grid of a request, and the pipelines that it samples with.

    Attributes:
        sources: what is sampled with.
        hashes: the first digits of the weights' hash of each model and source that was loaded, by label.

    Raises:
        UsageError: there is no such model, run or checkpoint.
    """

    def __init__(self, request: SweepRequest, dataset: PreparedDataset):
        self._request, self._dataset = request, dataset
        self.sources = [
            source for text in request.checkpoints or (request.model,) for source in self._sources(text)
        ]
        self.hashes: dict[str, str] = {}
        self._loaded: dict[str, CascadePipeline] = {}

    def _sources(self, text: str) -> list[Source]:
        """The checkpoints that a name stands for."""
        model = self._request.model
        if "@" not in text and not (Path(text) / "checkpoints").is_dir():
            return [Source(text, check_model_name(text))]
        named = named_checkpoint(text)
        path, length = named.run, named.length
        chosen = list(CheckpointFolder(path).averages()) if named.step is None else [named.step]
        if not chosen:
            raise UsageError(f"{path} has no checkpoint yet")
        suffix = "" if length is None else f":{length:g}"
        return [
            Source(f"{path}@{number}{suffix}", check_model_name(model), path, number, length)
            for number in chosen
        ]

    def cells(self) -> list[Cell]:
        """The grid, without repeats; loads every checkpoint once."""
        request = self._request
        if request.steps:
            pairs: list[tuple[int | None, int | None]] = [(steps, steps) for steps in request.steps]
        else:
            pairs = list(itertools.product(request.base_steps or (None,), request.sr_steps or (None,)))
        cells: dict[tuple[str, ...], Cell] = {}
        for source in self.sources:
            pipeline = self.pipeline(source)
            if pipeline.sr_unet is None and (request.sr_steps or request.sr_guidance):
                raise UsageError(f"{source.label} has no super-resolution to vary: leave its settings out")
            for scheduler, guidance, sr_guidance, (base_steps, sr_steps) in itertools.product(
                request.scheduler or (None,),
                request.guidance or (None,),
                request.sr_guidance or (None,),
                pairs,
            ):
                cell = self._cell(
                    source,
                    pipeline,
                    {
                        "base": StageSettings(base_steps, guidance, scheduler),
                        "sr": StageSettings(sr_steps, sr_guidance, scheduler),
                    },
                )
                cells.setdefault(cell.key, cell)
        return list(cells.values())

    def _cell(
        self, source: Source, pipeline: CascadePipeline, stages: Mapping[StageName, StageSettings]
    ) -> Cell:
        size = pipeline.prepare(stages)[-1].image_size
        base = pipeline.sampler("base", stages["base"])
        sr = None if pipeline.sr_unet is None else pipeline.sampler("sr", stages["sr"])
        columns = {
            "checkpoint": source.label,
            "step": "" if source.step is None else str(source.step),
            "epoch": self._epoch(source),
            "scheduler": solver_name(base.scheduler),
            "sr_scheduler": "" if sr is None else solver_name(sr.scheduler),
            "cond_scale": cell_text(base.guidance.scale),
            "sr_cond_scale": "" if sr is None else cell_text(sr.guidance.scale),
            "base_steps": str(base.steps),
            "sr_steps": "" if sr is None else str(sr.steps),
            "size": str(size),
            "n_gen": str(self._request.n),
        }

        def both(one: str, other: str) -> str:
            return "-".join(dict.fromkeys(filter(None, (columns[one], columns[other]))))

        folder = "_".join(
            [
                f"{Path(source.label).name}-{self.hashes[source.label][:6]}",
                both("scheduler", "sr_scheduler"),
                f"guidance-{both('cond_scale', 'sr_cond_scale')}",
                f"steps-{both('base_steps', 'sr_steps')}",
            ]
        )
        return Cell(source, stages, columns, folder)

    def _epoch(self, source: Source) -> str:
        """How often the run had seen its images, where it was trained on those of this set."""
        if source.run is None or source.step is None:
            return ""
        run = read_description(source.run)["identity"]
        if run["data"] != self._dataset.hash:
            return ""
        images = len(self._dataset.indices(run["split"]))
        return cell_text(round(source.step * run["training"]["batch_size"] / images, 2))

    def pipeline(self, source: Source) -> CascadePipeline:
        """The pipeline of a source; the last one is kept, and the model that runs are put into."""
        if source.label not in self._loaded:
            if source.run is None:
                self._loaded = {source.label: self._load(source.model)}
            else:
                model = self._loaded.get(source.model) or self._load(source.model)
                stage = read_description(source.run)["identity"]["stage"]
                trained = trained_stage(source.run, stage, source.step, source.length)
                made = with_trained_stage(model, stage, trained)
                self._loaded = {source.model: model, source.label: made}
                self.hashes[source.model] = model.weights_hash[:12]
            self.hashes[source.label] = self._loaded[source.label].weights_hash[:12]
        return self._loaded[source.label]

    def _load(self, model: str) -> CascadePipeline:
        return load_pipeline(model, device=self._request.device, precision=self._request.precision)
