"""Presets: what a cascade is and how it is trained, as checked YAML.

Every key is known to a pydantic model; an unknown one is refused by name. ``--set section.key=value``
overrides single values, which are read as YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from satcascade.config.stage_settings import StageName as StageName
from satcascade.errors import UsageError
from satcascade.models.compact_config import CompactModel
from satcascade.models.rsdiff_config import RSDiffModel

Weighting = Literal["edm", "min_snr", "sigmoid", "v", "uniform"]


class Section(BaseModel):
    """A part of checked settings: unknown keys are refused, and nothing is changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _architecture(model: Any) -> str:
    if isinstance(model, dict):
        return str(model.get("architecture", "compact"))
    return str(getattr(model, "architecture", ""))


Model = Annotated[
    Annotated[CompactModel, Tag("compact")] | Annotated[RSDiffModel, Tag("rsdiff")],
    Discriminator(
        _architecture,
        custom_error_type="architecture",
        custom_error_message="unknown architecture: choose compact or rsdiff",
    ),
]


class LowResNoise(Section):
    """Noise augmentation of the low-resolution input (Ho et al. 2021, "Cascaded diffusion models").

    Training draws a level uniformly between ``low`` and ``high``.

    Attributes:
        low, high: ends of the range.
        scale: what the range is in: ``log_snr``, or ``time``, that of the linear schedule
            (:func:`satcascade.diffusion.process.linear_log_snr`), in [0, 1].
        shared: one level for the whole batch, not one an image.
    """

    low: float
    high: float
    scale: Literal["log_snr", "time"] = "log_snr"
    shared: bool = False

    @model_validator(mode="after")
    def _check_range(self) -> LowResNoise:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        if self.scale == "time" and not 0 <= self.low <= self.high <= 1:
            raise ValueError("low and high are times: give numbers in [0, 1]")
        return self


