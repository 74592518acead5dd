"""Checkpoints of imagen-pytorch's trainer, with which RSDiff was trained: in and out.

Such a file is a ``torch.save`` of a dictionary. ``model`` holds the weights that were trained
(``unets.0.*`` is the base stage, ``unets.1.*`` super-resolution), ``ema`` both these and their averages
(``0.online_model.*``, ``0.ema_model.*``, and the same under ``1.``); beside them are states of the
optimisers, which nothing here reads. Slim files lack the base stage, stripped ones all but ``ema`` or
``model``; either may be in float16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from satcascade.config.preset import Preset, StageName, load_preset, preset_names
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.interop.imagen_names import from_imagen_names, imagen_names, to_imagen_names
from satcascade.io.files import atomic_write, check_space
from satcascade.models.registry import build_model
from satcascade.models.rsdiff_config import RSDiffModel
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.pipelines.assembly import build_pipeline
from satcascade.pipelines.cascade import CascadePipeline
from satcascade.pipelines.folder import without_loading_bars

Weights = Literal["ema", "online"]

_STAGES: dict[StageName, tuple[int, str]] = {"base": (0, "base stage"), "sr": (1, "super-resolution stage")}
# Where the weights of stage {0} are, in the order of preference.
_PLACES: dict[Weights, tuple[tuple[str, str], ...]] = {
    "ema": (("ema", "{0}.ema_model."),),
    "online": (("model", "unets.{0}."), ("ema", "{0}.online_model.")),
}
# All that imagen-pytorch's `NullUnet` has, which stands for a stage that is not trained.
_PLACEHOLDER = {"dummy_parameter"}
_ZIP_START = b"PK\x03\x04"
_IMAGEN_VERSION = "2.1.0"


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint was converted to.

    Attributes:
        preset: name of the preset that it fits.
        stages: the stages it holds.
        parameters: of them together.
    """

    preset: str
    stages: tuple[StageName, ...]
    parameters: int


def convert(
    checkpoint: Path,
    out: Path,
    *,
    base: Path | None = None,
    weights: Weights = "ema",
    preset: str | None = None,
    half: bool = False,
) -> Conversion:
    """Write the pipeline folder of an ImagenTrainer checkpoint, in the precision that the file has.

    The file is memory-mapped and no code of it runs. Only the chosen weights are read.

    Args:
        checkpoint: the file.
        out: the folder; missing or empty.
        base: another checkpoint, whose base stage is taken.
        weights: the averaged ones (``ema``), or those that were trained (``online``).
        preset: name or YAML file of the preset; by default the one of the package that fits.
        half: store the weights in float16.

    Raises:
        UsageError: ``out`` is not empty, the preset is not one of RSDiff's, or the file has no base stage
            and ``base`` is not given.
        SatcascadeError: a file is no checkpoint, holds other objects than tensors, lacks the weights asked
            for, or fits no preset; or there is no space for the result.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: choose another folder")
    candidates = _candidates(preset)
    stages = _read_stages(Path(checkpoint), None if base is None else Path(base), weights)
    settings = _matching(candidates, stages, Path(checkpoint), chosen=preset is not None)
    tensors = [value for stage in stages.values() for value in stage.values()]
    check_space(out, sum(value.numel() * (2 if half else value.element_size()) for value in tensors))
    networks = {name: _network(settings.stage(name).model, values, half) for name, values in stages.items()}
    build_pipeline(settings, networks["base"], networks.get("sr")).save_pretrained(out)
    return Conversion(settings.name, tuple(stages), sum(value.numel() for value in tensors))


def export(model: str | Path, out: Path) -> None:
    """Write an RSDiff model as a file that ``ImagenTrainer.load`` of imagen-pytorch takes.

    Trained and averaged weights are the same ones, and stored once. The optimisers' states are those of a
    fresh trainer with RSDiff's settings, so that training can be resumed from the file. It does not say what
    the networks predict: where that is v, the ``Imagen`` that loads it needs ``pred_objectives="v"``.

    Args:
        model: as :meth:`satcascade.pipelines.cascade.CascadePipeline.from_pretrained` takes it.
        out: the file; it must not exist.

    Raises:
        UsageError: ``out`` exists.
        SatcascadeError: the model's networks are not RSDiff's, or the disk is full.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{out} exists: choose another file")
    with without_loading_bars():
        pipeline = CascadePipeline.from_pretrained(model)
    networks = [network for network in (pipeline.unet, pipeline.sr_unet) if network is not None]
    if not all(isinstance(network, RSDiffUNet) for network in networks):
        raise SatcascadeError(
            f"model {model} is no RSDiff model ({type(pipeline.unet).__name__}): imagen-pytorch has no such "
            "network, so it cannot be exported"
        )
    content: dict[str, Any] = {"model": {}, "version": _IMAGEN_VERSION}
    content["steps"] = torch.zeros(len(networks), dtype=torch.long)
    ema: dict[str, Tensor] = {}
    for index, network in enumerate(networks):
        network.to(memory_format=torch.contiguous_format)
        tensors = to_imagen_names(network.state_dict(), network.config)
        content["model"] |= {f"unets.{index}.{name}": value for name, value in tensors.items()}
        ema |= {f"{index}.initted": torch.tensor(True), f"{index}.step": torch.tensor(0)}
        for kind in ("online_model", "ema_model"):
            ema |= {f"{index}.{kind}.{name}": value for name, value in tensors.items()}
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
        content |= {f"scaler{index}": {}, f"optim{index}": optimizer.state_dict()}
    content["ema"] = ema
    with atomic_write(out) as aside:
        torch.save(content, aside)


