"""RSDiff's UNet against recordings of the library that its released weights were trained with.

The recordings are those of the folder that SATCASCADE_REFERENCE names; the repository has a part of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from satcascade.diffusion import cosine_log_snr, guide, linear_log_snr
from satcascade.errors import SatcascadeError
from satcascade.models.denoiser import TextCondition
from satcascade.models.rsdiff_names import (
    from_imagen_names,
    from_imagen_options,
    imagen_names,
    to_imagen_names,
)
from satcascade.models.rsdiff_unet import RSDiffUNet

DATA = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("SATCASCADE_REFERENCE") or DATA / "imagen-small")
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
TOLERANCE = 1e-4


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def recording(name: str) -> dict[str, Tensor]:
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {FOLDER.name}")
    return load_file(path)


class Recorded:
    """A network with the recorded weights, its inputs, and what the original computed from them."""

    def __init__(self, stage: str):
        tensors = recording(f"unet_{stage}")
        self.weights = {
            name.removeprefix("weights."): value
            for name, value in tensors.items()
            if name.startswith("weights.")
        }
        self.inputs = {
            name.removeprefix("in."): value for name, value in tensors.items() if name.startswith("in.")
        }
        self.outputs = {
            name.removeprefix("out."): value for name, value in tensors.items() if name.startswith("out.")
        }
        options = REFERENCE["config"][stage] | {
            "text_embed_dim": REFERENCE["text_embed_dim"],
            "lowres_cond": "lowres_cond_img" in self.inputs,
        }
        self.unet = RSDiffUNet(**from_imagen_options(options), sample_size=self.inputs["x"].shape[-1]).eval()
        self.unet.load_state_dict(from_imagen_names(self.weights, self.unet.config), strict=True)
        self.embeddings, self.mask = self.inputs["text_embeds"], self.inputs["text_mask"].bool()

    def encode(self, keep: bool = True) -> TextCondition:
        kept = torch.full((len(self.mask),), keep)
        return self.unet.encode_text(self.embeddings, self.mask, kept)

    def predict(self, text: TextCondition, rows: slice = slice(None)) -> Tensor:
        names = ("lowres_cond_img", "lowres_log_snr")
        low_res = [self.inputs[name][rows] if name in self.inputs else None for name in names]
        return self.unet(self.inputs["x"][rows], self.inputs["log_snr"][rows], text, *low_res)


@pytest.fixture(scope="module", params=sorted(REFERENCE["config"]))
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


@pytest.mark.parametrize("schedule", [cosine_log_snr, linear_log_snr])
def test_schedules_are_the_recorded_ones(schedule: Any):
    curves = recording("schedules")
    assert error(schedule(curves["t"]), curves[schedule.__name__]) < 1e-6


@torch.inference_mode()
def test_predictions_are_the_recorded_ones(recorded: Recorded):
    conditional = recorded.predict(recorded.unet.encode_text(recorded.embeddings, recorded.mask))
    null = recorded.predict(recorded.encode(keep=False))
    found = {
        "cond": conditional,
        "null": null,
        "cfg5_plain": guide(conditional, null, 5.0),
        "cfg5_projected": guide(conditional, null, 5.0, projected=True),
    }
    errors = {name: error(found[name], expected) for name, expected in recorded.outputs.items()}
    assert errors.keys() == found.keys()
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", ["ema", "online"])
@torch.inference_mode()
def test_weights_of_a_trainer_checkpoint_compute_the_recorded(index: int, kind: str):
    tensors = recording("imagen_trainer_outputs")
    checkpoint = torch.load(FOLDER / "imagen_trainer.pt", map_location="cpu", weights_only=True)["ema"]
    prefix = f"{index}.{kind}_model."
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint.items() if name.startswith(prefix)
    }
    stage = list(REFERENCE["checkpoint_config"])[index]
    options = REFERENCE["checkpoint_config"][stage] | {
        "text_embed_dim": REFERENCE["text_embed_dim"],
        "lowres_cond": index > 0,
    }
    unet = RSDiffUNet(**from_imagen_options(options)).eval()
    unet.load_state_dict(from_imagen_names(weights, unet.config))
    text = unet.encode_text(tensors["text_embeds"], tensors["text_mask"].bool())
    names = ("x", "log_snr", "lowres_cond_img", "lowres_log_snr")
    x, log_snr, *low_res = (tensors.get(f"{stage}.in.{name}") for name in names)
    found = error(unet(x, log_snr, text, *low_res), tensors[f"{stage}.out.{kind}"])
    # In float64 this network is 1.1e-4 from the recording: the recording's own rounding.
    assert found < 2 * TOLERANCE


@torch.inference_mode()
def test_a_caption_may_be_encoded_once_for_all_steps(recorded: Recorded):
    text = recorded.encode()
    assert text.mask.all()
    first = recorded.predict(text)
    assert torch.equal(recorded.predict(text), first)
    assert torch.equal(recorded.predict(recorded.encode()), first)


@torch.inference_mode()
def test_rows_do_not_depend_on_their_batch(recorded: Recorded):
    together = recorded.predict(recorded.encode())
    for row, mask in enumerate(recorded.mask):
        # Alone, a caption is not padded to the longest of the batch.
        length = int(mask.nonzero().max()) + 1
        text = recorded.unet.encode_text(recorded.embeddings[[row], :length], mask[None, :length])
        alone = recorded.predict(text, slice(row, row + 1))
        assert error(alone[0], together[row]) < TOLERANCE


def test_names_make_the_round_trip(recorded: Recorded):
    config = recorded.unet.config
    back = to_imagen_names(from_imagen_names(recorded.weights, config), config)
    assert back.keys() == recorded.weights.keys()
    assert all(back[name] is value for name, value in recorded.weights.items())


def test_weights_that_do_not_fit_are_refused(recorded: Recorded):
    config, (name, value) = recorded.unet.config, next(iter(recorded.weights.items()))
    others = {key: tensor for key, tensor in recorded.weights.items() if key != name}
    with pytest.raises(SatcascadeError, match=f"1 missing.*{name}"):
        from_imagen_names(others, config)
    with pytest.raises(SatcascadeError, match=r"1 unknown.*stranger"):
        from_imagen_names(recorded.weights | {"stranger": value}, config)
    with pytest.raises(SatcascadeError, match=f"1 of another shape.*{name}"):
        from_imagen_names(others | {name: value[None]}, config)
    with pytest.raises(SatcascadeError, match="missing"):
        to_imagen_names({}, config)


@pytest.mark.parametrize("preset", ["rsdiff1.5", "rsdiff1"])
@pytest.mark.parametrize("stage", [0, 1])
def test_presets_have_the_parameters_of_the_original(preset: str, stage: int):
    manifest = json.loads((DATA / f"{preset}_manifest.json").read_text())
    options = list(manifest["config"].values())[stage] | {
        "text_embed_dim": manifest["text_embed_dim"],
        "lowres_cond": stage > 0,
    }
    config = from_imagen_options(options)
    with torch.device("meta"):
        unet = RSDiffUNet(**config)
    counts = {"rsdiff1.5": (27_182_156, 105_045_301), "rsdiff1": (260_762_148, 493_128_401)}
    assert sum(parameter.numel() for parameter in unet.parameters()) == counts[preset][stage]
    shapes = unet.state_dict()
    found = {theirs: list(shapes[ours].shape) for ours, theirs in imagen_names(config).items()}
    assert found == manifest["unets"][stage]


def test_unknown_options_are_refused():
    with pytest.raises(SatcascadeError, match="memory_efficient"):
        from_imagen_options({"dim": 8, "memory_efficient": True})


def make(**changes: Any) -> RSDiffUNet:
    """An untrained network unlike the presets: three layers, uneven blocks, two transformer blocks."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "width": 12,
        "width_multipliers": [1, 3, 2],
        "blocks": [1, 0, 2],
        "self_attention": [False, True, False],
        "cross_attention": [True, False, True],
        "attention_depth": [1, 2, 1],
        "heads": 3,
        "head_dim": 6,
        "cond_dim": 10,
        "text_dim": 7,
        "max_text_len": 4,
        "text_latents": 5,
        "time_tokens": 3,
        "stem_kernels": [3, 5],
        "low_res": True,
        "sample_size": 16,
    }
    unet = RSDiffUNet(**options | changes).eval()
    torch.nn.init.normal_(unet.out.weight, std=0.1)
    return unet


