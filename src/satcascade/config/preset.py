"""Presets: what a cascade is and how it is trained, as checked YAML.

Every key is known to a pydantic model; an unknown one is refused by name. ``--set section.key=value``
overrides single values, which are read as YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    model_validator,
)

from satcascade.config.section import Section
from satcascade.config.settings_file import load_settings, settings_names
from satcascade.config.stage_settings import StageName as StageName
from satcascade.config.training import Training
from satcascade.errors import UsageError
from satcascade.models.compact_config import CompactModel
from satcascade.models.rsdiff_config import RSDiffModel


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


class Stage(Section):
    """One network of the cascade and its training.

    Attributes:
        model: the network.
        training: how it is trained.
    """

    model: Model
    training: Training


class NoiseSchedule(Section):
    """Discrete noise schedule given to diffusers schedulers: the shifted cosine, in log-SNR.

    Attributes:
        shift: what is added to the log-SNR of the cosine schedule; below 0 is more noise.
        low: log-SNR of the noisiest step.
        high: log-SNR of the cleanest step.
    """

    shift: float = 0.0
    low: float = -12.0
    high: float = 12.0


class StageSampling(Section):
    """Defaults of the pipeline for one stage, see :class:`satcascade.config.stage_settings.StageSettings`.

    Attributes:
        scheduler: short name of a sampler (:data:`satcascade.diffusion.solvers.SOLVERS`).
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        schedule: of noise levels.
    """

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

    Attributes:
        base: how the base stage samples.
        sr: how super-resolution samples; only with that stage.
        low_res_log_snr: noise added to the base image before super-resolution, in log-SNR; only with ``sr``.
        projected_guidance: drop the part of the guidance that is parallel to the conditional prediction
            (Sadat et al. 2024).
        guidance_rescale: how far guided predictions are brought back to the deviation of conditional ones,
            0 to 1 (Lin et al. 2023).
        guidance_interval: lowest and highest log-SNR at which guidance is applied (Kynkaanniemi et al. 2024);
            None is everywhere.
        clip_x0: clamp the estimate of the clean image to [-1, 1] at every step; ``dynamic`` is dynamic
            thresholding (Saharia et al. 2022); false leaves it as it is.
    """

    base: StageSampling
    sr: StageSampling | None = None
    low_res_log_snr: float | None = None
    projected_guidance: bool = False
    guidance_rescale: float = Field(0.0, ge=0.0, le=1.0)
    guidance_interval: tuple[float, float] | None = None
    clip_x0: bool | Literal["dynamic"] = True


class Preset(Section):
    """A whole cascade.

    Attributes:
        name: of the preset.
        text_encoder: whose embeddings its networks take: ``minilm``, ``t5-base``, another T5, or a folder;
            the prepared set must have been made with it.
        codec: what the base stage diffuses: ``pixels``, ``builtin`` (latents of the autoencoder in the
            package), or the folder of an autoencoder (``vae``).
        base: the stage that turns captions into images, with ``model`` and ``training``.
        sr: the stage that enlarges these, likewise; None in a cascade of one stage.
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
    return settings_names(resources.files("satcascade.presets"))


def load_preset(name: str, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset by name, or from a YAML file, and apply overrides.

    Args:
        name: one of :func:`preset_names`, or a path that ends in ``.yaml``.
        overrides: ``section.key=value``, for example ``base.training.batch_size=16``.

    Raises:
        UsageError: unknown preset, unknown key, or a value of the wrong kind or range.
    """
    return load_settings(Preset, "preset", name, overrides, resources.files("satcascade.presets"))
