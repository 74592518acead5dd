"""What else users of diffusers do with a pipeline; docs/reference/diffusers.md says which of it holds."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline

from rounding import assert_equal_but_for_rounding, nudged_weights
from satcascade.errors import SatcascadeError
from satcascade.pipelines.cascade import CascadePipeline
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(params=[tiny_pipeline, tiny_latent_pipeline], ids=["pixels", "latents"])
def pipeline(request: pytest.FixtureRequest, tiny_text_encoder: str) -> CascadePipeline:
    return request.param(tiny_text_encoder, low_res_log_snr=1.5, base_guidance=2.0)


def images(pipeline: CascadePipeline, seed: int = 1) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a pond", seeds=[seed], output_type="pt").images


def test_from_pipe_shares_networks_and_settings(pipeline):
    other = CascadePipeline.from_pipe(pipeline)
    assert other.unet is pipeline.unet
    assert other.sr_unet is pipeline.sr_unet
    assert torch.equal(images(other), images(pipeline))
    changed = CascadePipeline.from_pipe(pipeline, base_guidance=5.0)
    assert (changed.config.base_guidance, pipeline.config.base_guidance) == (5.0, 2.0)
    assert (images(changed) - images(pipeline)).abs().max() > 1e-4


def test_components_make_a_pipeline(pipeline):
    parts = pipeline.components
    names = {"unet", "scheduler", "sr_unet", "sr_scheduler", "vae"}
    assert set(parts) == names
    settings = {key: value for key, value in pipeline.config.items() if key not in names and key[0] != "_"}
    assert torch.equal(images(CascadePipeline(**parts, **settings)), images(pipeline))


@pytest.mark.slow
def test_a_compiled_network_makes_the_same_pictures_and_is_saved_as_it_was(pipeline, tmp_path: Path):
    # Traced and cut as for any backend; the one that generates code takes minutes.
    made = images(pipeline)
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    assert torch.equal(images(pipeline), made)
    pipeline.save_pretrained(tmp_path / "saved")
    saved = CascadePipeline.from_pretrained(tmp_path / "saved")
    assert type(saved.unet) is type(pipeline.unet._orig_mod)

    def again(seed: int) -> torch.Tensor:
        with nudged_weights(seed, saved.unet):
            return images(saved)

    # Loaded weights lie otherwise in memory, and are multiplied in another order.
    assert_equal_but_for_rounding(images(saved), made, again)


def test_auto_pipelines_do_not_know_the_cascade(pipeline):
    with pytest.raises(ValueError, match="can't find a pipeline linked to CascadePipeline"):
        AutoPipelineForText2Image.from_pipe(pipeline)


def test_threads_may_share_a_pipeline(pipeline):
    found: dict[int, torch.Tensor] = {}
    pipeline.set_progress_bar_config(disable=True)

    def work(seed: int) -> None:
        found[seed] = pipeline("a pond", seeds=[seed], output_type="pt").images

    threads = [Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        assert torch.equal(found[seed], images(pipeline, seed))


def test_a_pipeline_without_weights_says_so_in_one_line(pipeline):
    pipeline.to("meta")
    assert pipeline.unet.device.type == "meta"
    with pytest.raises(SatcascadeError, match="on the device 'meta', without weights") as refused:
        images(pipeline)
    assert "\n" not in str(refused.value)


def test_a_pipeline_of_ones_own_is_loaded_from_its_file(tiny_model, tmp_path: Path):
    (tmp_path / "pipeline.py").write_text(
        "import satcascade\n\n\nclass Arrays(satcascade.CascadePipeline):\n"
        "    def __call__(self, *given, **options):\n"
        "        return super().__call__(*given, **{'output_type': 'np', **options})\n"
    )
    loaded = DiffusionPipeline.from_pretrained(
        str(tiny_model), custom_pipeline=str(tmp_path), trust_remote_code=True
    )
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded).__name__ == "Arrays"
    assert loaded("a pond", seeds=[1]).images.shape == (1, 32, 32, 3)
