"""Checkpoints of imagen-pytorch's trainer: what is made of them, what is refused, and the way back."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from satcascade import cli
from satcascade.config.preset import load_preset
from satcascade.errors import SatcascadeError, UsageError
from satcascade.interop import imagen_checkpoint as checkpoints
from satcascade.interop import released
from satcascade.interop.imagen_checkpoint import convert, export
from satcascade.interop.imagen_names import to_imagen_names
from satcascade.interop.released import Release
from satcascade.io.cache import cache_folder
from satcascade.models.registry import build_model
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.pipelines.cascade import CascadePipeline

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

DATA = Path(__file__).parents[1] / "data"
PEER = os.environ.get("SATCASCADE_PEER_PYTHON")
# What imagen-pytorch calls the options of the tiny networks.
IMAGEN = {
    "dim": 8,
    "cond_dim": 8,
    "dim_mults": [1, 2],
    "num_resnet_blocks": 1,
    "layer_attns": [False, True],
    "layer_cross_attns": [False, True],
    "attn_heads": 2,
    "attn_dim_head": 4,
    "attn_pool_num_latents": 4,
    "text_embed_dim": 16,
    "max_text_len": 8,
}
TINY = {
    "architecture": "rsdiff",
    "width": 8,
    "cond_dim": 8,
    "width_multipliers": [1, 2],
    "blocks": 1,
    "self_attention": [False, True],
    "cross_attention": [False, True],
    "heads": 2,
    "head_dim": 4,
    "text_latents": 4,
    "text_dim": 16,
    "max_text_len": 8,
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, tiny_text_encoder: str) -> str:
    """A preset file of RSDiff's kind, of 16 and 32 pixels."""
    content = load_preset("rsdiff1.5").model_dump(mode="json") | {"text_encoder": tiny_text_encoder}
    content["name"] = "tiny"
    content["base"]["model"] = {**TINY, "sample_size": 16}
    content["sr"]["model"] = {**TINY, "sample_size": 32, "low_res": True}
    content["sampling"]["base"]["steps"] = content["sampling"]["sr"]["steps"] = 2
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def stage_weights(preset: str, seed: int) -> list[dict[str, Tensor]]:
    """Random weights of both stages, by imagen-pytorch's names."""
    torch.manual_seed(seed)
    stages = []
    for stage in (load_preset(preset).base, load_preset(preset).sr):
        values = {
            name: torch.randn(v.shape) * 0.1 for name, v in build_model(stage.model).state_dict().items()
        }
        stages.append(to_imagen_names(values, stage.model.arguments()))
    return stages