class Training(Section):
    """How one stage is trained.

    Attributes:
        steps: optimiser steps in all.
        batch_size: images a step, over all processes.
        accumulate: parts that each process takes its images of a step in, one after the other: less memory,
            the same gradient.
        optimizer: ``adamw``, or ``muon`` (Muon for the inner matrices, AdamW for the rest).
        learning_rate: peak; reached after ``warmup_steps``, held, and taken linearly to zero over the last
            ``decay_steps``. A run can be lengthened as long as its decay has not begun.
        ema_half_life: of the averaged weights, in images seen; at most a fifth of the images seen so far.
        ema_lengths: relative lengths of further averages, of whose snapshots that of any length can be made
            after training (:mod:`satcascade.training.post_hoc_averages`), such as 0.05 and 0.1; each takes
            the memory of the parameters.
        ema_snapshot_every: steps between the snapshots of those, of which there is one at the end too.
        caption_dropout: share of captions replaced by the null caption (classifier-free guidance).
        all_captions: draw one of an image's captions; otherwise its first.
        symmetries: draw one of the eight flips and rotations; ``flip`` mirrors an image half of the time
            instead.
        colour_jitter: strength J of random changes of colour, the same over an image: brightness by up to J/2
            of the range of values, contrast and saturation by factors between 1 - J and 1 + J; 0 is none.
        noise_levels: distribution of the noise level of training images: ``normal`` in log-SNR, or
            ``cosine``, that of the cosine schedule at uniform times.
        log_snr_mean, log_snr_std: of the normal distribution.
        weighting: loss weight over noise levels, see :func:`satcascade.diffusion.weighting.loss_weight`.
        image_size: side that images are averaged down to; null is the model's ``sample_size``. A network
            learns the layout of scenes on small images at a fraction of the cost, and goes on from there on
            full ones (``--init-from``).
        crop: side of a random crop, in pixels of those images; null trains on whole images.
        low_res_noise: only for super-resolution.
        low_res_reduce: how images are halved for super-resolution's input: by the ``average`` of four
            pixels, or the ``nearest`` one.
        precision: ``auto`` is bfloat16 where the hardware computes in it natively.
        seed: of everything random: data order, augmentation, noise, dropout, initial weights.
        log_every, checkpoint_every, sample_every: in steps; the latter two may be 0, for only at the end
            and never.
        keep_checkpoints: how many of the last ones are kept.
        checkpoint_minutes: also one that long after the last; null is only every ``checkpoint_every``.
        compile: compile the loss (``torch.compile``): faster steps after a minute or more of compiling.
        fsdp: with several processes, let each keep only its part of weights, averages, gradients and
            optimiser state (fully sharded data parallel), for networks that fill a GPU; needs ``adamw``.
        resident: keep the data on the GPU; null does where they take at most a quarter of its free memory.
        latents: of stages that diffuse latents: take those that ``satcascade encode`` has stored, or compute
            them on the device from images, augmented in pixels.
        validate_every: steps between validations of the averaged weights on the split ``val``, of which there
            is one at the end too; 0 is never.
        validation_images: how many of them the validation loss is measured on, at fixed noise.
        validate_samples: how many pictures are made at each validation, for their Frechet distance and scene
            accuracy; 0 is none.
        patience: validations without a better one after which a run ends; 0 is never.
        milestone_epochs: keep the averaged weights for ever each time that so many epochs are done; 0 does
            not.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0.0)
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0)
    gradient_clip: PositiveFloat = 1.0
    ema_half_life: PositiveInt = 10_000
    ema_lengths: tuple[Annotated[float, Field(ge=0.01, le=0.28)], ...] = ()
    ema_snapshot_every: PositiveInt = 1000
    caption_dropout: float = Field(0.1, ge=0.0, le=1.0)
    all_captions: bool = True
    symmetries: bool | Literal["flip"] = True
    colour_jitter: float = Field(0.0, ge=0.0, lt=1.0)
    noise_levels: Literal["normal", "cosine"] = "normal"
    log_snr_mean: float = 0.0
    log_snr_std: PositiveFloat = 2.0
    weighting: Weighting = "edm"
    image_size: PositiveInt | None = None
    crop: PositiveInt | None = None
    low_res_noise: LowResNoise | None = None
    low_res_reduce: Literal["average", "nearest"] = "average"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(0, ge=0)
    log_every: PositiveInt = 20
    checkpoint_every: int = Field(500, ge=0)
    sample_every: int = Field(1000, ge=0)
    keep_checkpoints: PositiveInt = 2
    checkpoint_minutes: PositiveFloat | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    fsdp: bool = False
    resident: bool | None = None
    latents: Literal["stored", "computed"] = "stored"
    validate_every: int = Field(0, ge=0)
    validation_images: PositiveInt = 256
    validate_samples: int = Field(0, ge=0)
    patience: int = Field(0, ge=0)
    milestone_epochs: float = Field(0.0, ge=0.0)

    @model_validator(mode="after")
    def _check_validation(self) -> Training:
        for key in ("validate_samples", "patience"):
            if getattr(self, key) and not self.validate_every:
                raise ValueError(f"{key} needs validations: set validate_every too")
        return self

    @model_validator(mode="after")
    def _check_fsdp(self) -> Training:
        if self.fsdp and self.optimizer == "muon":
            raise ValueError("muon works on whole matrices, which fsdp cuts up: set optimizer=adamw")
        return self


class Stage(Section):
    """One network of the cascade and its training."""

    model: Model
    training: Training


class NoiseSchedule(Section):
    """Discrete noise schedule given to diffusers schedulers: the shifted cosine, in log-SNR."""

    shift: float = 0.0
    low: float = -12.0
    high: float = 12.0


class StageSampling(Section):
    """Defaults of the pipeline for one stage, see :class:`satcascade.config.stage_settings.StageSettings`."""

    scheduler: str = "dpm++"
    steps: PositiveInt
    guidance: float = Field(1.0, ge=0.0)
    schedule: NoiseSchedule = NoiseSchedule()

    @model_validator(mode="before")
    @classmethod
    def _read_the_old_name(cls, content: Any) -> Any:
        """Presets and runs of earlier versions call guidance ``guidance_scale``."""
        if isinstance(content, dict) and "guidance_scale" in content:
            content = {**content, "guidance": content["guidance_scale"]}
            del content["guidance_scale"]
        return content


class Sampling(Section):
    """Defaults of the pipeline.

    ``low_res_log_snr`` is the noise added to the base image before super-resolution, ``sr`` how that samples;
    ``guidance_interval`` the range of log-SNR in which guidance is applied (Kynkaanniemi et al. 2024);
    ``clip_x0`` what happens to the estimate of the clean image at every step.
    """

    base: StageSampling
    sr: StageSampling | None = None
    low_res_log_snr: float | None = None
    projected_guidance: bool = False
    guidance_interval: tuple[float, float] | None = None
    clip_x0: bool | Literal["dynamic"] = True


class Preset(Section):
    """A whole cascade.

    Attributes:
        name: of the preset.
        text_encoder: whose embeddings its networks take.
        codec: what the base stage diffuses: ``pixels``, ``builtin`` (latents of the autoencoder in the
            package), or the folder of an autoencoder (``vae``).
        base: the stage that turns captions into images.
        sr: the stage that enlarges these; None in a cascade of one stage.
        sampling: defaults of the pipeline.
    """

    name: str
    text_encoder: str
    codec: str = "pixels"
    base: Stage
    sr: Stage | None = None
    sampling: Sampling

    @model_validator(mode="after")
    def _check_stages(self) -> Preset:
        if self.sr is not None and (self.sampling.sr is None or self.sampling.low_res_log_snr is None):
            raise ValueError("a cascade with sr needs sampling.sr and sampling.low_res_log_snr")
        return self

    @property
    def stage_names(self) -> tuple[StageName, ...]:
        """The stages that there are, in the order in which they run."""
        return ("base",) if self.sr is None else ("base", "sr")

    def stage(self, name: StageName) -> Stage:
        """A stage by its name.

        Raises:
            UsageError: there is no such stage.
        """
        stage: Stage | None = getattr(self, name)
        if stage is None:
            raise UsageError(
                f"preset '{self.name}' has no stage '{name}': it has {', '.join(self.stage_names)}"
            )
        return stage


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(
        Path(entry.name).stem
        for entry in resources.files("satcascade.presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_preset(name: str, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset by name, or from a YAML file, and apply overrides.

    Args:
        name: one of :func:`preset_names`, or a path that ends in ``.yaml``.
        overrides: ``section.key=value``, for example ``base.training.batch_size=16``.

    Raises:
        UsageError: unknown preset, unknown key, or a value of the wrong kind or range.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"no preset file {path}")
        text = path.read_text(encoding="utf-8")
    elif name in preset_names():
        text = (resources.files("satcascade.presets") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise UsageError(
            f"unknown preset '{name}': choose one of {', '.join(preset_names())}, or a .yaml file"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"preset '{name}' is not YAML: {' '.join(str(error).split())}") from error
    for override in overrides:
        apply_override(content, override)
    try:
        return Preset.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"preset '{name}': {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """The first problem of a validation error in one line, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    # Which architecture's keys were tried is no part of the key.
    places = [part for before, part in pairwise(("", *first["loc"])) if before != "model"]
    key = ".".join(str(part) for part in places)
    message = (
        "unknown key" if first["type"] == "extra_forbidden" else first["msg"][0].lower() + first["msg"][1:]
    )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"


def apply_override(content: Any, override: str) -> None:
    """Set ``section.key=value``, the value read as YAML, in what was read from a YAML file.

    Raises:
        UsageError: it is not of that form, or names no section.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override '{override}' is not of the form section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise UsageError(f"override '{key}' names no setting: '{sections[-1]}' is not a section")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"override '{override}' has a value that is not YAML") from error
