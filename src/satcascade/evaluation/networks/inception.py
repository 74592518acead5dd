"""The Inception network of the Frechet inception distance, as ported from TensorFlow's 2015 graph.

Its weights are the file ``pt_inception-2015-12-05-6726825d.pth``, which torch-fidelity and pytorch-fid read.
Where that graph departs from the published architecture, so does this: average pools leave padding out of
their mean, and the last block pools by maximum. Reference: Heusel et al. 2017, "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium", https://arxiv.org/abs/1706.08500.

Ours, though torch-fidelity has the same network: with the same random weights its 768 and 2048 features are
equal to these to the last bit, but version 0.4.0 imports torchvision for other networks, and the torchvision
0.28.0 that installs from PyPI does not load beside a CPU build of torch 2.13.0 ("operator torchvision::nms
does not exist").
"""

from __future__ import annotations

import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from satcascade.errors import SatcascadeError, one_line
from satcascade.io.cache import cache_folder
from satcascade.io.files import atomic_write
from satcascade.io.hashing import sha256_of_file

WEIGHTS_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
INPUT_SIZE = 299
# The network's outputs by their width.
WIDTHS = (768, 2048)
_WEIGHTS_FILE = WEIGHTS_URL.rpartition("/")[2]
# The file name carries the first digits of its SHA-256.
_WEIGHTS_SHA256 = "6726825d"
_TIMEOUT_S = 30


