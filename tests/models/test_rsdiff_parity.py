"""RSDiff's UNet against recordings of the library that its released weights were trained with.

The recordings are those of the folder that SATCASCADE_REFERENCE names; the repository has a part of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from rounding import (
    ALLOWED,
    SEEDS,
    assert_equal_but_for_rounding,
    bound_of_rounding,
    norm,
    nudge,
    nudged_weights,
)
from satcascade.config.preset import load_preset
from satcascade.diffusion.guidance import guide
from satcascade.diffusion.process import cosine_log_snr, linear_log_snr
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.errors import SatcascadeError
from satcascade.interop.imagen_checkpoint import convert, export
from satcascade.interop.imagen_names import (
    from_imagen_names,
    from_imagen_options,
    imagen_names,
    to_imagen_names,
)
from satcascade.models.denoiser import TextCondition
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.models.text import TextEmbeddings
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.training.batches import Batch
from satcascade.training.loss import DenoisingLoss

DATA = Path(__file__).parents[1] / "data"
FOLDER = Path(os.environ.get("SATCASCADE_REFERENCE") or DATA / "imagen-tiny")
REFERENCE = json.loads((FOLDER / "reference.json").read_text())


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def recording(name: str) -> dict[str, Tensor]:
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {FOLDER.name}")
    return load_file(path)


def nudging(unet: torch.nn.Module, compute: Callable[[], Any]) -> Callable[..., Any]:
    """What a network computes with its weights nudged with a seed; of several results, the named one."""

    def again(*name_and_seed: Any) -> Any:
        *name, seed = name_and_seed
        with nudged_weights(seed, unet):
            found = compute()
        return found[name[0]] if name else found

    return again


class Recorded:
    """A network with the recorded weights, its inputs, and what the original computed from them."""

    def __init__(self, stage: str):
        self.stage = stage
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
    def predictions() -> dict[str, Tensor]:
        conditional = recorded.predict(recorded.unet.encode_text(recorded.embeddings, recorded.mask))
        null = recorded.predict(recorded.encode(keep=False))
        return {
            "cond": conditional,
            "null": null,
            "cfg5_plain": guide(conditional, null, 5.0),
            "cfg5_projected": guide(conditional, null, 5.0, projected=True),
        }

    found, again = predictions(), nudging(recorded.unet, predictions)
    assert found.keys() == recorded.outputs.keys()
    for name, expected in recorded.outputs.items():
        assert_equal_but_for_rounding(expected, found[name], partial(again, name), norm)


@pytest.fixture(scope="module")
def checkpoint_preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preset file that describes the networks of the recorded trainer checkpoint."""
    tensors = recording("imagen_trainer_outputs")
    content = load_preset("rsdiff1.5").model_dump(mode="json")
    for ours, (stage, options) in zip(("base", "sr"), REFERENCE["checkpoint_config"].items(), strict=True):
        known = {"text_embed_dim": REFERENCE["text_embed_dim"], "lowres_cond": ours == "sr"}
        size = tensors[f"{stage}.in.x"].shape[-1]
        model = from_imagen_options(options | known)
        content[ours]["model"] = {"architecture": "rsdiff", "sample_size": size, **model}
    path = tmp_path_factory.mktemp("preset") / "recorded.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["ema", "online"])
@torch.inference_mode()
def test_a_trainer_checkpoint_goes_in_and_out_again(weights: Any, checkpoint_preset: str, tmp_path: Path):
    """Converted, exported and converted again, a checkpoint computes what its networks computed."""
    convert(FOLDER / "imagen_trainer.pt", tmp_path / "first", weights=weights, preset=checkpoint_preset)
    export(tmp_path / "first", tmp_path / "exported.pt")
    convert(tmp_path / "exported.pt", tmp_path / "second", preset=checkpoint_preset)
    tensors = recording("imagen_trainer_outputs")
    for folder in ("first", "second"):
        pipeline = CascadePipeline.from_pretrained(tmp_path / folder)
        networks = (pipeline.unet, pipeline.sr_unet)
        for unet, stage in zip(networks, REFERENCE["checkpoint_config"], strict=True):
            text = unet.encode_text(tensors["text_embeds"], tensors["text_mask"].bool())
            names = ("x", "log_snr", "lowres_cond_img", "lowres_log_snr")
            x, log_snr, *low_res = (tensors.get(f"{stage}.in.{name}") for name in names)
            predicted = partial(unet, x, log_snr, text, *low_res)
            again = nudging(unet, predicted)
            assert_equal_but_for_rounding(tensors[f"{stage}.out.{weights}"], predicted(), again, norm)