@pytest.fixture(scope="module")
def content(preset: str) -> dict[str, Any]:
    """What a trainer saves after some steps of the second stage; not to be changed."""
    model, ema, found = {}, {}, {"version": "2.1.0", "steps": torch.tensor([0, 5])}
    for index, (online, mean) in enumerate(
        zip(stage_weights(preset, 0), stage_weights(preset, 1), strict=True)
    ):
        model |= {f"unets.{index}.{name}": value for name, value in online.items()}
        ema |= {f"{index}.initted": torch.tensor(index > 0), f"{index}.step": torch.tensor(index * 5)}
        ema |= {f"{index}.online_model.{name}": value for name, value in online.items()}
        ema |= {f"{index}.ema_model.{name}": value for name, value in mean.items()}
        parameters = [torch.nn.Parameter(value.clone()) for value in online.values()]
        optimizer = torch.optim.Adam(parameters)
        if index:
            sum(parameter.square().sum() for parameter in parameters).backward()
            optimizer.step()
        found |= {f"optim{index}": optimizer.state_dict(), f"scaler{index}": {}}
    return found | {"model": model, "ema": ema}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(content: Any, name: str = "checkpoint.pt", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def without_base(content: dict[str, Any]) -> dict[str, Any]:
    slim = {name: value for name, value in content["model"].items() if name.startswith("unets.1.")}
    means = {name: value for name, value in content["ema"].items() if name.startswith("1.")}
    return content | {"model": slim, "ema": means}


def converted(folder: Path, stage: str) -> dict[str, Tensor]:
    """The weights of a stage of a model folder, by imagen-pytorch's names."""
    folder = folder / {"base": "unet", "sr": "sr_unet"}[stage]
    config = json.loads((folder / "config.json").read_text())
    return to_imagen_names(load_file(folder / "diffusion_pytorch_model.safetensors"), config)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def part(content: dict[str, Any], place: str, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in content[place].items() if n.startswith(prefix)}


# Import


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "place"), [("ema", "{}.ema_model."), ("online", "{}.online_model.")])
def test_a_full_file_becomes_a_pipeline(content, save, preset, tmp_path, weights, place):
    made = convert(save(content), tmp_path / "out", weights=weights, preset=preset)
    assert (made.preset, made.stages) == ("tiny", ("base", "sr"))
    for index, stage in enumerate(("base", "sr")):
        assert same(converted(tmp_path / "out", stage), part(content, "ema", place.format(index)))
    pipeline = CascadePipeline.from_pretrained(tmp_path / "out")
    assert isinstance(pipeline.unet, RSDiffUNet)
    assert (pipeline.config.base_guidance, pipeline.config.projected_guidance) == (5, True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a pond", seeds=[0], output_type="pt").images.shape == (1, 3, 32, 32)


@pytest.mark.slow
def test_a_slim_file_takes_the_base_of_another(content, save, preset, tmp_path):
    slim, full = save(without_base(content), "slim.pt"), save(content)
    # What stands for a network that is not trained.
    placeholder = {"unets.0.dummy_parameter": torch.zeros(1)}
    trained_alone = without_base(content) | {"model": without_base(content)["model"] | placeholder}
    for name, file in (("a", slim), ("b", save(trained_alone, "alone.pt"))):
        with pytest.raises(UsageError, match=r"no base stage.*add --base FILE"):
            convert(file, tmp_path / name, preset=preset)
        convert(file, tmp_path / name, base=full, preset=preset)
        assert same(converted(tmp_path / name, "base"), part(content, "ema", "0.ema_model."))
        assert same(converted(tmp_path / name, "sr"), part(content, "ema", "1.ema_model."))
    with pytest.raises(SatcascadeError, match=r"slim\.pt has no base stage: give a checkpoint that has one"):
        convert(full, tmp_path / "out", base=slim, preset=preset)
    assert not (tmp_path / "out").exists()


def test_stripped_half_precision_files_keep_their_precision(content, save, preset, tmp_path):
    ema = {"ema": {name: value.half() for name, value in content["ema"].items() if ".ema_model." in name}}
    convert(save(ema), tmp_path / "ema", preset=preset)
    expected = {name: value.half() for name, value in part(content, "ema", "1.ema_model.").items()}
    assert same(converted(tmp_path / "ema", "sr"), expected)
    assert CascadePipeline.from_pretrained(tmp_path / "ema").unet.dtype == torch.float32
    with pytest.raises(SatcascadeError, match=r"has no online weights of the base stage.*use --weights ema"):
        convert(save(ema), tmp_path / "x", preset=preset, weights="online")
    # The averages in float32, stored in half.
    convert(save(content), tmp_path / "half", preset=preset, half=True)
    assert same(converted(tmp_path / "half", "sr"), expected)
    model = {"model": content["model"]}
    with pytest.raises(SatcascadeError, match=r"has no averaged.*use --weights online"):
        convert(save(model), tmp_path / "x", preset=preset)
    convert(save(model), tmp_path / "online", preset=preset, weights="online")
    assert same(converted(tmp_path / "online", "sr"), part(content, "model", "unets.1."))


def test_a_file_of_the_base_stage_alone_makes_base_images(content, save, preset, tmp_path):
    alone = {name: value for name, value in content["model"].items() if name.startswith("unets.0.")}
    made = convert(save({"model": alone}), tmp_path / "out", preset=preset, weights="online")
    assert made.stages == ("base",)
    assert CascadePipeline.from_pretrained(tmp_path / "out").sr_unet is None


def test_files_before_torch_1_6_are_read_too(content, save, preset, tmp_path):
    old = save(content, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(old)
    convert(old, tmp_path / "out", preset=preset)
    assert same(converted(tmp_path / "out", "sr"), part(content, "ema", "1.ema_model."))


def test_the_file_is_mapped_and_the_optimizer_left_unread(content, save, preset, tmp_path):
    """What is not chosen may be damaged: it is never looked at."""
    path = save(content)
    moments = [state["exp_avg"] for state in content["optim1"]["state"].values()]
    largest = max(moments, key=Tensor.numel).numpy().tobytes()
    stored = path.read_bytes()
    assert stored.count(largest) == 1
    path.write_bytes(stored.replace(largest, b"\xff" * len(largest)))
    convert(path, tmp_path / "out", preset=preset)
    assert same(converted(tmp_path / "out", "sr"), part(content, "ema", "1.ema_model."))


# Presets


def manifest_content(name: str) -> dict[str, Any]:
    """A checkpoint of a preset's size, of which every tensor is one number in the file."""
    unets = json.loads((DATA / f"{name}_manifest.json").read_text())["unets"]
    zero = torch.zeros(())
    return {
        "model": {
            f"unets.{index}.{parameter}": zero.expand(shape)
            for index, shapes in enumerate(unets)
            for parameter, shape in shapes.items()
        }
    }


@pytest.mark.parametrize(("name", "size"), [("rsdiff1.5", "0.53 GB"), ("rsdiff1", "3.02 GB")])
def test_the_preset_is_recognised_and_space_asked_for_before_writing(save, small_disk, name, size):
    file = save(manifest_content(name))
    with pytest.raises(SatcascadeError, match=f"no space left on the device for .*: {size} are needed"):
        convert(file, small_disk / "out", weights="online")
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_what_fits_no_preset_is_told_the_nearest(content, save, preset, tmp_path):
    odd = manifest_content("rsdiff1.5")
    odd["model"]["unets.1.final_conv.bias"] = torch.zeros(4)
    del odd["model"]["unets.1.final_conv.weight"]
    file = save(odd)
    message = (
        r"fits no preset of the package; nearest is rsdiff1\.5, but the super-resolution stage has "
        r"parameters 1 missing \(final_conv\.weight\); 1 of another shape \(final_conv\.bias "
        r"\[4\] for \[3\]\)"
    )
    with pytest.raises(SatcascadeError, match=message):
        convert(file, tmp_path / "out", weights="online")
    with pytest.raises(SatcascadeError, match=r"does not fit preset rsdiff1: the base stage has parameters"):
        convert(file, tmp_path / "out", weights="online", preset="rsdiff1")
    with pytest.raises(SatcascadeError, match=r"does not fit preset tiny: the base stage has parameters"):
        convert(file, tmp_path / "out", weights="online", preset=preset)
    with pytest.raises(UsageError, match="preset 'compact' is not of architecture rsdiff"):
        convert(file, tmp_path / "out", preset="compact")
    assert not (tmp_path / "out").exists()


# Refusals


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
def test_a_malicious_pickle_is_refused_without_running(content, save, tmp_path, options):
    trap = tmp_path / "trap"
    file = save(content | {"version": Malicious(trap)}, **options)
    with pytest.raises(SatcascadeError, match=r"asks to load Python objects \(.*open\) and was refused"):
        convert(file, tmp_path / "out")
    assert not trap.exists()
    # It would have been made.
    torch.load(file, weights_only=False)
    assert trap.exists()
    trap.unlink()
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(trap), protocol=2))
    with pytest.raises(SatcascadeError):
        convert(tmp_path / "plain.pt", tmp_path / "out")
    assert not trap.exists()


