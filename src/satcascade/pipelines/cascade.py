"""From captions to images: text -> base image -> super-resolution, as a ``diffusers`` pipeline."""

from __future__ import annotations

import copy
import hashlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import diffusers
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput, is_accelerate_available, logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

# Imported for their names: model_index.json refers to a network by module, and diffusers looks for that
# module among those already imported.
import satcascade.models.compact_unet  # noqa: F401
from satcascade.diffusion.process import add_noise, dynamic_threshold, from_x0, guide, to_x0
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import check_scheduler, set_steps, swap_scheduler
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.hardware.devices import pick_device
from satcascade.hardware.precision import autocast, compute_dtype
from satcascade.io.files import folder_written_whole
from satcascade.io.hashing import sha256_of_file
from satcascade.models.denoiser import TextCondition, resize_low_res
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.models.text import TextEmbeddings, TextEncoder, load_text_encoder
from satcascade.pipelines.folder import check_fit, check_weights, model_folder, weight_files
from satcascade.zoo import BUILTIN_NAMES

OutputType = Literal["pil", "np", "pt"]
StepCallback = Callable[["CascadePipeline", int, Tensor, dict[str, Any]], "dict[str, Any] | None"]


class TextEncoderWarning(UserWarning):
    """The text encoder at hand is not the one that a model was trained with."""


@dataclass
class CascadeOutput(BaseOutput):
    """What a cascade made.

    Attributes:
        images: the final images, B of them: PIL images, or (B, S, S, 3) float32 in [0, 1] (``np``), or
            (B, 3, S, S) float32 in [0, 1] (``pt``). With ``stop_at="base"`` these are the base images.
        base_images: the images of the base stage, in the same form.
    """

    images: Any
    base_images: Any


