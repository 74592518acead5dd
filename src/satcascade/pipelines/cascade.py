"""From captions to images: text -> base image -> super-resolution, as a ``diffusers`` pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from torch import Tensor

# Imported for their names: model_index.json refers to networks and schedulers by module, and diffusers looks
# for that module among those already imported.
import satcascade.models.compact_unet
import satcascade.models.rsdiff_unet
import satcascade.rsdiff_scheduler  # noqa: F401
from satcascade.config.stage_settings import StageName, StageSettings
from satcascade.diffusion.guidance import Guidance
from satcascade.diffusion.schedulers import swap_scheduler
from satcascade.errors import SatcascadeError, UsageError
from satcascade.hardware.precision import autocast, compute_dtype
from satcascade.models.codec import PIXELS, Codec, LatentCodec
from satcascade.models.text import TextEmbeddings
from satcascade.pipelines.callbacks import TENSOR_INPUTS, StepCallback, StepCallbacks
from satcascade.pipelines.edit import ImageEdit, image_edit
from satcascade.pipelines.image_input import ImageInput
from satcascade.pipelines.output import CascadeOutput, OutputType, check_output_type, check_size, to_output
from satcascade.pipelines.scenes import ScenePipeline
from satcascade.sampling.edit import StageEdit, count_calls
from satcascade.sampling.generators import image_generators
from satcascade.sampling.loop import OnStep, check_finite, sample_stage
from satcascade.sampling.stage import LOW_RES_LOG_SNR, Sampler, SamplingStage, prepare_stage


class CascadePipeline(ScenePipeline):
    """Text to image with a diffusion cascade (Saharia et al. 2022, "Imagen"), of pixels or of latents.

    Args:
        unet: the base network (see :class:`satcascade.models.denoiser.Denoiser`).
        scheduler: of the base stage; any variance-preserving scheduler of ``diffusers``.
        sr_unet: the super-resolution network; without it the base images are the result.
        sr_scheduler: of the super-resolution stage; by default one made like ``scheduler``.
        text_encoder: name or folder of the frozen text encoder (``minilm``, ``t5-base``, ...). It is
            loaded when the first caption comes, and never copied into the model's folder.
        text_encoder_fingerprint: ``TextEncoder.fingerprint`` of the encoder the networks were trained
            with; another one is warned of.
        base_steps, sr_steps: default numbers of sampling steps.
        base_guidance, sr_guidance: default classifier-free guidance scales; 1 is none.
        low_res_log_snr: noise level to which the base image is taken before it is given to the
            super-resolution network (noise conditioning augmentation, Ho et al. 2021).
        projected_guidance: drop the part of the guidance parallel to the conditional prediction.
        guidance_rescale: in [0, 1], how far guided predictions are brought back to the deviation of
            conditional ones (Lin et al. 2023).
        guidance_interval: log-SNR range (lowest, highest) in which guidance applies (Kynkaanniemi et al.
            2024); outside of it only the conditional branch is computed. None is everywhere.
        clip_x0: clamp the estimate of the clean image to [-1, 1] at every step, whichever the scheduler;
            ``dynamic`` clamps to its 95th percentile and rescales instead (dynamic thresholding, Saharia et
            al. 2022). Not applied with :class:`satcascade.diffusion.rsdiff_scheduler.RSDiffScheduler`, which
            does the latter itself, nor to latents; turn it off where another scheduler's own thresholding is
            on.
        vae: the autoencoder whose latents the base stage diffuses; without it, it diffuses pixels. The
            super-resolution stage diffuses the same, or pixels where its network takes these.
        vae_fingerprint: ``Codec.fingerprint`` of the autoencoder whose latents the networks were trained
            on; another one is refused, unless its encoder imitates that one.

    Raises:
        UsageError: unknown ``clip_x0``.
        SatcascadeError: a network takes other channels than its stage diffuses, or ``vae`` is not the one of
            ``vae_fingerprint``.
    """

    model_cpu_offload_seq = "unet->sr_unet->vae"
    _optional_components = ["sr_unet", "sr_scheduler", "vae"]  # noqa: RUF012 (diffusers reads a plain list)
    _network_names = ("unet", "sr_unet", "vae")
    _callback_tensor_inputs = TENSOR_INPUTS

    scheduler: Any
    sr_unet: Any
    sr_scheduler: Any
    vae: Any

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        sr_unet: ModelMixin | None = None,
        sr_scheduler: SchedulerMixin | None = None,
        text_encoder: str = "minilm",
        text_encoder_fingerprint: str | None = None,
        base_steps: int = 20,
        sr_steps: int = 12,
        base_guidance: float = 3.0,
        sr_guidance: float = 1.0,
        low_res_log_snr: float = LOW_RES_LOG_SNR,
        projected_guidance: bool = False,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | list[float] | None = None,
        clip_x0: bool | str = True,
        vae: ModelMixin | None = None,
        vae_fingerprint: str | None = None,
    ):
        super().__init__()
        if clip_x0 not in (True, False, "dynamic"):
            raise UsageError(f"unknown clip_x0 '{clip_x0}': choose one of true, false, dynamic")
        if sr_unet is not None and sr_scheduler is None:
            sr_scheduler = type(scheduler).from_config(scheduler.config)
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            sr_unet=sr_unet,
            sr_scheduler=None if sr_unet is None else sr_scheduler,
            vae=vae,
        )
        self.register_to_config(
            text_encoder=text_encoder,
            text_encoder_fingerprint=text_encoder_fingerprint,
            base_steps=base_steps,
            sr_steps=sr_steps,
            base_guidance=base_guidance,
            sr_guidance=sr_guidance,
            low_res_log_snr=low_res_log_snr,
            projected_guidance=projected_guidance,
            guidance_rescale=guidance_rescale,
            guidance_interval=list(guidance_interval) if guidance_interval else None,
            clip_x0=clip_x0,
            vae_fingerprint=vae_fingerprint,
        )
        self.precision = "float32"
        self._latent_codec: LatentCodec | None = None
        for stage in self.stage_names:
            self.codec(stage)

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the networks compute in: ``precision`` on this device, or the weights' own lower dtype."""
        stored: torch.dtype = self.unet.dtype
        return compute_dtype(self.precision, self._execution_device) if stored == torch.float32 else stored

    @property
    def stage_names(self) -> tuple[StageName, ...]:
        """The stages that there are."""
        return ("base",) if self.sr_unet is None else ("base", "sr")

    def codec(self, stage: StageName = "base") -> Codec:
        """What stands between images and what a stage diffuses.

        Raises:
            SatcascadeError: the stage's network takes other channels, or the autoencoder is not the one that
                the networks were trained with.
        """
        channels = (self.unet if stage == "base" else self.sr_unet).channels
        codec: Codec = PIXELS if self.vae is None else self._codec_of_vae()
        if stage == "sr" and channels == PIXELS.channels != codec.channels:
            return PIXELS
        if codec.channels != channels:
            what = "pixels" if self.vae is None else "the latents of its vae"
            raise SatcascadeError(
                f"the {stage} network takes {channels} channels, {what} have {codec.channels}: use the "
                "autoencoder that it was trained with"
            )
        return codec

    def _codec_of_vae(self) -> LatentCodec:
        if self._latent_codec is None or self._latent_codec.vae is not self.vae:
            codec = LatentCodec(self.vae)
            trained_with = self.config.vae_fingerprint
            if trained_with is not None and not codec.serves(trained_with):
                raise SatcascadeError(
                    f"the vae has fingerprint {codec.fingerprint}, the networks were trained on latents of "
                    f"{trained_with}: use that autoencoder"
                )
            self._latent_codec = codec
        return self._latent_codec

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        prompt_embeds: TextEmbeddings | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        image: ImageInput | None = None,
        mask_image: ImageInput | None = None,
        strength: float | None = None,
        resampling: int = 1,
        feather: int | None = None,
        seamless: bool = True,
        num_inference_steps: int | None = None,
        sr_num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sr_guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        stop_at: Literal["base"] | None = None,
        base_images: Tensor | None = None,
        settings: Mapping[StageName, StageSettings] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
    ) -> CascadeOutput | tuple[Any, Any]:
        """Make images of captions, new ones or out of images that are given.

        With ``image``, each stage starts from the image at its own resolution, noised to the level that
        ``strength`` says (Meng et al. 2022, "SDEdit"). With ``mask_image``, only what is white in it is
        remade (Lugmayr et al. 2022, "RePaint", see :mod:`satcascade.sampling.edit`), and all other pixels
        of the result are those of the image, exactly.

        Every image draws its noise from a generator of its own, in this order: the first noise of the base
        stage, the noise of its steps (stochastic schedulers only), the noise on the low-resolution input,
        and again first noise and steps of the super-resolution stage. So an image depends on its seed and
        its caption, and not on what else is in the batch (up to float rounding).

        Args:
            prompt: a caption, or several.
            height: pixels of the images from top to bottom; a model makes one size, others are refused.
            width: likewise from left to right.
            prompt_embeds: embeddings of captions instead, from :meth:`encode`.
            negative_prompt: what guidance leads away from, in the place of the null caption: one text for
                all captions, or one each; an empty one is the null caption. Without guidance it says nothing.
            num_images_per_prompt: images of each caption, one after the other; B in all.
            image: what to edit, of the size that the model makes: a PIL image, an array (S, S, 3) of bytes, a
                tensor (3, S, S) in [0, 1], a batch or a list of these; one for all captions, or one each.
            mask_image: white where the image is remade; a PIL image, an array or a tensor of one channel.
            strength: 0 (the image as its codec holds it) to 1 (nothing of it, but outside of a mask): the
                share of the steps that is taken. By default 1 with a mask and 0.8 without.
            resampling: with a mask, how often each stretch of the steps is taken (RePaint's jumps): with 2
                and more, what is made has time to fit what is there, and takes as many times as long.
            feather: with a mask, over how many pixels inside of its edge what is made fades in; by default 8.
            seamless: with a mask, shift the colours of what is made near its edge, so that they meet the
                image's.
            num_inference_steps: steps of the base stage; by default ``config.base_steps``.
            sr_num_inference_steps: steps of the super-resolution stage; by default ``config.sr_steps``.
            guidance_scale: of the base stage; by default ``config.base_guidance``. 1 is no guidance.
            sr_guidance_scale: of the super-resolution stage; by default ``config.sr_guidance``.
            generator: B generators, one an image. A single one serves one image as it is, and is asked for
                a seed an image where there are several.
            seeds: B seeds instead, integers in [0, 2^63).
            stop_at: ``base`` leaves super-resolution out.
            base_images: (B, 3, h, w) in [0, 1], to be super-resolved as they are; the base stage is left out.
            settings: steps, guidance and scheduler of the stages by their names, instead of the four numbers.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``, see :class:`CascadeOutput`.
            return_dict: otherwise a tuple ``(images, base_images)``.
            callback_on_step_end: called as ``callback(pipeline, step, timestep, {"stage": "base" or "sr",
                "latents": x, "sample": x})`` after each step; a ``"latents"`` or ``"sample"`` in the
                dictionary it returns replaces x.
            callback_on_step_end_tensor_inputs: which of the two it is shown.

        Returns:
            The images, in the order of the captions.

        Raises:
            UsageError: an argument is out of range, or a scheduler does not fit.
            SatcascadeError: the text encoder cannot be had, or the network's output is not finite.

        Warns:
            FullMaskWarning: a mask is white everywhere.
        """
        by_argument: dict[StageName, StageSettings] = {
            "base": StageSettings(num_inference_steps, guidance_scale),
            "sr": StageSettings(sr_num_inference_steps, sr_guidance_scale),
        }
        if settings is None:
            settings = by_argument
        elif set(by_argument.values()) != {StageSettings()}:
            raise UsageError("give settings of the stages, or numbers of steps and guidance scales, not both")
        stages = self.prepare(settings, stop_at)
        check_output_type(output_type)
        check_size(stages[-1].image_size, height, width)
        callbacks = None
        if callback_on_step_end is not None:
            callbacks = StepCallbacks(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        text = self._captions(prompt, prompt_embeds, num_images_per_prompt)
        negative = self._negative_captions(negative_prompt, len(text), num_images_per_prompt)
        generators = image_generators(len(text), generator, seeds)
        edit = image_edit(
            len(text) // num_images_per_prompt,
            num_images_per_prompt,
            stages[-1],
            image=image,
            mask_image=mask_image,
            strength=strength,
            resampling=resampling,
            feather=feather,
            seamless=seamless,
        )
        if base_images is not None:
            if edit is not None:
                raise UsageError("give base_images to enlarge, or an image to edit, not both")
            if len(stages) < 2 or len(base_images) != len(text):
                raise UsageError("base_images need a super-resolution stage, and one caption an image")
            stages = stages[1:]
        edits = [None if edit is None else self._of_stage(edit, stage) for stage in stages]
        taken = (1.0, 1) if edit is None else (edit.strength, edit.resampling)
        with self.progress_bar(total=sum(count_calls(stage, *taken) for stage in stages)) as progress:

            def after_step(stage: SamplingStage, step: int, x: Tensor) -> Tensor:
                progress.update()
                return x if callbacks is None else callbacks(stage, step, x)

            images = None if base_images is None else base_images.to(self._execution_device).float() * 2 - 1
            made = [] if images is None else [images]
            for stage, stage_edit in zip(stages, edits, strict=True):
                diffused = self._diffuse(
                    stage, text, negative, generators, images, stage_edit, partial(after_step, stage)
                )
                images = self._decode(stage, diffused)
                images = images if edit is None else edit.blended(images)
                # Pixels are what they decode to: bounded.
                made.append(diffused if output_type == "latent" and not stage.codec.bounded else images)
        final, base = to_output(made[-1], output_type), to_output(made[0], output_type)
        self.maybe_free_model_hooks()
        return CascadeOutput(images=final, base_images=base) if return_dict else (final, base)

    def prepare(
        self, settings: Mapping[StageName, StageSettings], stop_at: str | None = None
    ) -> list[SamplingStage]:
        """The stages to run, each set to its steps, before anything is computed.

        Args:
            settings: of the stages by their names; what they leave out is the model's own.
            stop_at: as :meth:`__call__` takes it.

        Raises:
            UsageError: a setting is out of range, or a scheduler does not fit.
            SatcascadeError: the networks have no weights, being on the device ``meta``.
        """
        if self._execution_device.type == "meta":
            raise SatcascadeError(
                "the networks are on the device 'meta', without weights: load the model again"
            )
        if stop_at not in (None, "base"):
            raise UsageError(f"stop_at '{stop_at}' is not a stage to stop at: give 'base' or nothing")
        config = self.config
        names = self.stage_names[:1] if stop_at == "base" else self.stage_names
        return [
            prepare_stage(
                name,
                self.unet if name == "base" else self.sr_unet,
                self.codec(name),
                self.sampler(name, settings.get(name)),
                clip_x0=config.clip_x0,
                low_res_log_snr=config.low_res_log_snr,
                device=self._execution_device,
            )
            for name in names
        ]

    def sampler(self, stage: StageName, settings: StageSettings | None = None) -> Sampler:
        """How a stage samples; what ``settings`` leave out is the model's own.

        Raises:
            UsageError: no scheduler goes by the name in ``settings``, or the guidance is out of range.
        """
        settings, config = settings or StageSettings(), self.config
        scheduler = self.scheduler if stage == "base" else self.sr_scheduler
        return Sampler(
            scheduler if settings.scheduler is None else swap_scheduler(scheduler, settings.scheduler),
            config[f"{stage}_steps"] if settings.steps is None else settings.steps,
            Guidance(
                config[f"{stage}_guidance"] if settings.guidance is None else settings.guidance,
                config.projected_guidance,
                config.guidance_rescale,
                config.guidance_interval,
            ),
        )

    def _diffuse(
        self,
        stage: SamplingStage,
        text: TextEmbeddings,
        negative: TextEmbeddings | None,
        generators: list[torch.Generator],
        images: Tensor | None,
        edit: StageEdit | None,
        on_step: OnStep,
    ) -> Tensor:
        """What a stage diffuses (B, C, S, S), made; ``images`` are those it enlarges, if any."""
        made = sample_stage(stage, text, generators, images, self.compute_dtype, on_step, negative, edit)
        check_finite(made, f"the {stage.name} stage of {self.name}")
        return made

    def _of_stage(self, edit: ImageEdit, stage: SamplingStage) -> StageEdit:
        with autocast(self.compute_dtype, edit.images.device):
            return edit.of_stage(stage)

    def _decode(self, stage: SamplingStage, diffused: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] of what a stage has made."""
        with autocast(self.compute_dtype, diffused.device):
            return stage.codec.decode(diffused).float()


# DiffusionPipeline.from_pretrained looks the class of a saved pipeline up in diffusers' own namespace.
if not hasattr(diffusers, CascadePipeline.__name__):
    setattr(diffusers, CascadePipeline.__name__, CascadePipeline)