def damaged(kind: str, path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)
    whole = path.read_bytes()
    torch.manual_seed(0)
    noise = torch.randint(256, (5000,), dtype=torch.uint8).numpy().tobytes()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "no weights here")
    else:
        path.write_bytes(
            {
                "noise": noise,
                "text": b"epoch,fid\n650,156.7\n",
                "empty": b"",
                "cut short": whole[: len(whole) // 2],
                "cut at the end": whole[:-10],
            }[kind]
        )


@pytest.mark.parametrize("kind", ["noise", "text", "empty", "zip", "cut short", "cut at the end"])
def test_what_is_no_checkpoint_is_refused(content, tmp_path, kind):
    damaged(kind, tmp_path / "bad.pt", content)
    with pytest.raises(SatcascadeError, match=r"bad\.pt is no checkpoint, or is cut short or damaged"):
        convert(tmp_path / "bad.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"state_dict": {"a": torch.zeros(1)}},
        {"model": torch.zeros(1)},
        {"model": {1: torch.zeros(1)}},
    ],
)
def test_other_contents_are_refused(save, tmp_path, value):
    with pytest.raises(SatcascadeError, match=r"is no ImagenTrainer checkpoint: it has no 'model' or 'ema'"):
        convert(save(value), tmp_path / "out")


