"""The autoencoder in training: its encoder, which is then frozen, and its decoder."""

from __future__ import annotations

import copy
import math
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from satcascade.config.codec import CodecSettings, Phase
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.files import atomic_folder
from satcascade.io.locks import exclusive
from satcascade.models.codec import LatentCodec, TinyAutoencoder
from satcascade.seeds import derived_seed
from satcascade.training.averages import WeightAverage
from satcascade.training.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    load_optimizer_tensors,
    optimizer_tensors,
)
from satcascade.training.codec.autoencoder import new_autoencoder
from satcascade.training.codec.components import patch_components, set_decoder, set_encoder
from satcascade.training.codec.critic import Critic, adversarial_gradient, critic_loss
from satcascade.training.codec.crops import draw_crops, noised
from satcascade.training.codec.features import FeatureTargets, feature_loss
from satcascade.training.codec.fit import check_fit
from satcascade.training.codec.losses import decoder_loss, texture_error
from satcascade.training.codec.phases import phase_optimizers
from satcascade.training.codec.quality import evenly, measure_quality
from satcascade.training.codec.targets import Taught, TeacherTargets
from satcascade.training.history import History
from satcascade.training.optimizers import learning_rate
from satcascade.training.sharded import fill

VAE = "vae"
_STATISTICS = ("latents_mean", "latents_std")
# In checkpoints, before the names of the critic's parameters.
_CRITIC = "critic."
_VALIDATED = 16


