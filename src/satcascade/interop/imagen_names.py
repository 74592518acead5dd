"""imagen-pytorch's names for the options and the parameters of :class:`RSDiffUNet`.

Both directions are exact: every parameter of the one side has its own on the other, of the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from satcascade.errors import SatcascadeError
from satcascade.models.rsdiff_unet import RSDiffUNet

# Options of imagen-pytorch's ``Unet``, and those of RSDiffUNet.
OPTIONS = {
    "dim": "width",
    "dim_mults": "width_multipliers",
    "num_resnet_blocks": "blocks",
    "layer_attns": "self_attention",
    "layer_cross_attns": "cross_attention",
    "layer_attns_depth": "attention_depth",
    "layer_mid_attns_depth": "middle_attention_depth",
    "attn_heads": "heads",
    "attn_dim_head": "head_dim",
    "ff_mult": "ff_mult",
    "cond_dim": "cond_dim",
    "text_embed_dim": "text_dim",
    "max_text_len": "max_text_len",
    "attn_pool_num_latents": "text_latents",
    "num_time_tokens": "time_tokens",
    "learned_sinu_pos_emb_dim": "sinusoidal_dim",
    "init_cross_embed_kernel_sizes": "stem_kernels",
    "lowres_cond": "low_res",
}

# Where that library's defaults are not those of RSDiff; `cond_dim` is `dim` there.
_DEFAULTS: dict[str, Any] = {
    "dim_mults": (1, 2, 4, 8),
    "num_resnet_blocks": 1,
    "layer_attns": True,
    "layer_cross_attns": True,
}

# Where a parameter stands: the start of our name, as a pattern, and of theirs.
_PLACES = (
    (r"stem\.", "init_conv."),
    (r"noise_level\.", "to_time_"),
    (r"low_res_level\.", "to_lowres_time_"),
    (r"text\.project\.", "text_to_cond."),
    (r"text\.null_tokens", "null_text_embed"),
    (r"text\.null_pooled", "null_text_hidden"),
    (r"text\.pooled\.", "to_text_non_attn_cond."),
    (r"text\.resampler\.", "attn_pool."),
    (r"token_norm\.", "norm_cond."),
    (r"down\.(\d+)\.first\.", r"downs.\1.1."),
    (r"down\.(\d+)\.rest\.", r"downs.\1.2."),
    (r"down\.(\d+)\.transformer\.", r"downs.\1.3.layers."),
    (r"down\.(\d+)\.resize\.conv\.", r"downs.\1.4.1."),
    (r"down\.(\d+)\.resize\.area\.", r"downs.\1.4.fns.0."),
    (r"down\.(\d+)\.resize\.point\.", r"downs.\1.4.fns.1."),
    (r"middle\.first\.", "mid_block1."),
    (r"middle\.transformer\.", "mid_attn.layers."),
    (r"middle\.last\.", "mid_block2."),
    (r"up\.(\d+)\.first\.", r"ups.\1.0."),
    (r"up\.(\d+)\.rest\.", r"ups.\1.1."),
    (r"up\.(\d+)\.transformer\.", r"ups.\1.2.layers."),
    (r"up\.(\d+)\.resize\.conv\.", r"ups.\1.3.net.0."),
    (r"last_block\.", "final_res_block."),
    (r"out\.", "final_conv."),
)

# What a parameter is within its block: the end of our name, as a pattern, and of theirs. The first match
# counts; a name that none matches ends alike on both sides.
_PARTS = (
    # noise levels
    (r"frequencies", "hiddens.0.weights"),
    (r"hidden\.(\w+)", r"hiddens.1.\1"),
    (r"vector\.(\w+)", r"cond.0.\1"),
    (r"tokens\.(\w+)", r"tokens.0.\1"),
    # ResNet blocks
    (r"norm(\d)\.gain", r"block\1.norm.gamma"),
    (r"conv(\d)\.(\w+)", r"block\1.project.\2"),
    (r"modulate\.(\w+)", r"time_mlp.1.\1"),
    (r"gate\.score\.(\w+)", r"gca.to_k.\1"),
    (r"gate\.layers\.(\d\.\w+)", r"gca.net.\1"),
    (r"shortcut\.(\w+)", r"res_conv.\1"),
    # the resampler
    (r"positions", "pos_emb.weight"),
    (r"from_mean\.0\.weight", "to_latents_from_mean_pooled_seq.0.g"),
    (r"from_mean\.1\.(\w+)", r"to_latents_from_mean_pooled_seq.1.\1"),
    (r"token_norm\.(\w+)", r"norm.\1"),
    (r"latent_norm\.(\w+)", r"norm_latents.\1"),
    (r"out\.weight", "to_out.0.weight"),
    (r"out_norm\.(\w+)", r"to_out.1.\1"),
    # attention and feed-forward networks
    (r"norm\.weight", "norm.g"),
    (r"query\.weight", "to_q.weight"),
    (r"key_value\.weight", "to_kv.weight"),
    (r"null_key_value", "null_kv"),
    (r"query_scale", "q_scale"),
    (r"key_scale", "k_scale"),
    (r"condition\.(\d\.\w+)", r"to_context.\1"),
    (r"out\.0\.weight", "to_out.0.weight"),
    (r"out\.1\.weight", "to_out.1.g"),
    (r"feed_forward\.([03])\.weight", r"1.\1.g"),
    (r"feed_forward\.([14])\.weight", r"1.\1.weight"),
)


def from_imagen_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of :class:`RSDiffUNet` for those of imagen-pytorch's ``Unet``.

    What is not given is as in that library.

    Raises:
        SatcascadeError: an option that has no equivalent.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise SatcascadeError(f"imagen-pytorch options without an equivalent in RSDiffUNet: {_some(unknown)}")
    given = {name: value for name, value in options.items() if value is not None}
    narrow = {"cond_dim": given["dim"]} if "dim" in given else {}
    return {OPTIONS[name]: value for name, value in (_DEFAULTS | narrow | given).items()}


def imagen_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Our name of each parameter of the network that ``config`` describes, and imagen-pytorch's for it."""
    return {name: _to_imagen(name) for name in _skeleton(config)}


