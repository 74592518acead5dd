"""A teacher: TAEF2, the tiny distillation of FLUX.2's autoencoder (madebyollin/taesd), for training only.

Images in [0, 1], (B, 3, H, W), H and W divisible by 8; latents (B, 32, H / 8, W / 8), used as they are. Its
weights are two safetensors files, ``encoder.safetensors`` and ``decoder.safetensors``, under their own
parameter names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.io.hashing import sha256_of_file

CHANNELS = 32
FACTOR = 8
_WIDTH = 64
_GROUPS = 4
_FILES = ("encoder.safetensors", "decoder.safetensors")
RECORDING = "recording.safetensors"
# Recordings are of float32 on another machine.
_TOLERANCE = 2e-2


class Teacher:
    """The teacher's encoder and decoder, frozen.

    Attributes:
        fingerprint: 16 hexadecimal digits over its weight files.
        parameters: how many it has.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, fingerprint: str, device: torch.device):
        # Any: the type of `to` lacks the memory format.
        networks: list[Any] = [encoder, decoder]
        self._encoder, self._decoder = (
            network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
            for network in networks
        )
        self.fingerprint = fingerprint
        self.parameters = sum(value.numel() for network in networks for value in network.parameters())

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, 32, H / 8, W / 8) of images (B, 3, H, W) in [-1, 1]."""
        return self._encoder(((images + 1) / 2).contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, 32, H / 8, W / 8)."""
        images: Tensor = self._decoder(latents.contiguous(memory_format=torch.channels_last))
        return images.clamp(0, 1) * 2 - 1


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
    teacher = Teacher(networks[0], networks[1], digest.hexdigest()[:16], torch.device(device))
    if (Path(folder) / RECORDING).is_file():
        _check(teacher, load_file(Path(folder) / RECORDING, device=str(device)), Path(folder))
    return teacher


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


class _Block(nn.Module):
    """Three convolutions beside the identity; a wide one first adds a branch normalised over the image."""

    def __init__(self, wide: bool = False):
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = (
            nn.Sequential(
                nn.Conv2d(_WIDTH, 4 * _WIDTH, 1, bias=False),
                nn.GroupNorm(_GROUPS, 4 * _WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * _WIDTH, _WIDTH, 1, bias=False),
            )
            if wide
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _conv(inputs: int = _WIDTH, outputs: int = _WIDTH, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def new_encoder() -> nn.Sequential:
    """The teacher's encoder, with random weights."""
    layers: list[nn.Module] = [_conv(inputs=3), _Block()]
    for wide in (False, False, True):
        layers += [_conv(stride=2, bias=False), *(_Block(wide) for _ in range(3))]
    return nn.Sequential(*layers, _conv(outputs=CHANNELS))


def new_decoder() -> nn.Sequential:
    """The teacher's decoder, with random weights."""
    layers: list[nn.Module] = [_Bounded(), _conv(inputs=CHANNELS), nn.ReLU()]
    for wide in (True, False, False):
        layers += [*(_Block(wide) for _ in range(3)), nn.Upsample(scale_factor=2), _conv(bias=False)]
    return nn.Sequential(*layers, _Block(), _conv(outputs=3))
