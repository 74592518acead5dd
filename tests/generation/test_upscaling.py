"""Images of the user's own, enlarged to a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.generation.upscaling import ENLARGED, UpscaleRequest, upscale
from satcascade.io.hashing import sha256_of_file
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.sampling.scene import SceneSettings
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline, tiny_unet

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array:DeprecationWarning", "ignore:.*geotransform, gcps, or rpcs"
)


@pytest.fixture
def pipeline(tiny_model: Path) -> CascadePipeline:
    return CascadePipeline.from_pretrained(tiny_model)


def picture(height: int = 20, width: int = 24, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def run(pipeline, images, out, **changes):
    request = UpscaleRequest(images, out, sr=StageSettings(2), **changes)
    return upscale(pipeline, request, progress=False)


# From Python


def pipelines(encoder: str) -> list[CascadePipeline]:
    sr = tiny_unet(1, sample_size=16, low_res=True, self_attention=False, in_channels=6, patch_size=2)
    return [tiny_pipeline(encoder), tiny_latent_pipeline(encoder, sr_unet=sr)]


@pytest.mark.parametrize("size", [(16, 16), (7, 40), (33, 50)])
def test_an_image_of_any_size_is_twice_as_large(tiny_text_encoder, size):
    for pipeline in pipelines(tiny_text_encoder):
        made = pipeline.upscale(picture(*(side // 4 * 4 for side in size)).resize(size[::-1]))
        assert made.size == (2 * size[1], 2 * size[0])
        assert levels(made).std() > 3


def test_the_result_follows_image_seed_and_caption_and_not_the_batch(tiny_text_encoder):
    pipeline = tiny_pipeline(tiny_text_encoder)
    made = levels(pipeline.upscale(picture(), seed=1))
    assert np.abs(made - levels(pipeline.upscale(picture(), seed=1, batch_size=1))).max() <= 1
    others = [
        pipeline.upscale(picture(), seed=2),
        pipeline.upscale(picture(seed=1), seed=1),
        pipeline.upscale(picture(), "a pond", seed=1),
        pipeline.upscale(picture(), seed=1, low_res_log_snr=-4.0),
    ]
    for other in others:
        assert np.abs(made - levels(other)).max() > 8


def test_a_tile_is_enlarged_as_the_cascade_enlarges_its_base_images(tiny_text_encoder, monkeypatch):
    """One window: the network is given the image as the second stage of text to image is."""
    pipeline = tiny_pipeline(tiny_text_encoder)
    calls = []
    forward = pipeline.sr_unet.forward

    def watched(sample, log_snr, text, low_res, low_res_log_snr):
        calls.append((low_res, low_res_log_snr, text.pooled))
        return forward(sample, log_snr, text, low_res, low_res_log_snr)

    monkeypatch.setattr(pipeline.sr_unet, "forward", watched)
    tile = picture(16, 16)
    # So little noise that the image itself is seen.
    pipeline.upscale(tile, low_res_log_snr=30.0)
    low_res, level, _ = calls[0]
    expected = np.asarray(tile.resize((32, 32), Image.Resampling.BILINEAR)) / 127.5 - 1
    assert low_res.shape == (1, 3, 32, 32)
    assert float(level) == 30.0
    assert np.abs(low_res[0].permute(1, 2, 0).numpy() - expected).max() < 0.02


def test_a_model_of_one_stage_names_one_that_can(tiny_text_encoder):
    with pytest.raises(
        UsageError, match=r"no super-resolution stage .* such as --model rsdiff or one trained"
    ):
        tiny_latent_pipeline(tiny_text_encoder).upscale(picture())


# To a folder


def test_a_folder_of_images_with_the_record_of_each(pipeline, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    picture().save(source / "b.png")
    picture(seed=1).save(source / "a.jpg")
    (source / "notes.txt").write_text("not an image")
    report = run(pipeline, source, tmp_path / "out")
    assert (report.made, report.kept) == (2, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "a.png", "b.png", "manifest.jsonl", "upscale.json"
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (48, 40)
        assert image.text["Notice"] == ENLARGED
        assert image.text["Source"] == f"b.png sha256:{sha256_of_file(source / 'b.png')}"
        settings = json.loads(image.text["Settings"])
    assert settings["settings"]["sr"]["steps"] == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [(line["file"], line["source"]) for line in lines] == [("a.png", "a.jpg"), ("b.png", "b.png")]
    again = pipeline.upscale(picture(), seed=lines[1]["seed"], settings=StageSettings(2))
    assert np.array_equal(levels(again), levels(Image.open(tmp_path / "out" / "b.png")))


def test_a_run_goes_on_with_what_is_missing_new_or_changed(pipeline, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    picture().save(source / "a.png")
    picture(seed=1).save(source / "b.png")
    run(pipeline, source, tmp_path / "out")
    kept = (tmp_path / "out" / "a.png").read_bytes()
    (tmp_path / "out" / "a.png").write_bytes(kept[:-20])
    picture(seed=2).save(source / "b.png")
    picture(seed=3).save(source / "c.png")
    report = run(pipeline, source, tmp_path / "out")
    assert (report.made, report.kept) == (3, 0)
    assert (tmp_path / "out" / "a.png").read_bytes() == kept
    assert run(pipeline, source, tmp_path / "out").kept == 3
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        run(pipeline, source, tmp_path / "out", seed=1)
    with pytest.raises(UsageError, match=r"overlap was 0\.5, now 0\.25"):
        run(pipeline, source, tmp_path / "out", scene=SceneSettings(overlap=0.25))


def test_a_geotiff_stays_one(pipeline, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.asarray(picture()).copy()
    pixels[:6, :6] = 0
    transform = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
    profile = {"driver": "GTiff", "count": 3, "height": 20, "width": 24, "dtype": "uint8", "nodata": 0}
    place = {"crs": "EPSG:32633", "transform": transform}
    with rasterio.open(tmp_path / "tile.TIF", "w", **profile, **place) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
    assert run(pipeline, tmp_path / "tile.TIF", tmp_path / "out").made == 1
    with rasterio.open(tmp_path / "out" / "tile.tif") as made:
        assert made.transform == rasterio.Affine(5.0, 0.0, 500_000.0, 0.0, -5.0, 4_000_000.0)
        assert made.crs.to_epsg() == 32633
        assert made.nodata == 0
        assert (made.read()[:, :12, :12] == 0).all()
        assert (made.dataset_mask()[12:, 12:] == 255).all()
        assert made.tags()["Notice"] == ENLARGED
    assert run(pipeline, tmp_path / "tile.TIF", tmp_path / "out").kept == 1
    (line,) = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert (line["file"], line["source"]) == ("tile.tif", "tile.TIF")


def test_bad_images_are_refused_before_anything_is_made(pipeline, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        run(pipeline, source, tmp_path / "out")
    picture().save(source / "a.png")
    picture().convert("L").save(source / "b.png")
    with pytest.raises(UsageError, match=r"b\.png has one band"):
        run(pipeline, source, tmp_path / "out")
    picture().save(source / "b.png")
    picture().save(source / "a.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg and a\.png would both become a\.png"):
        run(pipeline, source, tmp_path / "out")
    with pytest.raises(UsageError, match="would be written over"):
        run(pipeline, source / "b.png", source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"caption": " "}, {"seed": -1}])
def test_impossible_requests_are_refused(tmp_path, changes):
    with pytest.raises(UsageError):
        UpscaleRequest(tmp_path, tmp_path / "out", **changes)
