"""A teacher: TAEF2, the tiny distillation of FLUX.2's autoencoder (madebyollin/taesd), for training only.

:class:`TeacherCodec` makes a codec of it, whose latents are stored beside a prepared set like those of any
other codec. The teacher itself takes images in [0, 1], (B, 3, H, W), H and W divisible by 8, and gives
latents (B, 32, H / 8, W / 8), used as they are. Its weights are two safetensors files,
``encoder.safetensors`` and ``decoder.safetensors``, under their own parameter names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import SYMMETRIES, dihedral, to_float
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.io.hashing import sha256_of_file
from satcascade.io.json import damaged, read_json, write_json
from satcascade.models.codec import Codec, TinyAutoencoder

CHANNELS = 32
FACTOR = 8
WIDTH = 64
_GROUPS = 4
_FILES = ("encoder.safetensors", "decoder.safetensors")
RECORDING = "recording.safetensors"
# In the run's folder: where the teacher is, and means and deviations of its latents.
TEACHER_FILE = "teacher.json"
# Recordings are of float32 on another machine.
_TOLERANCE = 2e-2


class Teacher:
    """The teacher's encoder and decoder, frozen.

    Attributes:
        folder: of its weights.
        fingerprint: 16 hexadecimal digits over its weight files.
        device: where it computes.
        parameters: how many it has.
    """

    def __init__(
        self, folder: Path, encoder: nn.Module, decoder: nn.Module, fingerprint: str, device: torch.device
    ):
        # Any: the type of `to` lacks the memory format.
        networks: list[Any] = [encoder, decoder]
        self._encoder, self._decoder = (
            network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
            for network in networks
        )
        self.folder, self.fingerprint, self.device = folder, fingerprint, device
        self.parameters = sum(value.numel() for network in networks for value in network.parameters())

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, 32, H / 8, W / 8) of images (B, 3, H, W) in [-1, 1]."""
        return self._encoder(((images + 1) / 2).contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, 32, H / 8, W / 8)."""
        images: Tensor = self._decoder(latents.contiguous(memory_format=torch.channels_last))
        return images.clamp(0, 1) * 2 - 1

    @property
    def decoder_layers(self) -> nn.Sequential:
        """The decoder's layers in order, some a :class:`TeacherBlock`; not to be changed."""
        return self._decoder

    def to(self, device: torch.device | str) -> Teacher:
        """A copy on a device."""
        networks = copy.deepcopy(self._encoder), copy.deepcopy(self._decoder)
        return Teacher(self.folder, *networks, self.fingerprint, torch.device(device))


def load_teacher(folder: Path, device: torch.device | str = "cpu") -> Teacher:
    """The teacher of a folder; checked against the recording there, if there is one.

    Raises:
        UsageError: the folder lacks its files.
        SatcascadeError: they are damaged, of another architecture, or do not give what was recorded.
    """
    digest = hashlib.sha256()
    networks = []
    for name, network in zip(_FILES, (new_encoder(), new_decoder()), strict=True):
        path = Path(folder) / name
        if not path.is_file():
            raise UsageError(f"no teacher in {folder}: it needs {' and '.join(_FILES)}")
        try:
            network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
        except Exception as error:  # safetensors and torch raise many kinds
            raise SatcascadeError(f"{path} is damaged or no weights of TAEF2 ({one_line(error)})") from error
        digest.update(sha256_of_file(path).encode())
        networks.append(network)
    teacher = Teacher(Path(folder), networks[0], networks[1], digest.hexdigest()[:16], torch.device(device))
    if (Path(folder) / RECORDING).is_file():
        _check(teacher, load_file(Path(folder) / RECORDING, device=str(device)), Path(folder))
    return teacher