class _Conv(NamedTuple):
    """A convolution: its name in the weights file, output channels, kernel and stride."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


# A path through a block: an optional pool, convolutions, and an optional fork of two at its end.
_Path = tuple["str | _Conv | tuple[_Conv, _Conv]", ...]


class _Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, spec: _Conv, padding: tuple[int, int]):
        super().__init__()
        self.conv = nn.Conv2d(channels, spec.channels, spec.kernel, spec.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """A block of parallel paths, their outputs concatenated."""

    def __init__(self, channels: int, *paths: _Path):
        super().__init__()
        self._paths = paths
        self.channels = 0
        for path in paths:
            width = channels
            for step in path:
                if isinstance(step, _Conv):
                    width = self._add(width, step)
                elif isinstance(step, tuple):
                    width = sum(self._add(width, end) for end in step)
            self.channels += width

    def _add(self, channels: int, spec: _Conv) -> int:
        # Strided convolutions of this network are not padded, all others keep the size.
        padding = (0, 0) if spec.stride > 1 else (spec.kernel[0] // 2, spec.kernel[1] // 2)
        self.add_module(spec.name, _Convolution(channels, spec, padding))
        return spec.channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for path in self._paths:
            y = x
            for step in path:
                if isinstance(step, _Conv):
                    y = self.get_submodule(step.name)(y)
                elif isinstance(step, tuple):
                    y = torch.cat([self.get_submodule(end.name)(y) for end in step], dim=1)
                else:
                    y = _pool(step, y)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


def _pool(kind: str, x: Tensor) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, 3, stride=2) if kind == "halve" else F.max_pool2d(x, 3, stride=1, padding=1)


def _block_35(channels: int, pooled: int) -> _Mixed:
    return _Mixed(
        channels,
        (_Conv("branch1x1", 64),),
        (_Conv("branch5x5_1", 48), _Conv("branch5x5_2", 64, (5, 5))),
        (
            _Conv("branch3x3dbl_1", 64),
            _Conv("branch3x3dbl_2", 96, (3, 3)),
            _Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        ("average", _Conv("branch_pool", pooled)),
    )


def _block_35_to_17(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        (_Conv("branch3x3", 384, (3, 3), 2),),
        (
            _Conv("branch3x3dbl_1", 64),
            _Conv("branch3x3dbl_2", 96, (3, 3)),
            _Conv("branch3x3dbl_3", 96, (3, 3), 2),
        ),
        ("halve",),
    )


def _block_17(channels: int, inner: int) -> _Mixed:
    row, column = (1, 7), (7, 1)
    return _Mixed(
        channels,
        (_Conv("branch1x1", 192),),
        (
            _Conv("branch7x7_1", inner),
            _Conv("branch7x7_2", inner, row),
            _Conv("branch7x7_3", 192, column),
        ),
        (
            _Conv("branch7x7dbl_1", inner),
            _Conv("branch7x7dbl_2", inner, column),
            _Conv("branch7x7dbl_3", inner, row),
            _Conv("branch7x7dbl_4", inner, column),
            _Conv("branch7x7dbl_5", 192, row),
        ),
        ("average", _Conv("branch_pool", 192)),
    )


def _block_17_to_8(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        (_Conv("branch3x3_1", 192), _Conv("branch3x3_2", 320, (3, 3), 2)),
        (
            _Conv("branch7x7x3_1", 192),
            _Conv("branch7x7x3_2", 192, (1, 7)),
            _Conv("branch7x7x3_3", 192, (7, 1)),
            _Conv("branch7x7x3_4", 192, (3, 3), 2),
        ),
        ("halve",),
    )


def _block_8(channels: int, pool: str) -> _Mixed:
    row, column = (1, 3), (3, 1)
    return _Mixed(
        channels,
        (_Conv("branch1x1", 320),),
        (
            _Conv("branch3x3_1", 384),
            (_Conv("branch3x3_2a", 384, row), _Conv("branch3x3_2b", 384, column)),
        ),
        (
            _Conv("branch3x3dbl_1", 448),
            _Conv("branch3x3dbl_2", 384, (3, 3)),
            (_Conv("branch3x3dbl_3a", 384, row), _Conv("branch3x3dbl_3b", 384, column)),
        ),
        (pool, _Conv("branch_pool", 192)),
    )


class Inception(nn.Module):
    """Pooled features of the network.

    Args:
        width: 2048 for the last features, 768 for those after the blocks at 17 x 17 positions.
    """

    def __init__(self, width: int = 2048):
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, _Conv("1a", 32, (3, 3), 2), (0, 0))
        self.Conv2d_2a_3x3 = _Convolution(32, _Conv("2a", 32, (3, 3)), (0, 0))
        self.Conv2d_2b_3x3 = _Convolution(32, _Conv("2b", 64, (3, 3)), (1, 1))
        self.Conv2d_3b_1x1 = _Convolution(64, _Conv("3b", 80), (0, 0))
        self.Conv2d_4a_3x3 = _Convolution(80, _Conv("4a", 192, (3, 3)), (0, 0))
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _block_35_to_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self._blocks = [name for name, _ in self.named_children() if name.startswith("Mixed")]
        if width == 2048:
            self.Mixed_7a = _block_17_to_8(768)
            self.Mixed_7b = _block_8(1280, "average")
            self.Mixed_7c = _block_8(2048, "max")
            self._blocks += ["Mixed_7a", "Mixed_7b", "Mixed_7c"]

    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: uint8 (B, 3, H, W), RGB.

        Returns:
            (B, width), averaged over positions.
        """
        x = (tensorflow_resize(images.float(), INPUT_SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        for name in self._blocks:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


def tensorflow_resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resizing as TensorFlow 1 does it: corners of pixels are matched, not their centres.

    Args:
        x: (B, C, H, W) float32.
        size: side of the result.

    Returns:
        (B, C, size, size).
    """
    for axis in (-1, -2):
        length = x.shape[axis]
        place = torch.arange(size, dtype=torch.float32, device=x.device) * (length / size)
        low = place.long()
        high = (low + 1).clamp_max(length - 1)
        share = (place - low).reshape(-1, *[1] * (-axis - 1))
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return x


def load_inception(width: int, weights: Path | None = None) -> Inception:
    """The network with its weights.

    Args:
        width: 768 or 2048.
        weights: a copy of the published file; None fetches it once, into the cache folder.

    Raises:
        SatcascadeError: the file is missing, cannot be fetched, or does not fit the network.
    """
    path = weights or _fetched()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on what is no weights file
        raise SatcascadeError(
            f"Inception weights {path} cannot be read ({one_line(error)}): download {WEIGHTS_URL} again"
        ) from error
    network = Inception(width)
    expected = network.state_dict()
    # The counters are of no use here, and not in all copies of the file.
    missing = [name for name in expected if not name.endswith("num_batches_tracked")]
    for name in missing:
        values = state.get(name) if isinstance(state, dict) else None
        if values is None or values.shape != expected[name].shape:
            raise SatcascadeError(
                f"{path} does not hold the Inception weights ({name} is missing or of another shape): "
                f"download {WEIGHTS_URL}"
            )
    network.load_state_dict({name: state[name] for name in missing}, strict=False)
    return network


def _fetched() -> Path:
    path = cache_folder() / _WEIGHTS_FILE
    if not path.is_file():
        try:
            with (
                urllib.request.urlopen(WEIGHTS_URL, timeout=_TIMEOUT_S) as response,
                atomic_write(path) as aside,
                aside.open("wb") as file,
            ):
                while block := response.read(1 << 20):
                    file.write(block)
                expected = response.headers.get("Content-Length")
                if expected and file.tell() < int(expected):
                    raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")
        except (OSError, HTTPException) as error:
            raise SatcascadeError(
                f"the Inception weights cannot be fetched ({one_line(error)}): give a copy of "
                f"{_WEIGHTS_FILE} with --inception-weights, or choose efficientnet-lite0, which is "
                "there offline"
            ) from error
    if not sha256_of_file(path).startswith(_WEIGHTS_SHA256):
        raise SatcascadeError(f"{path} is not the published file: delete it and run the same command again")
    return path
