"""Presets: which networks they describe, which stages they have, and what earlier versions wrote."""

from __future__ import annotations

import inspect
from importlib import resources
from pathlib import Path

import pytest
import yaml

from satcascade.config.preset import load_preset, preset_names
from satcascade.errors import UsageError
from satcascade.models.compact_config import CompactModel
from satcascade.models.compact_unet import CompactUNet
from satcascade.models.network_config import NetworkConfig
from satcascade.models.rsdiff_config import RSDiffModel
from satcascade.models.rsdiff_unet import RSDiffUNet


@pytest.mark.parametrize(("config", "network"), [(CompactModel, CompactUNet), (RSDiffModel, RSDiffUNet)])
def test_a_networks_configuration_has_the_arguments_and_defaults_of_its_constructor(
    config: type[NetworkConfig], network: type
) -> None:
    arguments = inspect.signature(network.__init__).parameters
    assert set(config.model_fields) - {"architecture"} == set(arguments) - {"self"}
    for name, field in config.model_fields.items():
        # What is required, a preset has to say, whatever the constructor takes for it.
        if name != "architecture" and not field.is_required():
            assert field.default == arguments[name].default, name


def content(name: str = "compact") -> dict:
    return yaml.safe_load((resources.files("satcascade.presets") / f"{name}.yaml").read_text())


def loaded(content: dict, folder: Path, *overrides: str):
    (folder / "preset.yaml").write_text(yaml.safe_dump(content))
    return load_preset(str(folder / "preset.yaml"), overrides)


@pytest.mark.parametrize("name", preset_names())
def test_presets_of_the_package_have_their_stages(name):
    assert load_preset(name).stage_names == (("base",) if name == "latent" else ("base", "sr"))


def test_a_preset_may_have_one_stage(tmp_path):
    one = content()
    del one["sr"], one["sampling"]["sr"], one["sampling"]["low_res_log_snr"]
    preset = loaded(one, tmp_path)
    assert preset.stage_names == ("base",)
    assert preset.stage("base") is preset.base
    with pytest.raises(UsageError, match="preset 'compact' has no stage 'sr': it has base"):
        preset.stage("sr")


@pytest.mark.parametrize("key", ["sr", "low_res_log_snr"])
def test_a_second_stage_needs_its_sampling(key, tmp_path):
    two = content()
    del two["sampling"][key]
    with pytest.raises(UsageError, match=r"needs sampling\.sr and sampling\.low_res_log_snr"):
        loaded(two, tmp_path)


def test_guidance_is_read_by_the_name_it_had(tmp_path):
    old = content()
    for stage in ("base", "sr"):
        old["sampling"][stage]["guidance_scale"] = old["sampling"][stage].pop("guidance")
    assert loaded(old, tmp_path) == load_preset("compact")
    assert loaded(old, tmp_path, "sampling.base.guidance_scale=2").sampling.base.guidance == 2
    assert load_preset("compact", ["sampling.base.guidance=2"]).sampling.base.guidance == 2