def _candidates(preset: str | None) -> list[Preset]:
    """The presets to compare with."""
    presets = [load_preset(name) for name in ([preset] if preset else preset_names())]
    candidates = [
        settings
        for settings in presets
        if all(isinstance(settings.stage(name).model, RSDiffModel) for name in settings.stage_names)
    ]
    if not candidates:
        raise UsageError(f"preset '{preset}' is not of architecture rsdiff: give one that is, or none")
    return candidates


def _read_stages(checkpoint: Path, base: Path | None, weights: Weights) -> dict[StageName, dict[str, Tensor]]:
    """The chosen weights of each stage that there is, by imagen-pytorch's names."""
    content = _read(checkpoint)
    stages: dict[StageName, dict[str, Tensor]] = {}
    if base is not None:
        stages["base"] = _stage(_read(base), "base", weights, base)
    elif _has_stage(content, "base"):
        stages["base"] = _stage(content, "base", weights, checkpoint)
    else:
        raise UsageError(
            f"{checkpoint} has no base stage (a slim super-resolution milestone): add --base FILE, a "
            "checkpoint of the base stage"
        )
    # A run of the base stage alone is a model too.
    if base is not None or _has_stage(content, "sr"):
        stages["sr"] = _stage(content, "sr", weights, checkpoint)
    return stages


def _read(path: Path) -> Mapping[str, Any]:
    """The dictionary in a checkpoint, its tensors still on the disk where the file's format allows it."""
    try:
        with path.open("rb") as file:
            mappable = file.read(len(_ZIP_START)) == _ZIP_START
        # Files of torch before 1.6 are no archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for what it cannot read
        match = re.search(r"GLOBAL (\S+)", str(error))
        if match:
            raise SatcascadeError(
                f"{path} asks to load Python objects ({match[1]}) and was refused, nothing of it was run: "
                "only tensors are read, take a file from a source that you trust"
            ) from error
        raise SatcascadeError(
            f"{path} is no checkpoint, or is cut short or damaged ({one_line(error)[:80]}): copy or download "
            "it again"
        ) from error
    parts = {name: content[name] for name in ("model", "ema") if name in content} if _is_dict(content) else {}
    if not parts or not all(_is_dict(part) for part in parts.values()):
        raise SatcascadeError(f"{path} is no ImagenTrainer checkpoint: it has no 'model' or 'ema' weights")
    return parts


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _weights_in(content: Mapping[str, Any], stage: StageName, weights: Weights) -> dict[str, Tensor]:
    for part, place in _PLACES[weights]:
        prefix = place.format(_STAGES[stage][0])
        tensors = {
            name.removeprefix(prefix): value
            for name, value in content.get(part, {}).items()
            if name.startswith(prefix)
        }
        if tensors and tensors.keys() != _PLACEHOLDER:
            return tensors
    return {}


def _has_stage(content: Mapping[str, Any], stage: StageName) -> bool:
    return any(_weights_in(content, stage, weights) for weights in _PLACES)


def _stage(content: Mapping[str, Any], stage: StageName, weights: Weights, path: Path) -> dict[str, Tensor]:
    tensors = _weights_in(content, stage, weights)
    if tensors:
        for name, value in tensors.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise SatcascadeError(f"{path} is no ImagenTrainer checkpoint: '{name}' is no weight tensor")
        return tensors
    which = _STAGES[stage][1]
    if not _has_stage(content, stage):
        raise SatcascadeError(f"{path} has no {which}: give a checkpoint that has one")
    kinds = {"ema": "averaged (EMA)", "online": "online"}
    other = "online" if weights == "ema" else "ema"
    raise SatcascadeError(
        f"{path} has no {kinds[weights]} weights of the {which}, only its {kinds[other]} ones: use "
        f"--weights {other}"
    )


def _matching(
    candidates: list[Preset], stages: Mapping[StageName, Mapping[str, Tensor]], path: Path, chosen: bool
) -> Preset:
    """The preset that the weights fit."""
    misfits = {}
    for settings in candidates:
        counts, texts = zip(
            *(_misfit(values, settings.stage(name).model, name) for name, values in stages.items()),
            strict=True,
        )
        if not any(counts):
            return settings
        misfits[sum(counts)] = settings.name, next(text for text in texts if text)
    name, text = misfits[min(misfits)]
    if chosen:
        raise SatcascadeError(f"{path} does not fit preset {name}: {text}")
    raise SatcascadeError(
        f"{path} fits no preset of the package; nearest is {name}, but {text}: describe the networks in a "
        "YAML file and give it with --preset"
    )


def _misfit(weights: Mapping[str, Tensor], config: Any, stage: StageName) -> tuple[int, str]:
    """How many parameters do not fit a configuration, and which."""
    arguments = config.arguments()
    try:
        from_imagen_names(weights, arguments)
    except SatcascadeError as error:
        what = str(error).partition(": ")[2]
        shapes = _empty_network(config).state_dict()
        expected = {theirs: shapes[ours].shape for ours, theirs in imagen_names(arguments).items()}
        given = {name: value.shape for name, value in weights.items()}
        return len(given.items() ^ expected.items()), f"the {_STAGES[stage][1]} has parameters {what}"
    return 0, ""


def _empty_network(config: Any) -> nn.Module:
    with torch.device("meta"):
        return build_model(config)


def _network(config: Any, weights: Mapping[str, Tensor], half: bool) -> nn.Module:
    """The network around the given tensors, which are not copied unless ``half`` converts them."""
    ours = from_imagen_names(weights, config.arguments())
    network = _empty_network(config)
    network.load_state_dict(
        {name: value.half() if half else value for name, value in ours.items()}, assign=True
    )
    return network