class CascadePipeline(DiffusionPipeline):
    """Text to image with a two-stage pixel diffusion cascade (Saharia et al. 2022, "Imagen").

    Args:
        unet: the base network (see :class:`satcascade.models.denoiser.Denoiser`).
        scheduler: of the base stage; any variance-preserving scheduler of ``diffusers``.
        sr_unet: the super-resolution network; without it the base images are the result.
        sr_scheduler: of the super-resolution stage; by default one made like ``scheduler``.
        text_encoder: name or folder of the frozen text encoder (``minilm``, ``t5-base``, ...). It is
            loaded when the first caption comes, and never copied into the model's folder.
        text_encoder_fingerprint: ``TextEncoder.fingerprint`` of the encoder the networks were trained
            with; another one is warned of.
        base_steps: default number of sampling steps of the base stage.
        sr_steps: the same for the super-resolution stage.
        base_guidance: default classifier-free guidance scale of the base stage; 1 is none.
        sr_guidance: the same for the super-resolution stage.
        low_res_log_snr: noise level to which the base image is taken before it is given to the
            super-resolution network (noise conditioning augmentation, Ho et al. 2021).
        projected_guidance: drop the part of the guidance parallel to the conditional prediction.
        guidance_interval: log-SNR range (lowest, highest) in which guidance applies (Kynkaanniemi et al.
            2024); outside of it only the conditional branch is computed. None is everywhere.
        clip_x0: clamp the estimate of the clean image to [-1, 1] at every step, whichever the scheduler;
            ``dynamic`` clamps to its 95th percentile and rescales instead (dynamic thresholding, Saharia et
            al. 2022). Not applied with :class:`satcascade.diffusion.rsdiff_scheduler.RSDiffScheduler`, which
            does the latter itself; turn it off where another scheduler's own thresholding is on.
    """

    model_cpu_offload_seq = "unet->sr_unet"
    _optional_components = ["sr_unet", "sr_scheduler"]  # noqa: RUF012 (diffusers reads a plain list)

    unet: Any
    scheduler: Any
    sr_unet: Any
    sr_scheduler: Any

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
        low_res_log_snr: float = 3.0,
        projected_guidance: bool = False,
        guidance_interval: tuple[float, float] | list[float] | None = None,
        clip_x0: bool | str = True,
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
            guidance_interval=list(guidance_interval) if guidance_interval else None,
            clip_x0=clip_x0,
        )
        self.precision = "float32"
        self._folder: Path | None = None
        self._text_encoder: TextEncoder | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> CascadePipeline:
        """Load a pipeline from a folder, from the hub, or from the package.

        Args:
            pretrained_model_name_or_path: a folder written by :meth:`save_pretrained`, ``owner/name`` on
                the hub, or ``builtin`` (also ``compact``), the weights inside the package.
            kwargs: those of ``DiffusionPipeline.from_pretrained``. Only safetensors files are read, and
                their weights become float32 unless ``dtype`` (or ``torch_dtype``) says otherwise.

        Raises:
            SatcascadeError: the folder is missing or is no pipeline, a file of it is damaged, or the hub
                cannot be reached and has not been visited before.
        """
        where = str(pretrained_model_name_or_path)
        hub = {
            key: kwargs.pop(key)
            for key in ("revision", "cache_dir", "token", "local_files_only", "force_download")
            if key in kwargs
        }
        folder = model_folder(where, **hub)
        check_weights(folder)
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())
        try:
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        except SatcascadeError:
            raise
        except Exception as error:  # diffusers raises many kinds for files that do not fit together
            raise SatcascadeError(f"model {where} cannot be loaded: {one_line(error)}") from error
        for part in ("unet", "sr_unet"):
            # A network may also be handed in by the caller, or be left out.
            if part not in kwargs and getattr(pipeline, part) is not None:
                check_fit(folder / part, getattr(pipeline, part))
        pipeline._folder = folder
        pipeline.register_to_config(_name_or_path=where)
        for network in pipeline._networks():
            network.to(memory_format=torch.channels_last)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as a folder that appears whole: it is written aside and then renamed.

        Args:
            save_directory: the folder; missing or empty. An existing pipeline is overwritten in place.
            kwargs: those of ``DiffusionPipeline.save_pretrained``.

        Raises:
            SatcascadeError: the disk is full; nothing is left behind.
        """
        target = Path(save_directory)
        if target.is_dir() and any(target.iterdir()):
            super().save_pretrained(str(target), **kwargs)
            return
        # The hub's name for a pushed folder is that of the target.
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", target.name)
        with folder_written_whole(target) as aside:
            super().save_pretrained(str(aside), **kwargs)

    @property
    def text_encoder(self) -> TextEncoder:
        """The frozen text encoder, loaded when it is first asked for.

        Raises:
            SatcascadeError: its weights cannot be had, or it is not the kind the networks were made for.
        """
        if self._text_encoder is None:
            # Its parameters must be ordinary tensors, even when the first caption meets a running pipeline.
            with torch.inference_mode(False):
                self.text_encoder = load_text_encoder(self.config.text_encoder, self.device)
        assert self._text_encoder is not None
        return self._text_encoder

    @text_encoder.setter
    def text_encoder(self, encoder: TextEncoder) -> None:
        expected = self.unet.config.text_dim
        if encoder.dim != expected:
            raise SatcascadeError(
                f"text encoder '{encoder.name}' gives {encoder.dim} numbers a token, this model takes "
                f"{expected}: use the encoder it was trained with"
            )
        trained_with = self.config.text_encoder_fingerprint
        if trained_with is not None and encoder.fingerprint != trained_with:
            warnings.warn(
                f"text encoder '{encoder.name}' is not the one this model was trained with (fingerprint "
                f"{encoder.fingerprint}, not {trained_with}): pictures may not follow their captions",
                TextEncoderWarning,
                stacklevel=2,
            )
        self._text_encoder = encoder
        self.register_to_config(text_encoder=encoder.name)

    @property
    def folder(self) -> Path | None:
        """The folder the pipeline was loaded from; None where it was built in memory."""
        where = self.config.get("_name_or_path")
        if self._folder is None and where is not None and Path(where).is_dir():
            return Path(where)
        return self._folder

    @property
    def name(self) -> str:
        """What the model is called in records: ``compact``, a hub name, or the name of its folder."""
        if self.folder is None:
            return "unsaved"
        where = str(self.config["_name_or_path"])
        if where in BUILTIN_NAMES:
            return "compact"
        return self.folder.resolve().name if Path(where).is_dir() else where

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the networks compute in: ``precision`` on this device, or the weights' own lower dtype."""
        stored: torch.dtype = self.unet.dtype
        return compute_dtype(self.precision, self._execution_device) if stored == torch.float32 else stored

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the weights, 64 hexadecimal digits.

        Of a loaded pipeline: over path and content of its safetensors files, in the order of their paths.
        Of one built in memory: over names and values of all parameters.
        """
        digest = hashlib.sha256()
        if self.folder is not None:
            for path in weight_files(self.folder):
                digest.update(
                    f"{path.relative_to(self.folder).as_posix()}\0{sha256_of_file(path)}\n".encode()
                )
        else:
            for network in self._networks():
                for key, value in sorted(network.state_dict().items()):
                    content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                    digest.update(f"{key}\0{hashlib.sha256(content.data).hexdigest()}\n".encode())
        return digest.hexdigest()

    def encode(self, captions: str | Sequence[str]) -> TextEmbeddings:
        """Embed captions with the pipeline's frozen text encoder, on the pipeline's device.

        Raises:
            UsageError: a caption is empty.
            SatcascadeError: the encoder's weights cannot be had.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        return self.text_encoder.to(self.device)(captions)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        prompt_embeds: TextEmbeddings | None = None,
        num_inference_steps: int | None = None,
        sr_num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sr_guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        stop_at: Literal["base"] | None = None,
        base_images: Tensor | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> CascadeOutput | tuple[Any, Any]:
        """Make one image a caption.

        Every image draws its noise from a generator of its own, in this order: the first noise of the base
        stage, the noise of its steps (stochastic schedulers only), the noise on the low-resolution input,
        and again first noise and steps of the super-resolution stage. So an image depends on its seed and
        its caption, and not on what else is in the batch (up to float rounding).

        Args:
            prompt: a caption, or B of them.
            prompt_embeds: embeddings of B captions instead, from :meth:`encode`.
            num_inference_steps: steps of the base stage; by default ``config.base_steps``.
            sr_num_inference_steps: steps of the super-resolution stage; by default ``config.sr_steps``.
            guidance_scale: of the base stage; by default ``config.base_guidance``. 1 is no guidance.
            sr_guidance_scale: of the super-resolution stage; by default ``config.sr_guidance``.
            generator: B generators, one an image. A single one serves one image as it is, and is asked for
                a seed an image where there are several.
            seeds: B seeds instead, integers in [0, 2^63).
            stop_at: ``base`` leaves super-resolution out.
            base_images: (B, 3, h, w) in [0, 1], to be super-resolved as they are; the base stage is left out.
            output_type: ``pil``, ``np`` or ``pt``, see :class:`CascadeOutput`.
            return_dict: otherwise a tuple ``(images, base_images)``.
            callback_on_step_end: called as ``callback(pipeline, step, timestep, {"stage": "base" or "sr",
                "sample": x})`` after each step; a ``"sample"`` in the dictionary it returns replaces x.

        Returns:
            The images, in the order of the captions.

        Raises:
            UsageError: an argument is out of range, or a scheduler does not fit.
            SatcascadeError: the text encoder cannot be had, or the network's output is not finite.
        """
        plans = self._plans(
            num_inference_steps=num_inference_steps,
            sr_num_inference_steps=sr_num_inference_steps,
            guidance_scale=guidance_scale,
            sr_guidance_scale=sr_guidance_scale,
            stop_at=stop_at,
        )
        if output_type not in ("pil", "np", "pt"):
            raise UsageError(f"unknown output type '{output_type}': choose one of pil, np, pt")
        text = self._text(prompt, prompt_embeds)
        generators = _generators(len(text), generator, seeds)
        if base_images is not None:
            if len(plans) < 2 or len(base_images) != len(text):
                raise UsageError("base_images need a super-resolution stage, and one caption an image")
            plans = plans[1:]
        with self.progress_bar(total=sum(plan.calls for plan in plans)) as progress:

            def on_step(plan: _Plan, step: int, x: Tensor) -> Tensor:
                progress.update()
                if callback_on_step_end is None:
                    return x
                state: dict[str, Any] = {"stage": plan.stage, "sample": x}
                timestep = plan.scheduler.timesteps[step]
                return (callback_on_step_end(self, step, timestep, state) or state).get("sample", x)

            base = None if base_images is None else base_images.to(self._execution_device).float() * 2 - 1
            images = base
            for plan in plans:
                images = self._sample(plan, text, generators, images, on_step)
                base = images if base is None else base
        assert images is not None
        assert base is not None
        made, made_base = _to_output(images, output_type), _to_output(base, output_type)
        self.maybe_free_model_hooks()
        return CascadeOutput(images=made, base_images=made_base) if return_dict else (made, made_base)

    def check_settings(self, **settings: Any) -> None:
        """Refuse what :meth:`__call__` would refuse, before anything is computed.

        Args:
            settings: ``num_inference_steps``, ``sr_num_inference_steps``, ``guidance_scale``,
                ``sr_guidance_scale`` and ``stop_at`` of :meth:`__call__`.

        Raises:
            UsageError: one of them is out of range, or a scheduler does not fit.
        """
        self._plans(**settings)

    def _networks(self) -> list[Any]:
        return [network for network in (self.unet, self.sr_unet) if network is not None]

    def _text(self, prompt: str | Sequence[str] | None, embeds: TextEmbeddings | None) -> TextEmbeddings:
        if (prompt is None) == (embeds is None):
            raise UsageError("give either captions (prompt) or their embeddings (prompt_embeds)")
        if embeds is not None:
            return embeds.to(self._execution_device)
        assert prompt is not None
        captions = [prompt] if isinstance(prompt, str) else list(prompt)
        # A caption that comes several times is read once.
        distinct = list(dict.fromkeys(captions))
        text = self.encode(distinct).to(self._execution_device)
        return text[[distinct.index(caption) for caption in captions]]

    def _plans(
        self,
        num_inference_steps: int | None = None,
        sr_num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sr_guidance_scale: float | None = None,
        stop_at: str | None = None,
    ) -> list[_Plan]:
        """The stages to run, each set to its steps; None stands for the configuration's default."""
        if stop_at not in (None, "base"):
            raise UsageError(f"stop_at '{stop_at}' is not a stage to stop at: give 'base' or nothing")
        config = self.config
        base = self._plan(
            "base",
            config.base_steps if num_inference_steps is None else num_inference_steps,
            config.base_guidance if guidance_scale is None else guidance_scale,
        )
        if self.sr_unet is None or stop_at == "base":
            return [base]
        sr = self._plan(
            "sr",
            config.sr_steps if sr_num_inference_steps is None else sr_num_inference_steps,
            config.sr_guidance if sr_guidance_scale is None else sr_guidance_scale,
        )
        return [base, sr]

    def _plan(self, stage: Literal["base", "sr"], steps: int, guidance: float) -> _Plan:
        unet, shared = (self.unet, self.scheduler) if stage == "base" else (self.sr_unet, self.sr_scheduler)
        if not guidance >= 0:
            raise UsageError(
                f"guidance scale {guidance} is negative: 1 is none, larger follows the caption more"
            )
        check_scheduler(shared, unet.config.prediction_type)
        # Setting its steps gives the copy a state of its own: both stages, or two threads, may share one.
        scheduler = copy.copy(shared)
        if unet.config.prediction_type == "sample":
            # Some schedulers take no clean image, all take v.
            scheduler.register_to_config(prediction_type="v_prediction")
        log_snrs = set_steps(scheduler, steps, self._execution_device)
        low, high = self.config.guidance_interval or (-torch.inf, torch.inf)
        guided = [guidance != 1 and low <= level <= high for level in log_snrs.tolist()]
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        # At RSDiff's first step, alpha is 4e-8: there a clean image would not survive as a prediction.
        clip_x0 = False if isinstance(scheduler, RSDiffScheduler) else self.config.clip_x0
        return _Plan(stage, unet, scheduler, guidance, log_snrs.tolist(), guided, takes_generator, clip_x0)

    def _sample(
        self,
        plan: _Plan,
        text: TextEmbeddings,
        generators: list[torch.Generator],
        base: Tensor | None,
        on_step: Callable[[_Plan, int, Tensor], Tensor],
    ) -> Tensor:
        """Run one stage: images (B, 3, S, S) in [-1, 1]; ``base`` are the images it starts from, if any."""
        unet, scheduler, config = plan.unet, plan.scheduler, self.config
        kind = unet.config.prediction_type
        device, count, size = self._execution_device, len(text), unet.config.sample_size
        draw = partial(randn_tensor, (count, 3, size, size), generator=generators, device=device)
        step_options: dict[str, Any] = {"generator": generators} if plan.takes_generator else {}

        low_res = low_res_log_snr = None
        if base is None:
            x = draw()
        else:
            low_res_log_snr = torch.full((count,), config.low_res_log_snr, device=device)
            # By way of [0, 1], where the stages of RSDiff meet: that rounds.
            resized = resize_low_res((base + 1) * 0.5 * 2 - 1, size, unet.config.low_res_resize)
            low_res = add_noise(resized, draw(), low_res_log_snr)
            x = draw()
        x = x * scheduler.init_noise_sigma
        # A batch of both branches rounds otherwise than RSDiff's own sampler, and on a CPU gains it nothing.
        one_by_one = device.type == "cpu" and isinstance(unet, RSDiffUNet)

        # One context for the whole stage: it keeps the weights it has cast. The solver's state stays float32.
        with autocast(self.compute_dtype, device):
            condition = _Condition.of(unet, text, low_res, low_res_log_snr, guided=any(plan.guided))
            for step, timestep in enumerate(scheduler.timesteps):
                x_t = scheduler.scale_model_input(x, timestep)
                log_snr = torch.full((count,), plan.log_snrs[step], device=device)
                if plan.guided[step]:
                    if one_by_one:
                        conditional = unet(x_t, log_snr, **condition.captioned()).float()
                        unconditional = unet(x_t, log_snr, **condition.null()).float()
                    else:
                        both = unet(torch.cat([x_t, x_t]), torch.cat([log_snr, log_snr]), **condition.both())
                        conditional, unconditional = both.float().chunk(2)
                    prediction = guide(conditional, unconditional, plan.guidance, config.projected_guidance)
                else:
                    prediction = unet(x_t, log_snr, **condition.captioned()).float()
                if plan.clip_x0:
                    dynamic = plan.clip_x0 == "dynamic"
                    prediction = _clip_x0(prediction, x_t, log_snr, kind, dynamic)
                if kind == "sample":
                    prediction = from_x0(prediction, x_t, log_snr, "v_prediction")
                x = scheduler.step(prediction, timestep, x, return_dict=False, **step_options)[0]
                x = on_step(plan, step, x)
        if not torch.isfinite(x).all():
            raise SatcascadeError(
                f"the {plan.stage} stage of {self.name} produced numbers that are not finite: its weights "
                "are damaged, or the precision is too low (try float32)"
            )
        return x.clamp(-1, 1)


