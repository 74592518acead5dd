"""A two-stage cascade of RSDiff's networks, small enough for tests: random weights, 16 and 32 pixels."""

from __future__ import annotations

import torch

from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.models.rsdiff_unet import RSDiffUNet
from satcascade.pipelines.cascade import CascadePipeline
from tiny_cascade import tiny_pipeline


def rsdiff_pipeline(text_encoder: str, **changes: object) -> CascadePipeline:
    """With RSDiff's own scheduler, and dynamic thresholding for the others."""
    layout = {"width": 8, "width_multipliers": [1, 2], "blocks": 1, "heads": 2, "head_dim": 4, "cond_dim": 8}
    layout |= {"self_attention": False, "cross_attention": [False, True], "text_dim": 16}
    networks = {}
    with torch.random.fork_rng():
        for name, more in (("unet", {"sample_size": 16}), ("sr_unet", {"sample_size": 32, "low_res": True})):
            torch.manual_seed(len(networks))
            networks[name] = RSDiffUNet(**layout, **more).eval()
            torch.nn.init.normal_(networks[name].out.weight, std=0.1)
    options = {"scheduler": RSDiffScheduler(), "sr_scheduler": None, "clip_x0": "dynamic", **networks}
    return tiny_pipeline(text_encoder, **options, **changes)
