"""How a stage is trained, in sections.

What a resumed run may change follows from the section: ``schedule``, ``hardware``, ``logging`` and
``validation`` leave the steps already done as they are (:data:`FREE_SECTIONS`); all else makes another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from satcascade.config.section import Section

Weighting = Literal["edm", "min_snr", "sigmoid", "v", "uniform"]

FREE_SECTIONS = ("schedule", "hardware", "logging", "validation")

# The keys of presets and runs from before there were sections.
_BEFORE_SECTIONS = {
    "steps": "schedule.steps",
    "decay_steps": "schedule.decay_steps",
    "optimizer": "optimizer.name",
    "learning_rate": "optimizer.learning_rate",
    "betas": "optimizer.betas",
    "weight_decay": "optimizer.weight_decay",
    "warmup_steps": "optimizer.warmup_steps",
    "gradient_clip": "optimizer.gradient_clip",
    "noise_levels": "noise.levels",
    "log_snr_mean": "noise.log_snr_mean",
    "log_snr_std": "noise.log_snr_std",
    "weighting": "noise.weighting",
    "low_res_noise": "noise.low_res_noise",
    "low_res_reduce": "augmentation.low_res_reduce",
    "caption_dropout": "augmentation.caption_dropout",
    "all_captions": "augmentation.all_captions",
    "symmetries": "augmentation.symmetries",
    "colour_jitter": "augmentation.colour_jitter",
    "image_size": "augmentation.image_size",
    "crop": "augmentation.crop",
    "ema_half_life": "averages.half_life",
    "ema_lengths": "averages.lengths",
    "ema_snapshot_every": "logging.snapshot_every",
    "accumulate": "hardware.accumulate",
    "compile": "hardware.compile",
    "activation_checkpointing": "hardware.activation_checkpointing",
    "fsdp": "hardware.fsdp",
    "resident": "hardware.resident",
    "latents": "hardware.latents",
    "log_every": "logging.log_every",
    "checkpoint_every": "logging.checkpoint_every",
    "sample_every": "logging.sample_every",
    "keep_checkpoints": "logging.keep_checkpoints",
    "checkpoint_minutes": "logging.checkpoint_minutes",
    "milestone_epochs": "logging.milestone_epochs",
    "validate_every": "validation.every",
    "validation_images": "validation.images",
    "validate_samples": "validation.samples",
    "patience": "validation.patience",
}


class Schedule(Section):
    """How long a run is.

    Attributes:
        steps: optimiser steps in all.
        decay_steps: the last steps, over which the learning rate is taken linearly to zero. A run can be
            lengthened as long as its decay has not begun.
    """

    steps: PositiveInt
    decay_steps: int = Field(default=0, ge=0)


class Optimizer(Section):
    """How weights are updated.

    Attributes:
        name: ``adamw``, or ``muon`` (Muon for the inner matrices, AdamW for the rest).
        learning_rate: peak; reached after ``warmup_steps`` and kept until the decay.
        betas: of AdamW.
        weight_decay: of matrices and kernels.
        warmup_steps: steps in which the learning rate rises linearly to its peak.
        gradient_clip: largest norm of the gradient.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    gradient_clip: PositiveFloat = 1.0