# DiffusionPipeline.from_pretrained looks the class of a saved pipeline up in diffusers' own namespace.
if not hasattr(diffusers, CascadePipeline.__name__):
    setattr(diffusers, CascadePipeline.__name__, CascadePipeline)


def load_pipeline(
    model: str | Path = "builtin",
    *,
    device: str = "auto",
    precision: str = "float32",
    scheduler: str | None = None,
) -> CascadePipeline:
    """Load a pipeline, ready to sample.

    Args:
        model: as :meth:`CascadePipeline.from_pretrained` takes it.
        device: ``auto`` (a GPU where there is one, otherwise the CPU) or a torch device.
        precision: what the networks compute in: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the
            device computes in it natively).
        scheduler: short name of a sampler (:data:`satcascade.diffusion.solvers.SOLVERS`) to use in both
            stages instead of the saved ones.

    Raises:
        UsageError: unknown scheduler or precision, or a device that is not there.
        SatcascadeError: the model cannot be loaded.
    """
    chosen = pick_device(device)
    compute_dtype(precision, chosen)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = CascadePipeline.from_pretrained(model)
    finally:
        if bars:
            logging.enable_progress_bar()
    if scheduler is not None:
        pipeline.scheduler = swap_scheduler(pipeline.scheduler, scheduler)
        if pipeline.sr_unet is not None:
            pipeline.sr_scheduler = swap_scheduler(pipeline.sr_scheduler, scheduler)
    pipeline.precision = precision
    return pipeline.to(chosen)