class TeacherCodec(Codec):
    """The teacher's latents of images at a reduced size, normalised.

    Args:
        teacher: the networks.
        reduction: images are averaged down by this first. Decoded images are enlarged bicubically.
        mean, std: (32,), of each channel of the teacher's latents.
    """

    channels = CHANNELS
    bounded = False

    def __init__(self, teacher: Teacher, reduction: int, mean: Tensor, std: Tensor):
        self.teacher, self.reduction = teacher, reduction
        self.factor = FACTOR * reduction
        self.mean, self.std = mean, std
        digest = hashlib.sha256(json.dumps([teacher.fingerprint, reduction]).encode())
        for values in (mean, std):
            digest.update(values.double().cpu().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def kept(
        cls,
        run: Path,
        teacher: Teacher,
        reduction: int,
        dataset: PreparedDataset,
        rows: npt.NDArray[np.int64],
        encoder: TinyAutoencoder | None = None,
    ) -> TeacherCodec:
        """The teacher with the statistics in a run's folder, which are measured if there are none.

        Args:
            run: the run's folder.
            teacher: the networks.
            reduction: see :class:`TeacherCodec`.
            dataset: whose images.
            rows: which of them to measure.
            encoder: one that imitates the teacher, whose statistics are taken instead.

        Raises:
            SatcascadeError: the statistics are damaged.
        """
        path = run / TEACHER_FILE
        if not path.exists():
            if encoder is None:
                mean, std = measured(teacher, reduction, dataset, rows)
            else:
                values = encoder.config.latents_mean, encoder.config.latents_std
                mean, std = (torch.tensor(each, dtype=torch.float64) for each in values)
            content = {"teacher": str(teacher.folder.resolve()), "reduction": reduction}
            write_json(path, content | {"mean": mean.tolist(), "std": std.tolist()})
        return cls(teacher, reduction, *_statistics(path, read_json(path, f"delete {path}")))

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> TeacherCodec:
        """The codec that a run's ``teacher.json`` describes: a stage can be trained on its latents.

        Raises:
            UsageError: the teacher is not where it was.
            SatcascadeError: the file or the teacher's weights are damaged.
        """
        remedy = "run 'satcascade train codec' with a teacher again"
        content = read_json(path, remedy, UsageError(f"no file {path}: {remedy}"))
        mean, std = _statistics(path, content)
        try:
            folder, reduction = Path(content["teacher"]), int(content["reduction"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, one_line(error), remedy) from error
        return cls(load_teacher(folder, device), reduction, mean, std)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents of images, see :meth:`Codec.encode`."""
        self._check(images, 3, self.factor)
        latents = self.teacher.encode(F.avg_pool2d(images, self.reduction))
        mean, std = self._matching(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Images of normalised latents, see :meth:`Codec.decode`."""
        images = self.decode_own(latents)
        if self.reduction > 1:
            images = F.interpolate(images, scale_factor=self.reduction, mode="bicubic").clamp(-1, 1)
        return images

    def decode_own(self, latents: Tensor) -> Tensor:
        """Images as the teacher decodes them, not enlarged: (B, 3, 8 h, 8 w) in [-1, 1].

        Args:
            latents: (B, 32, h, w), normalised.
        """
        self._check(latents, self.channels, 1)
        mean, std = self._matching(latents)
        return self.teacher.decode(latents * std + mean)

    def to(self, device: torch.device | str) -> TeacherCodec:
        """A copy on a device, see :meth:`Codec.to`."""
        return TeacherCodec(self.teacher.to(device), self.reduction, self.mean, self.std)

    def _matching(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (values.to(latents).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean, std


def _statistics(path: Path, content: dict[str, Any]) -> tuple[Tensor, Tensor]:
    remedy = f"delete {path}"
    try:
        mean, std = (torch.tensor(content[name], dtype=torch.float64) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, one_line(error), remedy) from error
    if not mean.shape == std.shape == (CHANNELS,):
        raise damaged(path, f"it has not {CHANNELS} means and deviations", remedy)
    return mean, std


@torch.inference_mode()
def measured(
    teacher: Teacher, reduction: int, dataset: PreparedDataset, rows: npt.NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Mean and deviation (32,) of each channel of a teacher's latents, float64.

    Args:
        teacher: the networks.
        reduction: images are averaged down by this first.
        dataset: whose images.
        rows: which of them; one after the other under each of the eight symmetries.
    """
    total = torch.zeros(CHANNELS, dtype=torch.float64)
    squares, count = total.clone(), 0
    for number, row in enumerate(rows):
        image = to_float(torch.from_numpy(dataset.images[[row]]), dataset.image_size // reduction)
        turned = dihedral(image, number % SYMMETRIES).contiguous()
        latents = teacher.encode(turned.to(teacher.device)).double().cpu()
        total += latents.sum((0, 2, 3))
        squares += latents.square().sum((0, 2, 3))
        count += latents[:, 0].numel()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=1e-12).sqrt()


@torch.inference_mode()
def _check(teacher: Teacher, recorded: dict[str, Tensor], folder: Path) -> None:
    try:
        latents = teacher.encode(recorded["image"].float() * 2 - 1)
        decoded = (teacher.decode(recorded["latent"].float()) + 1) / 2
        expected = recorded["latent"].float(), recorded["decoded"].float().clamp(0, 1)
    except (KeyError, RuntimeError) as error:
        raise SatcascadeError(f"{folder / RECORDING} is damaged ({one_line(error)}): delete it") from error
    for made, wanted in zip((latents, decoded), expected, strict=True):
        if made.shape != wanted.shape or (made - wanted).abs().max() > _TOLERANCE:
            raise SatcascadeError(
                f"the teacher in {folder} does not give what {RECORDING} holds: copy it again"
            )


class TeacherBlock(nn.Module):
    """Three convolutions beside the identity; a wide one first adds a branch normalised over the image."""

    def __init__(self, wide: bool = False):
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = (
            nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(_GROUPS, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )
            if wide
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (B, 64, H, W)."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _conv(inputs: int = WIDTH, outputs: int = WIDTH, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def new_encoder() -> nn.Sequential:
    """The teacher's encoder, with random weights."""
    layers: list[nn.Module] = [_conv(inputs=3), TeacherBlock()]
    for wide in (False, False, True):
        layers += [_conv(stride=2, bias=False), *(TeacherBlock(wide) for _ in range(3))]
    return nn.Sequential(*layers, _conv(outputs=CHANNELS))


def new_decoder() -> nn.Sequential:
    """The teacher's decoder, with random weights."""
    layers: list[nn.Module] = [_Bounded(), _conv(inputs=CHANNELS), nn.ReLU()]
    for wide in (True, False, False):
        layers += [*(TeacherBlock(wide) for _ in range(3)), nn.Upsample(scale_factor=2), _conv(bias=False)]
    return nn.Sequential(*layers, TeacherBlock(), _conv(outputs=3))