def from_imagen_names(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of :class:`RSDiffUNet` from those of imagen-pytorch's ``Unet``; tensors are not copied.

    Args:
        state_dict: parameters of one UNet, without a prefix.
        config: options of :class:`RSDiffUNet`.

    Raises:
        SatcascadeError: names are missing, too many, or of other shapes than ``config`` asks for.
    """
    shapes = _skeleton(config)
    theirs = {name: _to_imagen(name) for name in shapes}
    _check(state_dict, {theirs[name]: shape for name, shape in shapes.items()}, "imagen-pytorch")
    return {name: state_dict[theirs[name]] for name in shapes}


def to_imagen_names(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse of :func:`from_imagen_names`, with the same arguments and errors."""
    shapes = _skeleton(config)
    _check(state_dict, shapes, "RSDiffUNet")
    return {_to_imagen(name): state_dict[name] for name in shapes}


def _skeleton(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Every parameter's name and shape, without memory for its values."""
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device("meta"):
        return {name: value.shape for name, value in RSDiffUNet(**options).state_dict().items()}


def _to_imagen(name: str) -> str:
    for ours, theirs in _PLACES:
        place = re.match(ours, name)
        if place:
            # In a ResNet block attention has a name of its own; in a stack it is the first of two, hence 0.
            part = name[place.end() :].replace("cross_attention.", "cross_attn.").replace("attention.", "0.")
            for part_ours, part_theirs in _PARTS:
                ending = re.search(rf"(?:^|(?<=\.)){part_ours}$", part)
                if ending:
                    part = part[: ending.start()] + ending.expand(part_theirs)
                    break
            return place.expand(theirs) + part
    raise AssertionError(f"no rule for parameter {name}")


def _check(state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], whose: str) -> None:
    missing = [name for name in shapes if name not in state_dict]
    unknown = [name for name in state_dict if name not in shapes]
    misshapen = [
        f"{name} {list(state_dict[name].shape)} for {list(shape)}"
        for name, shape in shapes.items()
        if name in state_dict and state_dict[name].shape != shape
    ]
    problems = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise SatcascadeError(f"{whose} weights do not fit the configuration: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