class CodecTrainer:
    """Trains an autoencoder step by step, from its last checkpoint if there is one.

    The steps of the encoder come first, where there is a teacher to imitate; then it is frozen, rounded to
    what float16 holds, and the decoder is trained for its latents. A context manager: inside it, the run's
    folder belongs to this process.

    Args:
        settings: of the run.
        dataset: what it trains on.
        rows: which images of it.
        out: the run's folder.
        device: where to compute, in float32.
        targets: of a teacher; without them the encoder is that of principal components.
        encoder: an autoencoder whose encoder is taken as it is; its decoder is where training begins.
        quiet: show no progress.

    Attributes:
        step: steps done, of both phases.

    Raises:
        UsageError: settings that do not fit each other or the data.
        SatcascadeError: a damaged checkpoint.
    """

    def __init__(
        self,
        settings: CodecSettings,
        dataset: PreparedDataset,
        rows: np.ndarray,
        out: Path,
        device: torch.device,
        targets: TeacherTargets | None = None,
        encoder: TinyAutoencoder | None = None,
        quiet: bool = False,
    ):
        self.out, self.step = out, 0
        self._settings, self._dataset, self._rows, self._device = settings, dataset, rows, device
        self._targets, self._quiet = targets, quiet
        # An encoder that is given is there already.
        self._encoder_steps = settings.encoder.steps if targets is not None and encoder is None else 0
        torch.manual_seed(derived_seed(settings.seed, "weights"))
        self.vae = new_autoencoder(settings).to(device, memory_format=torch.channels_last)
        check_fit(settings, dataset.image_size, self.vae.factor, targets, given=encoder is not None)
        critic: Any = Critic(settings.model.latent_channels)  # Any: the type of `to` lacks the memory format
        self._critic: Critic = critic.to(device, memory_format=torch.channels_last)
        if targets is not None:
            self._mean, self._std = self._statistics(self._taught_statistics())
        self._features = None
        if targets is not None and settings.decoder.teacher_features:
            self._features = FeatureTargets(self.vae, targets.codec.teacher)
        self._optimizers = self._new_optimizers()
        self._critic_optimizer = torch.optim.AdamW(
            self._critic.parameters(), settings.decoder.critic_learning_rate, betas=(0.5, 0.99)
        )
        self._average = WeightAverage(self.vae.decoder, settings.ema_half_life)
        self._checkpoints = CheckpointFolder(out)
        checkpoint = self._checkpoints.load_last()
        if checkpoint is not None:
            self._load(checkpoint)
        elif encoder is not None:
            self._take(encoder)
        elif targets is None:
            chosen = evenly(rows, settings.encoder.images)
            components = patch_components(
                dataset.images, chosen, self.vae.factor, settings.model.latent_channels
            )
            set_encoder(self.vae, components, settings.encoder.spectrum)
            set_decoder(self.vae, components, settings.encoder.spectrum)
            self._freeze({name: self.vae.config[name] for name in _STATISTICS})
        self._pending: list[tuple[int, float, Tensor]] = []
        self._history: History | None = None
        self._saved = time.monotonic()
        self._open = ExitStack()

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._encoder_steps + self._settings.decoder.steps

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.steps

    def __enter__(self) -> CodecTrainer:
        taken = f"another process is training in {self.out}: wait for it or end it"
        self._open.enter_context(exclusive(self.out / ".lock", taken))
        self._checkpoints.clear_leftovers()
        if not self.done:
            history = History(
                self.out, self.step, self.steps, self._settings.batch_size, self._device, self._quiet
            )
            self._history = self._open.enter_context(history)
        if self.step == self._encoder_steps == 0:
            # An encoder that takes no steps can be used at once.
            self.save()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def advance(self) -> None:
        """Take one optimiser step, and record and save what is due after it.

        Raises:
            SatcascadeError: the loss is not finite, or the disk is full.
        """
        settings = self._settings
        imitating = self.step < self._encoder_steps
        phase: Phase = settings.encoder if imitating else settings.decoder
        rate = learning_rate(
            self.step - (0 if imitating else self._encoder_steps),
            phase.learning_rate,
            steps=phase.steps,
            warmup_steps=phase.warmup_steps,
            decay_steps=phase.decay_steps,
        )
        loss_and_norm = self._imitate(rate) if imitating else self._reconstruct(rate)
        self.step += 1
        self._pending.append((self.step, rate, loss_and_norm))
        frozen = self.step == self._encoder_steps
        if frozen:
            self._record()
            self._freeze(self._taught_statistics())
        minutes = settings.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        due = settings.checkpoint_every and self.step % settings.checkpoint_every == 0
        if self.done or frozen or due or overdue:
            self.save()
        elif self.step % settings.log_every == 0:
            self._record()

    def save(self) -> None:
        """Write a checkpoint of the last step, and the autoencoder, once its encoder is frozen.

        Raises:
            SatcascadeError: the loss was not finite, or the disk is full.
        """
        self._record()
        if self.step not in self._checkpoints.steps():
            model = dict(self.vae.state_dict())
            for name in _STATISTICS:
                if self.vae.config[name] is not None:
                    model[name] = torch.tensor(self.vae.config[name], dtype=torch.float64)
            if self._settings.decoder.adversarial_weight:
                model |= {_CRITIC + name: value for name, value in self._critic.state_dict().items()}
            state = optimizer_tensors([*self._optimizers, self._critic_optimizer])
            self._checkpoints.save(Checkpoint(self.step, model, self._average.shadow, state))
        if self.step >= self._encoder_steps:
            with self._average.applied(self.vae.decoder):
                with atomic_folder(self.out / VAE) as aside:
                    self.vae.save_pretrained(aside)
                self._validate()
        self._saved = time.monotonic()

    def _imitate(self, rate: float) -> Tensor:
        """One step of the encoder towards the teacher's latents; loss and gradient norm, (2,)."""
        taught = self._taught()
        loss = (self._encoded(taught.images) - taught.latents).square().mean()
        self._clear_gradients()
        loss.backward()
        return self._update(self.vae.encoder, loss, rate)

    def _reconstruct(self, rate: float) -> Tensor:
        """One step of the decoder, and of its critic; loss of the decoder and gradient norm, (2,)."""
        settings, training = self._settings, self._settings.decoder
        real, latents, pictures = self._decoded_from()
        latents = noised(latents, training, settings.seed, self.step)
        raw = latents * self._std + self._mean
        # Losses that have their own way to the weights, beside the gradient at the pixels.
        others: list[Tensor] = []
        if self._features is None:
            decoded = self.vae.drawn(raw)
        else:
            with self._features.recorded() as outputs:
                decoded = self.vae.drawn(raw)
            others.append(training.teacher_features * feature_loss(outputs, self._features.of(raw)))
        # The gradient at the pixels first, so that the critic's can be measured against it.
        leaf = decoded.detach().requires_grad_()
        loss = decoder_loss(leaf, real, pictures, training)
        (gradient,) = torch.autograd.grad(loss, leaf)
        judged = self.step - self._encoder_steps - training.adversarial_after
        adversarial = training.adversarial_weight and judged >= 0
        if adversarial:
            rise = min(1.0, max(0, judged - training.critic_alone) / training.critic_warmup)
            if rise:
                pull = adversarial_gradient(self._critic, decoded, latents, gradient)
                gradient = gradient + rise * training.adversarial_weight * pull
        self._clear_gradients()
        if self.vae.decoder.grain is not None:
            # It makes up for what is missing, and nothing is drawn otherwise for its sake.
            others.append(texture_error(decoded.detach() + self.vae.decoder.grain(raw), real))
        torch.autograd.backward([decoded, *others], [gradient, *map(torch.ones_like, others)])
        loss = loss + sum(others)
        loss_and_norm = self._update(self.vae.decoder, loss, rate)
        if adversarial:
            self._critic_optimizer.zero_grad(set_to_none=True)
            critic_loss(self._critic, real, decoded.detach(), latents).backward()
            self._critic_optimizer.step()
        seen = (self.step + 1 - self._encoder_steps) * settings.batch_size
        self._average.update(self.vae.decoder, seen, settings.batch_size)
        return loss_and_norm

    @torch.no_grad()
    def _decoded_from(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Real crops (B, 3, side, side), normalised latents to decode, and the teacher's pictures."""
        if self._targets is None:
            crops = draw_crops(self._settings, self.step, len(self._rows), self._dataset.image_size)
            (real,) = crops.of([self._images(crops.places)], self._device)
            return real, self._encoded(real), None
        taught = self._taught()
        chance = torch.Generator().manual_seed(derived_seed(self._settings.seed, "teacher", self.step))
        share = self._settings.decoder.teacher_latents
        ours = torch.rand(len(taught.images), generator=chance) >= share
        if ours.any():
            places = ours.nonzero()[:, 0].to(self._device)
            taught.latents[places] = self._encoded(taught.images[places])
        return taught.images, taught.latents, taught.pictures

    def _taught(self) -> Taught:
        """Crops of a step, and what the teacher makes of them."""
        targets, dataset, rows = self._targets, self._dataset, self._rows
        assert targets is not None
        crops = draw_crops(
            self._settings, self.step, len(rows), dataset.image_size, self.vae.factor, targets.views
        )
        taught = targets.of(dataset, rows, crops, self._device)
        return replace(taught, images=taught.images.contiguous(memory_format=torch.channels_last))

    def _encoded(self, images: Tensor) -> Tensor:
        return (self.vae.encode(images).latents - self._mean) / self._std

    def _update(self, network: nn.Module, loss: Tensor, rate: float) -> Tensor:
        """Take the optimiser's step with the gradients there are; loss and their norm, (2,)."""
        norm = clip_grad_norm_(network.parameters(), self._settings.gradient_clip)
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        return torch.stack([loss.detach(), norm])

    def _images(self, places: np.ndarray) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] of positions in the rows trained on."""
        pixels = torch.from_numpy(self._dataset.images[self._rows[places]]).to(self._device)
        return to_float(pixels, pixels.shape[1])

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of the phase which the next step belongs to."""
        if self.step < self._encoder_steps:
            return phase_optimizers(self.vae.encoder, self._settings.encoder)
        return phase_optimizers(self.vae.decoder, self._settings.decoder)

    def _clear_gradients(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _taught_statistics(self) -> dict[str, list[float]]:
        """Those of the teacher's latents: they are what the encoder gives."""
        assert self._targets is not None
        teacher = self._targets.codec
        return dict(zip(_STATISTICS, (teacher.mean.tolist(), teacher.std.tolist()), strict=True))

    def _statistics(self, values: dict[str, list[float]]) -> tuple[Tensor, ...]:
        return tuple(
            torch.tensor(values[name], device=self._device).float().view(-1, 1, 1) for name in _STATISTICS
        )

    def _freeze(self, statistics: dict[str, list[float]]) -> None:
        """From now on the encoder does not change."""
        with torch.no_grad():
            # A copy stored in float16 then encodes alike.
            for parameter in self.vae.encoder.parameters():
                parameter.copy_(parameter.half().float())
        self.vae.encoder.requires_grad_(False)
        self.vae.register_to_config(**statistics)
        if self._targets is not None:
            self.vae.register_to_config(imitates=self._targets.codec.fingerprint)
        self._mean, self._std = self._statistics(statistics)
        self._optimizers = self._new_optimizers()
        self._average = WeightAverage(self.vae.decoder, self._settings.ema_half_life)

    def _take(self, given: TinyAutoencoder) -> None:
        """Keep the encoder of another autoencoder, and begin with its decoder where it has the same shape."""
        try:
            self.vae.encoder.load_state_dict(given.encoder.state_dict())
        except RuntimeError as error:
            raise UsageError(
                "the encoder given has another shape than the settings' model: set model to what it was "
                "trained with"
            ) from error
        own, theirs = (
            {(key, value.shape) for key, value in vae.decoder.state_dict().items()}
            for vae in (self.vae, given)
        )
        if theirs <= own:
            # What only ours has, grain for instance, begins anew.
            self.vae.decoder.load_state_dict(given.decoder.state_dict(), strict=False)
        self._freeze({name: list(given.config[name]) for name in _STATISTICS})

    def _load(self, checkpoint: Checkpoint) -> None:
        self.step = checkpoint.step
        for name, value in self.vae.state_dict().items():
            fill(value, checkpoint.model[name])
        if self.step >= self._encoder_steps:
            self._freeze({name: checkpoint.model[name].tolist() for name in _STATISTICS})
        for name, value in self._critic.state_dict().items():
            if _CRITIC + name in checkpoint.model:
                fill(value, checkpoint.model[_CRITIC + name])
        self._average.load(checkpoint.ema)
        load_optimizer_tensors([*self._optimizers, self._critic_optimizer], checkpoint.optimizer)

    def _record(self) -> None:
        """Check and write down the steps since the last time."""
        rows = []
        for step, rate, values in self._pending:
            loss, norm = values.tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                kept = self._checkpoints.steps()
                where = self._checkpoints.folder(kept[-1]) if kept else None
                good = f"the last good checkpoint is {where}" if where else "no checkpoint yet"
                raise SatcascadeError(
                    f"loss or gradient is not finite at step {step}; {good}: start again with a lower "
                    "learning_rate"
                )
            rows.append({"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate})
        self._pending.clear()
        if self._history is not None:
            self._history.add(rows)

    def _validate(self) -> None:
        """Say how well the frozen encoder and the averaged decoder do on validation images."""
        if self._history is None or "val" not in self._dataset.splits:
            return
        began = time.monotonic()
        rows = evenly(self._dataset.indices("val"), _VALIDATED)
        # A copy: a codec freezes its autoencoder.
        codec = LatentCodec(copy.deepcopy(self.vae))
        quality = measure_quality(codec, self._dataset, rows, self._targets)
        self._history.leave_out(time.monotonic() - began)
        self._history.add_scalars({f"validation/{name}": value for name, value in quality.items()}, self.step)
        words = f"step {self.step}: PSNR of {len(rows)} validation images {quality['psnr']:.2f} dB"
        if "latents" in quality:
            words += f", the teacher's latents missed by {quality['latents']:.3f} of their variance"
        self._history.say(words)