@torch.inference_mode()
def test_training_loss_is_the_recorded(recorded: Recorded):
    tensors = recording("loss")
    own = {
        name.removeprefix(f"{recorded.stage}."): value
        for name, value in tensors.items()
        if name.startswith(f"{recorded.stage}.")
    }
    low_res = own.get("lowres_images")
    batch = Batch(
        images=own["images"] * 2 - 1,
        noise=own["noise"],
        log_snr=cosine_log_snr(own["times"]),
        text=TextEmbeddings(tensors["text_embeds"], tensors["text_mask"].bool()),
        keep=torch.ones(len(own["images"]), dtype=torch.bool),
        low_res=None if low_res is None else low_res * 2 - 1,
        low_res_noise=own.get("lowres_noise"),
        low_res_log_snr=None if low_res is None else linear_log_snr(own["lowres_aug_times"]),
    )
    loss = DenoisingLoss(recorded.unet, load_preset("rsdiff1.5").base.training.noise.weighting)
    again = nudging(recorded.unet, lambda: loss(batch).mean()[None])
    assert_equal_but_for_rounding(own["loss"], loss(batch).mean()[None], again, norm)


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
    again = nudging(recorded.unet, lambda: recorded.predict(recorded.encode()))
    bound = bound_of_rounding(together, again, norm)
    for row, mask in enumerate(recorded.mask):
        # Alone, a caption is not padded to the longest of the batch.
        length = int(mask.nonzero().max()) + 1
        text = recorded.unet.encode_text(recorded.embeddings[[row], :length], mask[None, :length])
        alone = recorded.predict(text, slice(row, row + 1))
        assert norm(alone[0] - together[row]) <= bound


RUNS = sorted(path.stem for path in FOLDER.glob("sampling_*.safetensors"))