@dataclass(frozen=True)
class _Plan:
    """One stage, set to its steps.

    Attributes:
        log_snrs: noise level of each network call.
        guided: for each call, whether both branches are computed.
        takes_generator: whether the scheduler draws noise.
        clip_x0: how the pipeline bounds the estimate of the clean image.
    """

    stage: Literal["base", "sr"]
    unet: Any
    scheduler: Any
    guidance: float
    log_snrs: list[float]
    guided: list[bool]
    takes_generator: bool
    clip_x0: bool | Literal["dynamic"]

    @property
    def calls(self) -> int:
        return len(self.log_snrs)


@dataclass(frozen=True)
class _Condition:
    """What the network is told beside x_t; computed once a stage, for captions and null captions."""

    count: int
    text: TextCondition
    low_res: Tensor | None
    low_res_log_snr: Tensor | None

    @classmethod
    def of(
        cls,
        unet: Any,
        text: TextEmbeddings,
        low_res: Tensor | None,
        low_res_log_snr: Tensor | None,
        *,
        guided: bool,
    ) -> _Condition:
        count = len(text)
        embeddings, mask = text.embeddings.to(unet.dtype), text.mask
        if not guided:
            return cls(count, unet.encode_text(embeddings, mask), low_res, low_res_log_snr)
        keep = torch.arange(2 * count, device=mask.device) < count
        # Each for itself, as RSDiff's own sampler does: in one batch they may round otherwise.
        condition = TextCondition.cat([unet.encode_text(embeddings, mask, kept) for kept in keep.chunk(2)])
        if low_res is None or low_res_log_snr is None:
            return cls(count, condition, None, None)
        return cls(count, condition, low_res.repeat(2, 1, 1, 1), low_res_log_snr.repeat(2))

    def both(self) -> dict[str, Any]:
        return self._arguments(slice(None))

    def captioned(self) -> dict[str, Any]:
        return self._arguments(slice(self.count))

    def null(self) -> dict[str, Any]:
        return self._arguments(slice(self.count, None))

    def _arguments(self, rows: slice) -> dict[str, Any]:
        if self.low_res is None or self.low_res_log_snr is None:
            return {"text": self.text[rows]}
        return {
            "text": self.text[rows],
            "low_res": self.low_res[rows],
            "low_res_log_snr": self.low_res_log_snr[rows],
        }


