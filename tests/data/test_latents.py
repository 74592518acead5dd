"""Stored latents: what is in them, resuming, and what is refused."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from forked import Forked
from satcascade.data.latents import StoredLatents, encode_latents, latents_folder, view_name
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import SYMMETRIES, dihedral, to_float
from satcascade.errors import SatcascadeError, UsageError
from satcascade.models.codec import PIXELS, LatentCodec
from tiny_codec import encode_until_killed, saved_codec, tiny_codec


@pytest.fixture
def data(prepared_synthetic: PreparedDataset, tmp_path: Path) -> PreparedDataset:
    """A copy of the prepared set, to keep latents beside."""
    shutil.copytree(prepared_synthetic.path, tmp_path / "data", ignore=shutil.ignore_patterns("latents"))
    return PreparedDataset.open(tmp_path / "data")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".npy"}


def test_latents_are_those_of_the_turned_images(data: PreparedDataset) -> None:
    codec = tiny_codec()
    encode_latents(data, codec, 32, (0, 5), progress=False)
    latents = StoredLatents.open(data, codec, 32, (0, 5))
    assert latents.shape == (4, 8, 8)
    images = to_float(torch.from_numpy(data.images[:8]), 32)
    for number in (0, 5):
        expected = codec.encode(dihedral(images, number).contiguous())
        # Stored as float16: eleven bits.
        torch.testing.assert_close(
            torch.from_numpy(latents.views[number][:8].astype(np.float32)), expected, rtol=2**-11, atol=1e-6
        )


def test_encoding_twice_gives_the_same_bytes(data: PreparedDataset) -> None:
    folder = encode_latents(data, tiny_codec(), 32, progress=False)
    first = contents(folder)
    assert sorted(first) == [view_name(number) for number in range(SYMMETRIES)]
    shutil.rmtree(folder)
    assert contents(encode_latents(data, tiny_codec(), 32, progress=False)) == first


def test_a_killed_run_is_resumed_to_the_same_bytes(data: PreparedDataset, tmp_path: Path) -> None:
    vae = saved_codec(tmp_path / "vae")
    codec = LatentCodec.load(Path(vae))
    folder = encode_latents(data, codec, 32, (0, 1), progress=False)
    expected = contents(folder)
    shutil.rmtree(folder)
    assert Forked(encode_until_killed, data.path, vae, 32, (0, 1)).wait() == -signal.SIGKILL
    # 40 images are five batches: the kill came in the second view.
    left = (folder / view_name(0)).stat().st_mtime_ns
    assert not (folder / view_name(1)).exists()
    with pytest.raises(UsageError, match="lacks view 1"):
        StoredLatents.open(data, codec, 32, (0, 1))
    assert contents(encode_latents(data, codec, 32, (0, 1), progress=False)) == expected
    assert (folder / view_name(0)).stat().st_mtime_ns == left


def test_latents_of_another_codec_are_refused(data: PreparedDataset) -> None:
    encode_latents(data, tiny_codec(), 32, (0,), progress=False)
    there = latents_folder(data, tiny_codec(), 32).name
    with pytest.raises(UsageError, match=f"has no latents .* by codec .*it has {there}"):
        StoredLatents.open(data, tiny_codec(seed=1), 32, (0,))
    with pytest.raises(UsageError, match="of 64 px"):
        StoredLatents.open(data, tiny_codec(), 64, (0,))


@pytest.mark.parametrize("keep", [10, 200, -1])
def test_latents_cut_short_are_refused(data: PreparedDataset, keep: int) -> None:
    codec = tiny_codec()
    folder = encode_latents(data, codec, 32, (0,), progress=False)
    content = (folder / view_name(0)).read_bytes()
    (folder / view_name(0)).write_bytes(content[:keep])
    with pytest.raises(SatcascadeError, match="damaged or cut short"):
        StoredLatents.open(data, codec, 32, (0,))


def test_latents_of_a_changed_set_are_refused(data: PreparedDataset) -> None:
    codec = tiny_codec()
    encode_latents(data, codec, 32, (0,), progress=False)
    data.manifest["hash"] = "0" * 64
    with pytest.raises(SatcascadeError, match="latents of another set"):
        StoredLatents.open(data, codec, 32, (0,))


@pytest.mark.parametrize("size", [0, 24, 2])
def test_sizes_that_do_not_fit_are_refused(data: PreparedDataset, size: int) -> None:
    with pytest.raises(UsageError, match=f"images of {size} px are not possible"):
        encode_latents(data, tiny_codec(), size, (0,), progress=False)


def test_the_better_decoder_keeps_the_latents(data: PreparedDataset) -> None:
    codec = tiny_codec()
    encode_latents(data, codec, 32, (0,), progress=False)
    with torch.no_grad():
        for value in codec.vae.decoder.parameters():
            value.add_(0.1)
    better = LatentCodec(codec.vae)
    StoredLatents.open(data, better, 32, (0,))
    with torch.no_grad():
        next(iter(codec.vae.encoder.parameters())).add_(0.1)
    with pytest.raises(UsageError, match="has no latents"):
        StoredLatents.open(data, LatentCodec(codec.vae), 32, (0,))


def test_pixels_come_back_as_they_were() -> None:
    images: Tensor = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(PIXELS.decode(PIXELS.encode(images)), images)
