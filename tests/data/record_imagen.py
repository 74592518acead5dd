"""Record what imagen-pytorch 2.1.0 computes, with tiny random networks.

For tests/models/test_rsdiff_parity.py:

    PEER/bin/python tests/data/record_imagen.py FOLDER [--variant tiny|other]

PEER is the environment that benchmarks/peer/make_environment.sh makes. On a CPU the same versions write the
same values again. README.md beside this script says what the files hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HOME", str(Path(sys.prefix) / "hub"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import imagen_pytorch
import torch
from imagen_pytorch import Imagen, ImagenTrainer, Unet
from safetensors.torch import save_file
from torch import Tensor

# Options of the original's `Unet`; what is not named is its default.
# The first multiplier is 1, as only then the original runs. `tiny` is what the repository has.
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {
        "text_embed_dim": 9,
        "image_sizes": [12, 24],
        "steps": 4,
        "caption_lengths": [8, 3, 1],
        "runs_of": 2,
        "output_scale": 0.015,
        "config": {
            "base": {
                "dim": 6,
                "cond_dim": 7,
                "dim_mults": [1, 2, 1],
                "num_resnet_blocks": [1, 0, 1],
                "attn_heads": 3,
                "attn_dim_head": 4,
                "layer_attns": [False, True, False],
                "layer_cross_attns": [True, False, True],
                "layer_attns_depth": [1, 2, 1],
                "attn_pool_num_latents": 5,
                "num_time_tokens": 3,
                "max_text_len": 6,
            },
            "sr": {
                "dim": 5,
                "cond_dim": 6,
                "dim_mults": [1, 2],
                "num_resnet_blocks": [0, 2],
                "attn_heads": 2,
                "attn_dim_head": 6,
                "layer_attns": [False, True],
                "layer_cross_attns": [True, False],
                "ff_mult": 3,
                "attn_pool_num_latents": 7,
                "learned_sinu_pos_emb_dim": 6,
                "init_cross_embed_kernel_sizes": [3, 5],
                "max_text_len": 11,
            },
        },
        "checkpoint_sizes": [6, 12],
        "checkpoint_config": {
            "base": {
                "dim": 4,
                "cond_dim": 3,
                "dim_mults": [1],
                "num_resnet_blocks": 0,
                "attn_heads": 2,
                "attn_dim_head": 4,
                "layer_cross_attns": False,
                "max_text_len": 7,
            },
            "sr": {
                "dim": 4,
                "cond_dim": 3,
                "dim_mults": [1],
                "num_resnet_blocks": 0,
                "attn_heads": 2,
                "attn_dim_head": 3,
                "max_text_len": 7,
            },
        },
    },
    "other": {
        "text_embed_dim": 21,
        "image_sizes": [24, 40],
        "steps": 6,
        "caption_lengths": [2, 11, 5],
        "runs_of": 3,
        "output_scale": 0.005,
        "may_be_chaotic": True,
        "config": {
            "base": {
                "dim": 6,
                "cond_dim": 14,
                "dim_mults": [1, 2, 3, 1],
                "num_resnet_blocks": [0, 1, 2, 1],
                "attn_heads": 5,
                "attn_dim_head": 3,
                "layer_attns": True,
                "layer_cross_attns": False,
                "layer_attns_depth": [2, 1, 1, 3],
                "layer_mid_attns_depth": 2,
                "ff_mult": 1.5,
                "attn_pool_num_latents": 1,
                "num_time_tokens": 1,
                "learned_sinu_pos_emb_dim": 2,
                "init_cross_embed_kernel_sizes": [9, 3],
            },
            "sr": {
                "dim": 12,
                "dim_mults": [1, 3, 2],
                "num_resnet_blocks": [2, 0, 1],
                "attn_heads": 4,
                "attn_dim_head": 5,
                "layer_attns": False,
                "layer_cross_attns": True,
                "layer_mid_attns_depth": 0,
                "attn_pool_num_latents": 40,
                "num_time_tokens": 4,
                "init_cross_embed_kernel_sizes": [5],
                "max_text_len": 12,
            },
        },
        "checkpoint_sizes": [20, 28],
        "checkpoint_config": {
            "base": {
                "dim": 7,
                "dim_mults": [1, 3],
                "num_resnet_blocks": [1, 2],
                "attn_heads": 3,
                "attn_dim_head": 2,
                "ff_mult": 2.5,
                "num_time_tokens": 1,
                "max_text_len": 4,
            },
            "sr": {
                "dim": 9,
                "cond_dim": 5,
                "dim_mults": [1, 1, 2],
                "num_resnet_blocks": [1, 0, 1],
                "attn_heads": 6,
                "attn_dim_head": 3,
                "layer_attns": [True, False, False],
                "layer_cross_attns": [False, False, True],
                "layer_mid_attns_depth": 2,
            },
        },
    },
}
COND_DROP_PROB = 0.1
LOWRES_SAMPLE_NOISE_LEVEL = 0.2
SCALE = 5.0


class Recorder:
    """Makes and records one variant's networks; ``text`` goes to all of them."""

    def __init__(self, folder: Path, variant: dict[str, Any]):
        self.folder, self.variant = folder, variant
        lengths = variant["caption_lengths"]
        # Beyond its end a caption holds values too, so that a mask that is not obeyed is noticed.
        self.embeddings = torch.randn(len(lengths), max(lengths), variant["text_embed_dim"])
        self.mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def text(self, rows: int | None = None) -> dict[str, Tensor]:
        return {"text_embeds": self.embeddings[:rows].clone(), "text_mask": self.mask[:rows].clone()}

    def unets(self, config: dict[str, dict[str, Any]]) -> dict[str, Unet]:
        width = self.variant["text_embed_dim"]
        unets = {
            stage: Unet(**options, text_embed_dim=width, lowres_cond=stage != "base")
            for stage, options in config.items()
        }
        for unet in unets.values():
            randomise(unet, self.variant["output_scale"])
        return unets

    def imagen(self, unets: dict[str, Unet], sizes: list[int]) -> Imagen:
        return Imagen(
            list(unets.values()),
            image_sizes=sizes,
            text_embed_dim=self.variant["text_embed_dim"],
            timesteps=self.variant["steps"],
            cond_drop_prob=COND_DROP_PROB,
            lowres_sample_noise_level=LOWRES_SAMPLE_NOISE_LEVEL,
        )

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        stored = {
            key: (value.byte() if value.dtype is torch.bool else value).detach().contiguous().clone()
            for key, value in tensors.items()
        }
        save_file(stored, self.folder / f"{name}.safetensors")

    def inputs(self, unet: Unet, size: int, levels: list[float]) -> dict[str, Tensor]:
        shape = (len(self.mask), 3, size, size)
        inputs = {"x": torch.randn(shape), "log_snr": torch.tensor(levels)}
        if unet.lowres_cond:
            inputs |= {"lowres_cond_img": torch.randn(shape), "lowres_log_snr": torch.full(shape[:1], 1.5)}
        return inputs

    def schedules(self, imagen: Imagen) -> None:
        times = torch.linspace(0, 1, 101)
        self.save(
            "schedules",
            {
                "t": times,
                "cosine_log_snr": imagen.noise_schedulers[0].get_condition(times),
                "linear_log_snr": imagen.lowres_noise_schedule.get_condition(times),
            },
        )

    def networks(self, unets: dict[str, Unet]) -> None:
        for (stage, unet), size in zip(unets.items(), self.variant["image_sizes"], strict=True):
            inputs, text = self.inputs(unet, size, [3.0, 0.1, -5.0]), self.text()
            outputs = {
                "cond": call(unet, inputs, text),
                "null": call(unet, inputs, text, cond_drop_prob=1.0),
                "cfg5_plain": guided(unet, inputs, text, remove_parallel_component=False),
                "cfg5_projected": guided(unet, inputs, text),
            }
            check_parameters_matter(stage, unet, inputs, text)
            self.save(
                f"unet_{stage}",
                {f"weights.{name}": value for name, value in unet.state_dict().items()}
                | {f"in.{name}": value for name, value in (inputs | text).items()}
                | {f"out.{name}": value for name, value in outputs.items()},
            )

    def runs(self, imagen: Imagen) -> None:
        text = self.text(self.variant["runs_of"])
        kinds: dict[str, dict[str, Any]] = {
            "scale1": {"cond_scale": 1.0},
            "scale5_plain": {"cond_scale": SCALE, "cfg_remove_parallel_component": False},
            "scale5_projected": {"cond_scale": SCALE},
        }
        for name, options in kinds.items():

            def sample(options: dict[str, Any] = options) -> tuple[Tensor, Tensor]:
                base, sr = imagen.sample(
                    text_embeds=text["text_embeds"],
                    text_masks=text["text_mask"],
                    return_all_unet_outputs=True,
                    use_tqdm=False,
                    **options,
                )
                return base, sr

            with recorded_draws() as draws:
                base, sr = sample()
            for rounding in (1e-7, 3e-7):
                with recorded_draws([draw + rounding * torch.randn(draw.shape) for draw in draws]):
                    moved = [
                        error(found, kept) / rounding
                        for found, kept in zip(sample(), (base, sr), strict=True)
                    ]
                print(f"{name}: draws that move by {rounding} move base, sr by {moved} of it")
                if max(moved) > 100 and not self.variant.get("may_be_chaotic"):
                    raise SystemExit(f"{name} is chaotic; choose other weights")
            self.save(
                f"sampling_{name}",
                {f"draw.{index:02}": draw for index, draw in enumerate(draws)}
                | {f"in.{key}": value for key, value in text.items()}
                | {"out.base": base, "out.sr": sr},
            )

    def loss(self, imagen: Imagen) -> None:
        text = self.text()
        tensors = text.copy()
        imagen.cond_drop_prob = 0.0
        for index, (stage, size) in enumerate(
            zip(self.variant["config"], self.variant["image_sizes"], strict=True)
        ):
            shape = (len(self.mask), 3, size, size)
            own = {
                "images": torch.rand(shape),
                "noise": torch.randn(shape),
                "times": torch.tensor([0.1, 0.5, 0.9]),
            }
            low_res: dict[str, Tensor] = {}
            if index:
                small = imagen.resize_to(own["images"], self.variant["image_sizes"][index - 1])
                own["lowres_images"] = imagen.resize_to(small, size)
                own["lowres_aug_times"] = torch.full(shape[:1], 0.3)
                low_res = {
                    "lowres_cond_img": own["lowres_images"],
                    "lowres_aug_times": own["lowres_aug_times"],
                }
            with recorded_draws() as draws:
                loss = imagen.p_losses(
                    imagen.unets[index],
                    own["images"],
                    own["times"],
                    noise=own["noise"],
                    noise_scheduler=imagen.noise_schedulers[index],
                    min_snr_gamma=imagen.min_snr_gamma[index],
                    **text,
                    **low_res,
                )
            if index:
                (own["lowres_noise"],) = draws
            tensors |= {f"{stage}.{name}": value for name, value in (own | {"loss": loss[None]}).items()}
        imagen.cond_drop_prob = COND_DROP_PROB
        self.save("loss", tensors)

    def trainer_checkpoint(self) -> dict[str, Any]:
        """Two steps of the first stage, then, in another trainer, three of the second.

        A third trainer only saves: its optimisers hold nothing yet, which keeps the file small.
        """
        sizes, text = self.variant["checkpoint_sizes"], self.text()
        path = self.folder / "imagen_trainer.pt"
        with tempfile.TemporaryDirectory() as scratch:
            parts = [Path(scratch) / "first.pt", Path(scratch) / "second.pt"]
            for number, (part, steps) in enumerate(zip(parts, (2, 3), strict=True), 1):
                trainer = self._trainer(sizes)
                if number > 1:
                    trainer.load(str(parts[0]))
                for _ in range(steps):
                    trainer(
                        torch.rand(len(self.mask), 3, sizes[-1], sizes[-1]),
                        text_embeds=text["text_embeds"],
                        text_masks=text["text_mask"],
                        unet_number=number,
                    )
                    trainer.update(unet_number=number)
                trainer.save(str(part), without_optim_and_sched=True)
            trainer = self._trainer(sizes)
            trainer.load(str(parts[1]))
        trainer.save(str(path))
        tensors = text.copy()
        for index, (stage, size) in enumerate(zip(self.variant["checkpoint_config"], sizes, strict=True)):
            inputs = self.inputs(trainer.imagen.unets[index], size, [2.0, 0.5, -4.0])
            outputs = {
                "ema": call(trainer.ema_unets[index].ema_model, inputs, text),
                "online": call(trainer.imagen.unets[index], inputs, text),
            }
            print(f"{stage}: EMA and online differ by {error(outputs['ema'], outputs['online']):.3f}")
            tensors |= {f"{stage}.in.{name}": value for name, value in inputs.items()}
            tensors |= {f"{stage}.out.{name}": value for name, value in outputs.items()}
        self.save("imagen_trainer_outputs", tensors)
        return torch.load(path, map_location="cpu", weights_only=True)

    def _trainer(self, sizes: list[int]) -> ImagenTrainer:
        return ImagenTrainer(
            self.imagen(self.unets(self.variant["checkpoint_config"]), sizes),
            lr=3e-2,
            ema_update_every=1,
            ema_update_after_step=0,
            verbose=False,
            accelerate_cpu=True,
        )

    def reference(self, checkpoint: dict[str, Any]) -> None:
        variant = self.variant
        content = {
            "config": variant["config"],
            "text_embed_dim": variant["text_embed_dim"],
            "image_sizes": variant["image_sizes"],
            "steps": variant["steps"],
            "imagen_pytorch": imagen_pytorch.__version__,
            "torch": torch.__version__,
            "cond_drop_prob": COND_DROP_PROB,
            "lowres_sample_noise_level": LOWRES_SAMPLE_NOISE_LEVEL,
            "checkpoint_config": variant["checkpoint_config"],
            "checkpoint_keys": {name: type(value).__name__ for name, value in checkpoint.items()},
            "model_keys_sample": list(checkpoint["model"])[:4],
            "ema_keys_sample": list(checkpoint["ema"])[:5],
        }
        (self.folder / "reference.json").write_text(json.dumps(content, indent=1) + "\n")


