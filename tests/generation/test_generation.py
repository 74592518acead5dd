"""Many images to a folder: seeds, resume, shards, provenance, and what a fault leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satcascade.config.stage_settings import StageSettings
from satcascade.data.captions import Captions, slug
from satcascade.errors import SatcascadeError, UsageError
from satcascade.generation.jobs import image_seed
from satcascade.generation.provenance import NOTICE
from satcascade.generation.run import GenerationRequest, generate
from satcascade.generation.shard import Shard
from satcascade.io.locks import exclusive
from satcascade.pipelines.cascade import CascadePipeline
from tiny_cascade import fill, tiny_pipeline, tiny_unet

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

TEXTS = ["a pond in the forest", "desert", "Houses, trees & Café of the town"]


@pytest.fixture
def pipeline(tiny_model: Path) -> CascadePipeline:
    return CascadePipeline.from_pretrained(tiny_model)


def run(pipeline, out, **changes):
    arguments = {"captions": Captions.of(TEXTS), "per_caption": 3, "seed": 7, "batch_size": 4}
    return generate(pipeline, GenerationRequest(out=out, **{**arguments, **changes}), progress=False)


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder but the locks, of which each shard leaves one."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def manifest_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("0*.png"))}


def assert_same_pictures(left: Path, right: Path) -> None:
    left_pixels, right_pixels = pixels(left), pixels(right)
    assert left_pixels.keys() == right_pixels.keys()
    for name, picture in left_pixels.items():
        assert np.abs(picture - right_pixels[name]).max() <= 1, name


# What a run leaves


def test_a_run_leaves_images_captions_manifest_grid_and_settings(pipeline, tmp_path):
    report = run(pipeline, tmp_path / "out")
    assert (report.made, report.kept, report.total, report.complete) == (9, 0, 9, True)
    names = [f"{index:04d}_{name}.png" for index, name in enumerate(
        ["a-pond-in-the-forest"] * 3 + ["desert"] * 3 + ["houses-trees-cafe-of-the-town"] * 3
    )]  # fmt: skip
    assert sorted(files(tmp_path / "out")) == sorted(
        [*names, "captions.txt", "manifest.jsonl", "_grid.png", "run.json"]
    )
    locks = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.lock")}
    assert locks == {".lock": b"", ".shard-1-of-1.lock": b""}
    lines = (tmp_path / "out" / "captions.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [text for text in TEXTS for _ in range(3)] + [""]
    manifest = manifest_of(tmp_path / "out")
    assert [line["file"] for line in manifest] == names
    assert [line["caption"] for line in manifest] == lines[:-1]
    assert [line["seed"] for line in manifest] == [image_seed(7, index) for index in range(9)]
    for line in manifest:
        assert line["model"] == "tiny"
        assert line["model_hash"] == pipeline.weights_hash
        assert line["settings"]["base"]["steps"] == 4
        assert line["settings"]["sr"]["guidance"] == 1.0
        assert line["settings"]["precision"] == "float32"
        assert set(line["versions"]) == {"satcascade", "torch", "diffusers"}
    with Image.open(tmp_path / "out" / "_grid.png") as grid:
        # Three columns of three pictures of 32 pixels, and gaps between them.
        assert grid.width == grid.height == 3 * 32 + 2 * 4


def test_the_manifest_makes_each_image_again(pipeline, tmp_path):
    run(pipeline, tmp_path)
    for entry in manifest_of(tmp_path)[::4]:
        settings = entry["settings"]
        again = pipeline(
            entry["caption"],
            seeds=[entry["seed"]],
            num_inference_steps=settings["base"]["steps"],
            guidance_scale=settings["base"]["guidance"],
            sr_num_inference_steps=settings["sr"]["steps"],
            sr_guidance_scale=settings["sr"]["guidance"],
        ).images[0]
        made = np.asarray(Image.open(tmp_path / entry["file"])).astype(int)
        assert np.abs(made - np.asarray(again)).max() <= 1


def test_every_png_says_where_it_comes_from(pipeline, tmp_path):
    run(pipeline, tmp_path)
    with Image.open(tmp_path / "0006_houses-trees-cafe-of-the-town.png") as image:
        text = dict(image.text)
    assert text["Prompt"] == "Houses, trees & Café of the town"
    assert text["Seed"] == str(image_seed(7, 6))
    assert text["Model"] == "tiny"
    assert text["Notice"] == NOTICE
    assert "no real place" in NOTICE
    assert text["Software"].startswith("satcascade ")
    settings = json.loads(text["Settings"])
    assert settings["index"] == 6
    assert settings["model_hash"] == pipeline.weights_hash
    with Image.open(tmp_path / "_grid.png") as grid:
        assert grid.text["Notice"] == NOTICE


def test_the_grid_shows_the_first_64_images(pipeline, tmp_path):
    run(pipeline, tmp_path, per_caption=30, stop_at="base", stages={"base": StageSettings(1)}, batch_size=30)
    with Image.open(tmp_path / "_grid.png") as grid:
        assert grid.width == 8 * 16 + 7 * 4
        corner = np.asarray(grid)[-16:, -16:]
    last = Image.open(tmp_path / "0063_houses-trees-cafe-of-the-town.png")
    np.testing.assert_array_equal(corner, np.asarray(last))


def test_base_images_only(pipeline, tmp_path):
    run(pipeline, tmp_path / "base", stop_at="base")
    assert all(picture.shape == (16, 16, 3) for picture in pixels(tmp_path / "base").values())
    settings = json.loads((tmp_path / "base" / "run.json").read_text())["settings"]
    assert "sr" not in settings


@settings(max_examples=40)
@given(st.text(max_size=80))
def test_slugs_are_short_and_safe(text):
    found = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", found)
    assert len(found) <= 48


def test_slugs_are_cut_between_words():
    assert slug("many buildings and some green trees are in a dense residential area") == (
        "many-buildings-and-some-green-trees-are-in-a"
    )
    assert slug("x" * 60) == "x" * 48
    assert slug("池") == "image"


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_image_seeds_are_the_documented_hash(seed, index):
    digest = hashlib.sha256(f"{seed}/image/{index}".encode()).digest()
    assert image_seed(seed, index) == int.from_bytes(digest, "big") >> 193
    assert 0 <= image_seed(seed, index) < 2**63


# Same seed, same picture


@pytest.mark.parametrize("scheduler", ["dpm++", "ddpm"])
def test_batch_size_changes_nothing(tiny_model, tmp_path, scheduler):
    from satcascade.zoo import load_pipeline

    pipeline = load_pipeline(tiny_model, device="cpu", scheduler=scheduler)
    for size in (1, 3, 8):
        run(pipeline, tmp_path / str(size), batch_size=size)
    assert_same_pictures(tmp_path / "1", tmp_path / "3")
    assert_same_pictures(tmp_path / "1", tmp_path / "8")
    one, eight = (tmp_path / size / "manifest.jsonl" for size in "18")
    assert one.read_bytes() == eight.read_bytes()


def test_other_seeds_and_more_images_do_what_they_say(pipeline, tmp_path):
    run(pipeline, tmp_path / "a", captions=Captions.of(TEXTS[:1]), per_caption=2)
    run(pipeline, tmp_path / "b", captions=Captions.of(TEXTS[:1]), per_caption=4)
    run(pipeline, tmp_path / "c", captions=Captions.of(TEXTS[:1]), per_caption=2, seed=8)
    a, b, c = (list(pixels(tmp_path / name).values()) for name in "abc")
    for index in range(2):
        assert np.abs(a[index] - b[index]).max() <= 1
        assert np.abs(a[index] - c[index]).max() > 10


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_unite_to_the_single_run(pipeline, tmp_path, shards):
    run(pipeline, tmp_path / "single", batch_size=2)
    for number in reversed(range(1, shards + 1)):
        report = run(pipeline, tmp_path / "union", batch_size=2, shard=Shard(number, shards))
        assert report.complete == (number == 1)
        if number > 1:
            part = (tmp_path / "union" / f"manifest.shard-{number}-of-{shards}.jsonl").read_text()
            assert len(part.splitlines()) == report.made
            assert not (tmp_path / "union" / "manifest.jsonl").exists()
    assert files(tmp_path / "union") == files(tmp_path / "single")


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 12))
def test_shards_share_out_every_image_once_and_cut_the_run_alike(total, batch_size, count):
    batches = [Shard(number, count).batches(total, batch_size) for number in range(1, count + 1)]
    assert sorted(index for shard in batches for batch in shard for index in batch) == list(range(total))
    assert all(len(batch) <= batch_size for shard in batches for batch in shard)
    if total >= batch_size * count:
        single = Shard().batches(total, batch_size)
        assert (
            sorted((batch for shard in batches for batch in shard), key=lambda batch: batch.start) == single
        )
    if total >= count**2:
        assert all(batches)


# Going on


def test_the_same_command_again_keeps_everything(pipeline, tmp_path):
    run(pipeline, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("0*.png")}
    report = run(pipeline, tmp_path)
    assert (report.made, report.kept, report.complete) == (0, 9, True)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("0*.png")} == before


def test_missing_and_damaged_images_are_made_again_to_the_byte(pipeline, tmp_path):
    run(pipeline, tmp_path)
    expected = files(tmp_path)
    pictures = sorted(tmp_path.glob("0*.png"))
    pictures[1].unlink()
    pictures[4].write_bytes(expected[pictures[4].name][:-30])
    pictures[5].write_bytes(expected[pictures[5].name][:100])
    pictures[6].write_bytes(b"")
    changed = bytearray(expected[pictures[7].name])
    changed[-100] ^= 1
    pictures[7].write_bytes(bytes(changed))
    # Another image of the run under this name is not this image.
    pictures[8].write_bytes(expected[pictures[0].name])
    (tmp_path / "manifest.jsonl").unlink()
    report = run(pipeline, tmp_path)
    assert (report.made, report.kept) == (6, 3)
    assert files(tmp_path) == expected


def test_going_on_with_another_batch_size_or_shard_is_allowed(pipeline, tmp_path):
    run(pipeline, tmp_path / "single")
    run(pipeline, tmp_path / "mixed", shard=Shard(1, 2))
    report = run(pipeline, tmp_path / "mixed", batch_size=2)
    assert 0 < report.kept < 9
    assert report.complete
    assert_same_pictures(tmp_path / "single", tmp_path / "mixed")
    assert (tmp_path / "mixed" / "manifest.jsonl").read_bytes() == (
        tmp_path / "single" / "manifest.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 8}, "seed was 7, now 8"),
        ({"stages": {"base": StageSettings(5)}}, "base.steps was 4, now 5"),
        ({"stages": {"sr": StageSettings(guidance=2.0)}}, "sr.guidance was 1.0, now 2.0"),
        ({"per_caption": 4}, "images was 9, now 12"),
        ({"captions": Captions.of(["a pond", "desert", "town"])}, "other captions"),
        ({"stop_at": "base"}, "low_res_log_snr was 3.0, now None"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(pipeline, tmp_path, changes, difference):
    run(pipeline, tmp_path)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"made with other settings ({difference})")):
        run(pipeline, tmp_path, **changes)
    assert files(tmp_path) == before


def test_other_weights_precision_or_sampler_are_refused(pipeline, tmp_path, tiny_text_encoder):
    run(pipeline, tmp_path)
    with pytest.raises(UsageError, match="other model weights"):
        run(tiny_pipeline(tiny_text_encoder, unet=tiny_unet(5)), tmp_path)
    pipeline.precision = "bfloat16"
    with pytest.raises(UsageError, match="precision was float32, now bfloat16"):
        run(pipeline, tmp_path)
    pipeline.precision = "float32"
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, solver_order=3)
    with pytest.raises(UsageError, match=r"base\.scheduler_config was"):
        run(pipeline, tmp_path)


def test_a_folder_of_something_else_is_left_alone(pipeline, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        run(pipeline, tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"years of work"}
    assert not list(tmp_path.glob("*.lock"))


def test_a_damaged_description_is_refused(pipeline, tmp_path):
    run(pipeline, tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SatcascadeError, match=r"run\.json is damaged"):
        run(pipeline, tmp_path)


def test_two_processes_do_not_make_the_same_shard_at_once(pipeline, tmp_path):
    with (
        exclusive(tmp_path / "out" / ".shard-1-of-1.lock", "the first"),
        pytest.raises(SatcascadeError, match="another process is making shard 1/1"),
    ):
        run(pipeline, tmp_path / "out")
    assert run(pipeline, tmp_path / "out").complete


def test_a_full_disk_stops_the_run_whole_and_it_goes_on_later(pipeline, small_disk, tmp_path):
    run(pipeline, tmp_path / "expected")
    fill(small_disk, leaving=40_000)
    with pytest.raises(SatcascadeError, match="no space left on the device"):
        run(pipeline, small_disk / "out")
    stopped = files(small_disk / "out")
    assert 0 < sum(name.startswith("0") for name in stopped) < 9
    expected = files(tmp_path / "expected")
    assert all(expected[name] == content for name, content in stopped.items())
    (small_disk / "ballast").unlink()
    assert run(pipeline, small_disk / "out").complete
    assert files(small_disk / "out") == expected


def test_out_of_memory_names_the_way_out(pipeline, tmp_path, monkeypatch):
    import torch

    def starved(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline.unet, "forward", starved)
    with pytest.raises(SatcascadeError, match="4 images at once: lower --batch-size"):
        run(pipeline, tmp_path)


# Captions


def test_captions_from_a_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufeffa pond\r\n  two   words \nCafé\n\n".encode())
    assert Captions.from_file(path).texts == ("a pond", "two words", "Café")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a pond\n\ndesert\n", "line 2 of .* is empty"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"caf\xe9\n", "cannot be read"),
    ],
)
def test_bad_caption_files_are_refused(tmp_path, content, message):
    (tmp_path / "captions.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        Captions.from_file(tmp_path / "captions.txt")


def test_captions_of_a_prepared_set(prepared_synthetic):
    captions = Captions.from_data(prepared_synthetic.path, "test")
    rows = [prepared_synthetic.records[row] for row in prepared_synthetic.indices("test")]
    assert captions.rows == tuple(record.filename for record in rows)
    assert captions.texts == tuple(" ".join(record.captions[0].split()) for record in rows)
    third = Captions.from_data(prepared_synthetic.path, "test", 3)
    assert third.texts == tuple(" ".join(record.captions[2].split()) for record in rows)
    with pytest.raises(UsageError, match="no caption 6"):
        Captions.from_data(prepared_synthetic.path, "test", 6)
    with pytest.raises(UsageError, match="no split 'holdout'"):
        Captions.from_data(prepared_synthetic.path, "holdout")


def test_the_draw_of_captions_is_that_of_the_published_evaluation(prepared_synthetic):
    rows = prepared_synthetic.indices("train")
    drawn = Captions.from_data(prepared_synthetic.path, "train", draw=5)
    # What pandas 3.1 gives: DataFrame({"row": range(32)}).sample(n=5, random_state=17)
    places = [0, 18, 23, 11, 5]
    assert len(rows) == 32
    assert drawn.rows == tuple(prepared_synthetic.records[rows[place]].filename for place in places)
    whole = Captions.from_data(prepared_synthetic.path, "train", draw=len(rows))
    assert whole.rows[:5] == drawn.rows
    assert len(set(whole.rows)) == len(rows)
    other = Captions.from_data(prepared_synthetic.path, "train", draw=5, draw_seed=18)
    assert other.rows != drawn.rows
    with pytest.raises(UsageError, match=f"cannot draw 999 of the {len(rows)} rows"):
        Captions.from_data(prepared_synthetic.path, "train", draw=999)


def test_the_contact_sheet_has_the_columns_asked_for(pipeline, tmp_path):
    for columns, width, height in ((9, 9, 1), (2, 2, 5), (40, 9, 1)):
        run(pipeline, tmp_path / str(columns), columns=columns)
        with Image.open(tmp_path / str(columns) / "_grid.png") as grid:
            assert grid.size == (width * 36 - 4, height * 36 - 4)


def test_a_prepared_set_brings_its_embeddings_if_its_encoder_is_the_models(
    prepared_synthetic, tiny_text_encoder, tmp_path, monkeypatch
):
    captions = Captions.from_data(prepared_synthetic.path, "test")
    fingerprint = prepared_synthetic.manifest["encoder"]["fingerprint"]
    pipeline = tiny_pipeline(tiny_text_encoder, text_encoder_fingerprint=fingerprint)
    encoded = tiny_pipeline(tiny_text_encoder)
    monkeypatch.setattr(pipeline, "encode", None)
    run(pipeline, tmp_path / "cached", captions=captions, per_caption=1)
    run(encoded, tmp_path / "encoded", captions=Captions.of(captions.texts), per_caption=1)
    manifest = [
        json.loads(line) for line in (tmp_path / "cached" / "manifest.jsonl").read_text().splitlines()
    ]
    assert [line["row"] for line in manifest] == list(captions.rows)
    assert manifest[0]["settings"]["text_embeddings"] == "cached float16"
    cached, fresh = pixels(tmp_path / "cached"), pixels(tmp_path / "encoded")
    assert cached.keys() == fresh.keys()
    assert max(np.abs(cached[name] - fresh[name]).max() for name in cached) <= 8

    other = tiny_pipeline(tiny_text_encoder, text_encoder_fingerprint="0" * 16)
    with pytest.warns(UserWarning, match="not the one this model was trained with"):
        run(other, tmp_path / "other", captions=captions, per_caption=1)
    assert manifest_of(tmp_path / "other")[0]["settings"]["text_embeddings"] == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_caption": 0}, "images per caption: 0"),
        ({"batch_size": -1}, "batch size: -1"),
        ({"stages": {"base": StageSettings(0)}}, "base steps: 0"),
        ({"stages": {"sr": StageSettings(-4)}}, "super-resolution steps: -4"),
        ({"stages": {"base": StageSettings(guidance=-1.0)}}, "guidance: -1.0"),
        ({"stages": {"sr": StageSettings(guidance=float("nan"))}}, "sr guidance: nan"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"stop_at": "sr"}, "cannot stop at 'sr'"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        GenerationRequest(Captions.of(["a pond"]), tmp_path, **changes)


@pytest.mark.parametrize("text", ["3/2", "0/2", "a/b", "2", "1/0", "-1/2"])
def test_impossible_shards_are_refused(text):
    with pytest.raises(UsageError, match="shard"):
        Shard.parse(text)