def _generators(
    count: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seeds: Sequence[int] | None,
) -> list[torch.Generator]:
    """One generator an image."""
    if generator is not None and seeds is not None:
        raise UsageError("give either seeds or generators, not both")
    if isinstance(generator, torch.Generator):
        if count == 1:
            return [generator]
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    elif generator is not None:
        if len(generator) != count:
            raise UsageError(f"{len(generator)} generators for {count} images: give one an image")
        return list(generator)
    if seeds is None:
        seeds = torch.randint(2**63 - 1, (count,)).tolist()
    if len(seeds) != count:
        raise UsageError(f"{len(seeds)} seeds for {count} images: give one an image")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range: give an integer from 0 to 2^63 - 1")
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def _clip_x0(prediction: Tensor, x_t: Tensor, log_snr: Tensor, kind: Any, dynamic: bool = False) -> Tensor:
    """The prediction whose clean image is that of ``prediction``, brought to [-1, 1]."""
    x0 = to_x0(prediction, x_t, log_snr, kind)
    return from_x0(dynamic_threshold(x0) if dynamic else x0.clamp(-1, 1), x_t, log_snr, kind)


def _to_output(images: Tensor, output_type: OutputType) -> Any:
    """Images (B, 3, S, S) in [-1, 1] in the form asked for."""
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.permute(0, 2, 3, 1).cpu()
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    levels = ((channels_last + 1) * 127.5).round().to(torch.uint8).numpy()
    return [PIL.Image.fromarray(image) for image in levels]