class LowResNoise(Section):
    """Noise augmentation of the low-resolution input (Ho et al. 2021, "Cascaded diffusion models").

    Training draws a level uniformly between ``low`` and ``high``.

    Attributes:
        low: lower end of the range.
        high: upper end of the range.
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


class Noise(Section):
    """Noise levels of training, and what they count.

    Attributes:
        levels: distribution of the noise level of training images: ``normal`` in log-SNR, or ``cosine``,
            that of the cosine schedule at uniform times.
        log_snr_mean: mean of the normal distribution.
        log_snr_std: its standard deviation.
        weighting: loss weight over noise levels, see :func:`satcascade.diffusion.weighting.loss_weight`.
        low_res_noise: noise on the low-resolution input; only for super-resolution.
    """

    levels: Literal["normal", "cosine"] = "normal"
    log_snr_mean: float = 0.0
    log_snr_std: PositiveFloat = 2.0
    weighting: Weighting = "edm"
    low_res_noise: LowResNoise | None = None


class Augmentation(Section):
    """What images and captions a step sees.

    Attributes:
        caption_dropout: share of captions replaced by the null caption (classifier-free guidance).
        all_captions: draw one of an image's captions; otherwise its first.
        symmetries: draw one of the eight flips and rotations; ``flip`` mirrors an image half of the time
            instead, false does nothing.
        colour_jitter: strength J of random changes of colour, the same over an image: brightness by up to J/2
            of the range of values, contrast and saturation by factors between 1 - J and 1 + J; 0 is none.
        image_size: side that images are averaged down to; null is what the model's ``sample_size`` says. A
            network learns the layout of scenes on small images at a fraction of the cost; another run starts
            from its weights on full ones (``--init-from``).
        crop: side of a random crop, in pixels of those images; null trains on whole images.
        low_res_reduce: how images are halved for super-resolution's input: by the ``average`` of four
            pixels, or the ``nearest`` one.
    """

    caption_dropout: float = Field(default=0.1, ge=0.0, le=1.0)
    all_captions: bool = True
    symmetries: bool | Literal["flip"] = True
    colour_jitter: float = Field(default=0.0, ge=0.0, lt=1.0)
    image_size: PositiveInt | None = None
    crop: PositiveInt | None = None
    low_res_reduce: Literal["average", "nearest"] = "average"


class Averages(Section):
    """Averages of the weights.

    Attributes:
        half_life: half-life of the averaged weights, in images seen; at most a fifth of the images seen so
            far.
        lengths: relative lengths of further averages, of whose snapshots that of any length can be made
            after training (:mod:`satcascade.training.post_hoc_averages`), such as 0.05 and 0.1; each takes
            the memory of the parameters.
    """

    half_life: PositiveInt = 10_000
    lengths: tuple[Annotated[float, Field(ge=0.01, le=0.28)], ...] = ()


class Hardware(Section):
    """How the same steps are computed.

    Attributes:
        accumulate: parts that each process takes its images of a step in, one after the other: less memory,
            the same gradient.
        compile: compile the loss (``torch.compile``): faster steps after a minute or more of compiling.
        activation_checkpointing: compute activations again in the backward pass: less memory, slower.
        fsdp: with several processes, let each keep only its part of weights, averages, gradients and
            optimiser state (fully sharded data parallel), for networks that fill a GPU; needs ``adamw``.
        resident: keep the data on the GPU; null does where they take at most a quarter of its free memory.
        latents: of stages that diffuse latents: take those that ``satcascade encode`` has stored, or compute
            them on the device from images, augmented in pixels.
    """

    accumulate: PositiveInt = 1
    compile: bool = False
    activation_checkpointing: bool = False
    fsdp: bool = False
    resident: bool | None = None
    latents: Literal["stored", "computed"] = "stored"


class Logging(Section):
    """What a run writes, and when.

    Attributes:
        log_every: steps between lines of progress.
        checkpoint_every: steps between checkpoints; 0 is only at the end.
        sample_every: steps between grids of pictures, of which there is one at the end too; 0 is never.
        keep_checkpoints: how many of the last checkpoints are kept.
        checkpoint_minutes: also a checkpoint that many minutes after the last; null is only every
            ``checkpoint_every``.
        milestone_epochs: keep the averaged weights for ever each time that so many epochs are done; 0 does
            not, and it may be a fraction.
        snapshot_every: steps between the snapshots of ``averages.lengths``, of which there is one at the end
            too.
    """

    log_every: PositiveInt = 20
    checkpoint_every: int = Field(default=500, ge=0)
    sample_every: int = Field(default=1000, ge=0)
    keep_checkpoints: PositiveInt = 2
    checkpoint_minutes: PositiveFloat | None = None
    milestone_epochs: float = Field(default=0.0, ge=0.0)
    snapshot_every: PositiveInt = 1000


class ValidationSettings(Section):
    """What is measured while a stage trains, on the split ``val``.

    Attributes:
        every: steps between validations of the averaged weights, of which there is one at the end too; 0 is
            never.
        images: how many the validation loss is measured on, at fixed noise.
        samples: how many pictures are made at each validation, for their Frechet distance and scene
            accuracy; 0 is none.
        patience: validations without a better one after which a run ends; 0 is never.
    """

    every: int = Field(default=0, ge=0)
    images: PositiveInt = 256
    samples: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_every(self) -> ValidationSettings:
        for key in ("samples", "patience"):
            if getattr(self, key) and not self.every:
                raise ValueError(f"{key} needs validations: set validation.every too")
        return self


class Training(Section):
    """How one stage is trained.

    Attributes:
        batch_size: images a step, over all processes.
        seed: of everything random: data order, augmentation, noise, dropout, initial weights.
        precision: ``auto`` is bfloat16 where the hardware computes in it natively.
        schedule: how long the run is.
        optimizer: how weights are updated.
        noise: noise levels.
        augmentation: what images and captions a step sees.
        averages: averages of the weights.
        hardware: how the same steps are computed.
        logging: what the run writes.
        validation: what is measured as it trains.
    """

    batch_size: PositiveInt
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    schedule: Schedule
    optimizer: Optimizer
    noise: Noise = Noise()
    augmentation: Augmentation = Augmentation()
    averages: Averages = Averages()
    hardware: Hardware = Hardware()
    logging: Logging = Logging()
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_old(cls, content: Any) -> Any:
        """Take the keys of presets and runs from before there were sections."""
        if not isinstance(content, Mapping):
            return content
        read: dict[str, Any] = {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in content.items()
            if key not in _BEFORE_SECTIONS
            or (isinstance(value, Mapping | Section) and key != "low_res_noise")
        }
        for key, place in _BEFORE_SECTIONS.items():
            if key in content and key not in read:
                section, _, name = place.partition(".")
                read.setdefault(section, {})[name] = content[key]
        return read

    @model_validator(mode="after")
    def _check_fsdp(self) -> Training:
        if self.hardware.fsdp and self.optimizer.name == "muon":
            raise ValueError("muon works on whole matrices, which fsdp cuts up: set optimizer.name=adamw")
        return self

    def replace(self, changes: Mapping[str, Any]) -> Training:
        """The same settings with other values.

        Args:
            changes: by key, such as ``batch_size`` or ``augmentation.crop``.

        Raises:
            pydantic.ValidationError: a value of the wrong kind or range, or an unknown key.
        """
        content = self.model_dump()
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            (content[section] if section else content)[name] = value
        return Training.model_validate(content)