def predict(unet: RSDiffUNet, log_snr: float = 0.5, length: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 2, 3, 16, 16, generator=generator)
    embeddings = torch.randn(2, length, 7, generator=generator)
    text = unet.encode_text(embeddings, torch.ones(2, length, dtype=torch.bool))
    level = torch.full((2,), log_snr)
    return unet(images[0], level, text, images[1], level)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width_multipliers": [1], "blocks": 1, "self_attention": True, "cross_attention": True}
        | {"attention_depth": 1},
        {"heads": 1, "blocks": 2, "self_attention": True, "cross_attention": False, "attention_depth": 1},
    ],
)
def test_other_layouts_run_and_have_names(changes: dict[str, Any]):
    unet = make(**changes)
    found = predict(unet)
    assert found.shape == (2, 3, 16, 16)
    assert found.isfinite().all()
    names = imagen_names(unet.config)
    assert len(set(names.values())) == len(names)
    found.square().sum().backward()
    untouched = {name for name, parameter in unet.named_parameters() if parameter.grad is None}
    # The null caption was not asked for; and here no caption is shorter than the table.
    assert untouched <= {"text.null_tokens", "text.null_pooled"}


@torch.inference_mode()
def test_fused_and_explicit_attention_agree(monkeypatch: pytest.MonkeyPatch):
    unet = make()
    explicit = predict(unet)
    monkeypatch.setattr("satcascade.models.rsdiff_unet._EXPLICIT_WEIGHTS", 0)
    fused = predict(unet)
    assert not torch.equal(fused, explicit)
    assert error(fused, explicit) < 1e-4


@torch.inference_mode()
def test_bfloat16_weights_and_autocast_stay_close():
    unet = make()
    expected = predict(unet)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = predict(unet)
    pure = predict(unet.to(torch.bfloat16))
    assert mixed.dtype == pure.dtype == torch.float32
    assert error(mixed, expected) < 0.1
    # Here the frequencies of the noise level are rounded too.
    assert error(pure, expected) < 0.1


def test_saved_and_loaded_it_computes_the_same(tmp_path: Path):
    unet = make()
    unet.save_pretrained(tmp_path)
    loaded = RSDiffUNet.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert error(predict(loaded), predict(unet)) < 1e-5
    weights = unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="blocks has 2 values for 3 layers"):
        make(blocks=[1, 2])
    with pytest.raises(ValueError, match="epsilon"):
        make(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="max_text_len"):
        make(max_text_len=600)
    with pytest.raises(ValueError, match="low_res"):
        predict(make(low_res=False))