@torch.no_grad()
def randomise(unet: Unet, output_scale: float) -> None:
    """Move every parameter off its initial value, so that each matters, yet keep the network tame.

    With a much larger output, sampling becomes chaotic: rounding decides where it ends. The gates of
    global context hardly do anything as the original initialises them.
    """
    for name, parameter in unet.named_parameters():
        if name.startswith("final_conv"):
            parameter.normal_(std=output_scale * parameter[0].numel() ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.02 if parameter.ndim in (2, 4) else 0.1)
            if ".gca." in name:
                parameter.mul_(15.0 if ".to_k." in name else 3.0)


@torch.no_grad()
def call(unet: Unet, inputs: dict[str, Tensor], text: dict[str, Tensor], **options: Any) -> Tensor:
    return unet(**_keywords(inputs), **text, **options)


@torch.no_grad()
def guided(unet: Unet, inputs: dict[str, Tensor], text: dict[str, Tensor], **options: Any) -> Tensor:
    inputs = _keywords(inputs)
    x, time = inputs.pop("x"), inputs.pop("time")
    return unet.forward_with_cond_scale(x, time, cond_scale=SCALE, **inputs, **text, **options)


def _keywords(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the original calls a time, and a noise time, is a log-SNR once it reaches the network."""
    theirs = {"log_snr": "time", "lowres_log_snr": "lowres_noise_times"}
    return {theirs.get(name, name): value for name, value in inputs.items()}


@contextlib.contextmanager
def recorded_draws(replay: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Every normal draw while this is open, in order; those of ``replay`` instead if given."""
    draws: list[Tensor] = []
    randn, waiting = torch.randn, None if replay is None else list(replay)

    def draw(shape: Any, **_: Any) -> Tensor:
        draws.append(randn(tuple(shape)) if waiting is None else waiting.pop(0))
        return draws[-1].clone()

    with (
        mock.patch.object(torch, "randn", draw),
        mock.patch.object(torch, "randn_like", lambda like, **_: draw(like.shape)),
    ):
        yield draws


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def check_parameters_matter(
    stage: str, unet: Unet, inputs: dict[str, Tensor], text: dict[str, Tensor]
) -> None:
    """Stop unless every parameter, set to 0, moves the conditional or the null output by 0.1 % or more.

    That is ten times the tolerance of the test. The one exception is the bias of the scores that a softmax
    over positions takes: it cannot matter.
    """
    inputs, text = ({name: value[:1] for name, value in group.items()} for group in (inputs, text))
    expected = [call(unet, inputs, text, cond_drop_prob=drop) for drop in (0.0, 1.0)]
    moved = {}
    for name, parameter in unet.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.zero_()
        found = [call(unet, inputs, text, cond_drop_prob=drop) for drop in (0.0, 1.0)]
        moved[name] = max(map(error, found, expected))
        parameter.data.copy_(kept)
    least = sorted((size, name) for name, size in moved.items() if not name.endswith("gca.to_k.bias"))
    print(f"{stage}: {len(moved)} parameters, output {expected[0].std():.2f}, least: {least[:5]}")
    if least[0][0] < 0.001:
        raise SystemExit(f"{stage}: these hardly matter: {[name for size, name in least if size < 0.001]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="tiny")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recorder = Recorder(options.folder, VARIANTS[options.variant])
    unets = recorder.unets(recorder.variant["config"])
    imagen = recorder.imagen(unets, recorder.variant["image_sizes"])
    recorder.schedules(imagen)
    recorder.networks(unets)
    recorder.runs(imagen)
    recorder.loss(imagen)
    recorder.reference(recorder.trainer_checkpoint())


if __name__ == "__main__":
    main()