def test_values_that_are_no_weights_are_refused(content, save, preset, tmp_path):
    for value in ("text", torch.zeros(3, dtype=torch.long)):
        bad = {"model": content["model"] | {"unets.1.final_conv.bias": value}}
        with pytest.raises(SatcascadeError, match=r"'final_conv\.bias' is no weight tensor"):
            convert(save(bad), tmp_path / "out", preset=preset, weights="online")
    base = save({"model": {k: v for k, v in content["model"].items() if k.startswith("unets.0.")}}, "base.pt")
    with pytest.raises(SatcascadeError, match="has no super-resolution stage"):
        convert(base, tmp_path / "out", base=base, preset=preset, weights="online")


def test_a_folder_in_use_is_refused_and_left_alone(content, save, preset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(UsageError, match="out is not empty"):
        convert(save(content), tmp_path / "out", preset=preset)
    with pytest.raises(UsageError, match="notes is not empty"):
        convert(save(content), tmp_path / "out" / "notes", preset=preset)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes"]


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(content, save, preset, small_disk, monkeypatch):
    from tiny_cascade import fill

    fill(small_disk, leaving=100_000)
    plenty = shutil.disk_usage("/")._replace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
    with pytest.raises(SatcascadeError, match="no space left on the device"):
        convert(save(content), small_disk / "out", preset=preset)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


# Export


@pytest.fixture(scope="module")
def model(content, preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save(content, folder / "checkpoint.pt")
    convert(folder / "checkpoint.pt", folder / "model", preset=preset)
    return folder / "model"


def test_export_writes_the_layout_of_the_trainer(content, model, tmp_path):
    export(model, tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found.keys() == content.keys()
    assert found["model"].keys() == content["model"].keys()
    assert found["ema"].keys() == content["ema"].keys()
    for index in (0, 1):
        expected = part(content, "ema", f"{index}.ema_model.")
        assert same(part(found, "model", f"unets.{index}."), expected)
        assert same(part(found, "ema", f"{index}.online_model."), expected)
        assert same(part(found, "ema", f"{index}.ema_model."), expected)
        group = found[f"optim{index}"]["param_groups"][0]
        assert len(group["params"]) == len(expected)
        assert found[f"optim{index}"]["state"] == {}
    weights = sum(value.nbytes for value in found["model"].values())
    assert (tmp_path / "out.pt").stat().st_size < 2 * weights, "the three copies are stored once"


def test_export_and_import_are_inverse(model, preset, tmp_path):
    export(model, tmp_path / "out.pt")
    for weights in ("ema", "online"):
        convert(tmp_path / "out.pt", tmp_path / weights, preset=preset, weights=weights)
        for stage in ("base", "sr"):
            assert same(converted(tmp_path / weights, stage), converted(model, stage))


def test_the_commands_say_what_they_made(content, save, preset, tmp_path, capsys):
    parameters = sum(value.numel() for value in content["model"].values())
    for arguments, said in (
        (["convert", save(content), tmp_path / "model", "--preset", preset], f"{parameters:,} parameters of"),
        (["export", tmp_path / "model", tmp_path / "out.pt"], "load it with ImagenTrainer.load"),
        (
            ["convert", tmp_path / "out.pt", tmp_path / "again", "--preset", preset, "--half"],
            "of preset tiny",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        assert said in captured.out
    weights = load_file(tmp_path / "again" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_export_refuses_other_networks_and_existing_files(model, tiny_model, tmp_path):
    with pytest.raises(SatcascadeError, match=r"is no RSDiff model .CompactUNet.*cannot be exported"):
        export(tiny_model, tmp_path / "out.pt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.pt").write_text("mine")
    with pytest.raises(UsageError, match=r"out\.pt exists"):
        export(model, tmp_path / "out.pt")
    assert (tmp_path / "out.pt").read_text() == "mine"


# Runs in the environment of imagen-pytorch: argv is the options, the checkpoint, inputs and outputs.
_IN_THE_PEER = """
import json, sys, torch, transformers
# imagen-pytorch asks the hub for this configuration when it is imported.
transformers.T5Config.from_pretrained = classmethod(lambda cls, *args, **options: cls(d_model=768))
from imagen_pytorch import Imagen, ImagenTrainer, Unet
options, checkpoint, inputs, outputs = sys.argv[1:]
options = json.loads(options)
unets = [Unet(**options, lowres_cond=index > 0) for index in (0, 1)]
dim = options["text_embed_dim"]
imagen = Imagen(unets, image_sizes=(16, 32), timesteps=2, text_embed_dim=dim, condition_on_text=True)
trainer = ImagenTrainer(imagen)
trainer.load(checkpoint)
x = torch.load(inputs)
found = []
with torch.no_grad():
    for index in (0, 1):
        for unet in (trainer.imagen.unets[index], trainer.ema_unets[index].ema_model):
            low_res = {"lowres_cond_img": x["image"], "lowres_noise_times": x["log_snr"]} if index else {}
            text = {"text_embeds": x["embeddings"], "text_mask": x["mask"]}
            found.append(unet.eval()(x["image"], x["log_snr"], **text, **low_res))
torch.save(found, outputs)
# Training goes on from there.
trainer(torch.rand(2, 3, 32, 32), text_embeds=x["embeddings"], text_masks=x["mask"], unet_number=1)
trainer.update(unet_number=1)
assert trainer.steps.tolist() == [1, 0]
"""


@pytest.mark.skipif(PEER is None, reason="SATCASCADE_PEER_PYTHON names no Python with imagen-pytorch 2.1.0")
def test_the_trainer_itself_loads_an_export(model, tmp_path):
    export(model, tmp_path / "out.pt")
    torch.manual_seed(0)
    x = {
        "image": torch.randn(2, 3, 32, 32),
        "log_snr": torch.tensor([0.5, -1.0]),
        "embeddings": torch.randn(2, 5, 16),
        "mask": torch.ones(2, 5, dtype=torch.bool),
    }
    torch.save(x, tmp_path / "in.pt")
    files = [str(tmp_path / name) for name in ("out.pt", "in.pt", "found.pt")]
    done = subprocess.run(
        [str(PEER), "-c", _IN_THE_PEER, json.dumps(IMAGEN), *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "partial load" not in done.stdout
    assert "could not load" not in done.stdout
    found = torch.load(tmp_path / "found.pt")
    pipeline = CascadePipeline.from_pretrained(model)
    with torch.inference_mode():
        base = pipeline.unet(x["image"], x["log_snr"], pipeline.unet.encode_text(x["embeddings"], x["mask"]))
        text = pipeline.sr_unet.encode_text(x["embeddings"], x["mask"])
        sr = pipeline.sr_unet(x["image"], x["log_snr"], text, x["image"], x["log_snr"])
    for expected, made in zip((base, base, sr, sr), found, strict=True):
        assert (made - expected).norm() < 1e-4 * expected.norm()


# Released weights


class Hub:
    """A server with one file that answers as the hub does, and how often the file was downloaded."""

    def __init__(self, content: bytes, release: Release):
        self.content, self.release = content, release
        self.downloads = 0
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                if self.answer():
                    hub.downloads += 1
                    self.wfile.write(hub.content)

            def answer(self) -> bool:
                wanted = f"/{release.repository}/resolve/{release.revision}/{release.file}"
                known = self.path == wanted
                self.send_response(200 if known else 404)
                self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
                self.send_header("X-Repo-Commit", release.revision)
                self.send_header("Content-Length", str(len(hub.content) if known else 0))
                self.end_headers()
                return known

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(content, save, preset, tmp_path, monkeypatch) -> Iterator[Hub]:
    """A stand-in for the hub with a stand-in for the released file, and caches of their own."""
    from huggingface_hub import constants

    stored = save(content).read_bytes()
    release = replace(released.RSDIFF, sha256=hashlib.sha256(stored).hexdigest(), preset=preset)
    hub = Hub(stored, release)
    endpoint = f"http://127.0.0.1:{hub.server.server_port}"
    monkeypatch.setattr(released, "RSDIFF", release)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SATCASCADE_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.stop()


def sample(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> tuple[object, str]:
    arguments = ["sample", "a pond", "--model", "rsdiff", "--device", "cpu", "--steps", "2", "--quiet"]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--out", str(tmp_path / out)])
    return end.value.code, capsys.readouterr().err


def test_the_released_model_is_fetched_once_and_then_needs_no_network(hub, tmp_path, capsys):
    status, said = sample(tmp_path, capsys, "first")
    assert status == 0, said
    size = f"({len(hub.content) / 1e9:.2f} GB)"
    assert said.startswith(
        f"downloading ckpt_sr_ep650_step89050.pt {size} from asebaq/rsdiff-sr-cascade-ep650"
    )
    assert hub.downloads == 1
    hub.stop()
    shutil.rmtree(tmp_path / "hub")
    assert sample(tmp_path, capsys, "second") == (0, "")
    first, second = (next((tmp_path / out).glob("0*.png")).read_bytes() for out in ("first", "second"))
    assert first == second
    line = json.loads((tmp_path / "first" / "manifest.jsonl").read_text())
    assert line["model"] == "rsdiff"


def test_two_at_once_convert_once(hub, tmp_path, monkeypatch):
    conversions = []

    def counted(*args: Any, **options: Any) -> Any:
        conversions.append(args)
        return convert(*args, **options)

    monkeypatch.setattr(checkpoints, "convert", counted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(released.released_model(released.RSDIFF)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 2
    assert len(conversions) == hub.downloads == 1


def test_another_file_than_the_released_one_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(released, "RSDIFF", replace(released.RSDIFF, sha256="0" * 64))
    with pytest.raises(SatcascadeError, match=r"not the released file .*expected 000.*delete it") as refusal:
        CascadePipeline.from_pretrained("rsdiff")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    # As the message asks.
    Path(str(refusal.value).split(" is not the released")[0]).unlink()
    monkeypatch.setattr(released, "RSDIFF", hub.release)
    assert CascadePipeline.from_pretrained("rsdiff").name == "rsdiff"
    assert hub.downloads == 2


@pytest.mark.parametrize("how", ["no connection", "unknown", "offline mode", "local only"])
def test_without_the_hub_another_way_is_told(hub, monkeypatch, how):
    options = {}
    if how == "no connection":
        hub.stop()
    elif how == "unknown":
        monkeypatch.setattr(released, "RSDIFF", replace(released.RSDIFF, revision="0" * 40))
    elif how == "offline mode":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        options["local_files_only"] = True
    message = "the hub did not give ckpt_sr_ep650_step89050.pt .*download the file elsewhere, run 'satcascade"
    with pytest.raises(SatcascadeError, match=message) as refusal:
        CascadePipeline.from_pretrained("rsdiff", **options)
    assert "\n" not in str(refusal.value)
    assert hub.downloads == 0


def test_no_space_for_the_download_is_said_before_it(hub, small_disk, monkeypatch):
    from huggingface_hub import constants

    from tiny_cascade import fill

    fill(small_disk, leaving=100_000)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(small_disk / "hub"))
    with pytest.raises(SatcascadeError, match=r"no space left on the device for .*hub: 0\.00 GB are needed"):
        released.released_model(released.RSDIFF)
    assert hub.downloads == 0


def test_the_cache_follows_the_hub_client(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("SATCASCADE_CACHE", raising=False)
    assert cache_folder() == Path(constants.HF_HOME) / "satcascade"