class RecordedRun:
    """A cascade of the recorded networks that takes the draws of a recorded run for its own."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch):
        self.tensors = recording(name)
        self.draws: list[Tensor] = []
        self.scale = float(re.search(r"scale(\d+(\.\d+)?)", name)[1])
        self.text = TextEmbeddings(self.tensors["in.text_embeds"], self.tensors["in.text_mask"].bool())
        for module in ("sampling.loop", "diffusion.rsdiff_scheduler"):
            monkeypatch.setattr(f"satcascade.{module}.randn_tensor", self._draw)
        augmentation = linear_log_snr(torch.tensor(REFERENCE["lowres_sample_noise_level"]))
        self.pipeline = CascadePipeline(
            unet=Recorded("base").unet,
            scheduler=RSDiffScheduler(),
            sr_unet=Recorded("sr").unet,
            base_steps=REFERENCE["steps"],
            sr_steps=REFERENCE["steps"],
            low_res_log_snr=float(augmentation),
            projected_guidance=not name.endswith("plain"),
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, skip: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
        """Images and base images from the recorded draws but for the first ``skip``."""
        draws = [value for name, value in sorted(self.tensors.items()) if name.startswith("draw.")]
        self.draws = draws[skip:]
        return self.pipeline(
            prompt_embeds=self.text,
            guidance_scale=self.scale,
            sr_guidance_scale=self.scale,
            seeds=range(len(self.text)),
            output_type="pt",
            return_dict=False,
            **options,
        )

    def _draw(self, shape: Any, **_: Any) -> Tensor:
        assert self.draws[0].shape == tuple(shape)
        return self.draws.pop(0)


@pytest.fixture(params=RUNS or [pytest.param("", marks=pytest.mark.skip("no recorded runs"))])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    return RecordedRun(request.param, monkeypatch)


@pytest.mark.slow
def test_super_resolution_of_the_recorded_base_gives_the_recorded_images(run: RecordedRun):
    def images() -> Tensor:
        return run(skip=REFERENCE["steps"] + 1, base_images=run.tensors["out.base"])[0]

    found = images()
    assert not run.draws
    again = nudging(run.pipeline.sr_unet, images)
    assert_equal_but_for_rounding(run.tensors["out.sr"], found, again, norm)


def test_a_whole_run_gives_the_recorded_images(run: RecordedRun):
    images, base = run()
    assert not run.draws
    errors = error(base, run.tensors["out.base"]), error(images, run.tensors["out.sr"])
    # A random network may be chaotic: then the original itself ends elsewhere with another thread count.
    rounding = 0.0
    for seed in SEEDS:
        with nudged_weights(seed, run.pipeline.unet, run.pipeline.sr_unet):
            moved_images, moved_base = run()
        rounding = max(rounding, error(moved_base, base), error(moved_images, images))
    if rounding > 0.01:
        pytest.skip(f"float32 rounding alone changes this run by {rounding:.0%}")
    assert max(errors) <= ALLOWED * max(rounding, torch.finfo(torch.float32).eps)


def as_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_EXPLICIT_WEIGHTS", "_EXPLICIT_NORM", "_LARGE_IMAGE"):
        monkeypatch.setattr(f"satcascade.models.rsdiff_unet.{limit}", 0)
    monkeypatch.setattr("satcascade.models.layers.cpu._SMALL_PRODUCT", 0)
    # Pieces that do not divide the image, so that the last one is smaller.
    monkeypatch.setattr("satcascade.models.layers.cpu.PIECE", 3000)


@torch.inference_mode()
def test_the_faster_ways_of_large_images_compute_the_same(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
):
    text = recorded.unet.encode_text(recorded.embeddings, recorded.mask)
    plain = recorded.predict(text)
    bound = bound_of_rounding(plain, nudging(recorded.unet, lambda: recorded.predict(text)), norm)
    as_of_large_images(monkeypatch)
    fast = recorded.predict(text)
    assert not torch.equal(fast, plain)
    assert norm(fast - plain) <= bound


def test_the_faster_ways_of_large_images_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch):
    """Those of every parameter, written out there and left to autograd otherwise."""

    def gradients(
        dtype: torch.dtype = torch.float32, seed: int | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        unet = make()
        # Not as it starts: so that everything matters.
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng(parameter.numel())) * 0.05)
        if seed is not None:
            nudge(unet, seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            predicted = predict(unet)
            (predicted * torch.randn(predicted.shape, generator=rng(1))).sum().backward()
        return predicted.detach(), {
            name: parameter.grad for name, parameter in unet.named_parameters() if parameter.grad is not None
        }

    plain, expected = gradients()
    probes = [gradients(seed=seed)[1] for seed in SEEDS]
    rounded = gradients(torch.bfloat16)[1]
    as_of_large_images(monkeypatch)
    fast, found = gradients()
    assert not torch.equal(fast, plain)
    assert found.keys() == expected.keys()
    # Some are zero but for rounding, of which they get a unit of all of them.
    unit = torch.finfo(torch.float32).eps * norm(torch.cat([value.flatten() for value in expected.values()]))
    for name, value in expected.items():
        rounding = max(norm(probe[name] - value) for probe in probes)
        assert rounding <= 0.001 * norm(value) + unit, f"nothing is compared in {name}"
        assert norm(found[name] - value) <= ALLOWED * rounding + unit, name
    # Under autocast they are as near to those of float32 as they were.
    in_pieces = gradients(torch.bfloat16)[1]

    def distance(ours: dict[str, torch.Tensor]) -> float:
        return sum(float((ours[name] - value).square().sum()) for name, value in expected.items()) ** 0.5

    assert distance(in_pieces) < 1.5 * distance(rounded)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_options_left_out_are_those_of_the_original():
    assert from_imagen_options({"dim": 24, "cond_dim": None, "dim_mults": [1, 2]}) == {
        "width": 24,
        "cond_dim": 24,
        "width_multipliers": [1, 2],
        "blocks": 1,
        "self_attention": True,
        "cross_attention": True,
    }


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
    bound = bound_of_rounding(explicit, nudging(unet, lambda: predict(unet)), norm)
    monkeypatch.setattr("satcascade.models.rsdiff_unet._EXPLICIT_WEIGHTS", 0)
    fused = predict(unet)
    assert not torch.equal(fused, explicit)
    assert norm(fused - explicit) <= bound


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
        again = nudging(unet, lambda: predict(unet))
        assert_equal_but_for_rounding(predict(loaded), predict(unet), again, norm)
    weights = unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="blocks has 2 values for 3 layers"):
        make(blocks=[1, 2])
    with pytest.raises(ValueError, match="'sample' is none of epsilon and v_prediction"):
        make(prediction_type="sample")
    with pytest.raises(ValueError, match="max_text_len"):
        make(max_text_len=600)
    with pytest.raises(ValueError, match="low_res"):
        predict(make(low_res=False))
