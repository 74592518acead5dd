"""Seconds of a training step of the peer's trainer, run by the peer's own Python (see make_environment.sh).

    python benchmarks/peer/train_step.py --stage base --batch-size 2 --threads 1 --precision no

The network is RSDiff's (27.2 or 105 million parameters) with text 384 wide; images and captions of 20 tokens
are random numbers that lie in memory, so that no time goes into data.
"""

from __future__ import annotations

import argparse
import time

import torch
from imagen_pytorch import ImagenTrainer
from rsdiff.cascade import build_imagen
from rsdiff.config import load_preset

_WARM_UP = 1


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=["base", "sr"], default="base")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cpu = not torch.cuda.is_available()
    imagen = build_imagen(load_preset("rsdiff1.5").cascade, text_embed_dim=384)
    number = 1 + (given.stage == "sr")
    trainer = ImagenTrainer(
        imagen, lr=1e-4, max_grad_norm=1.0, precision=given.precision, verbose=False, accelerate_cpu=cpu
    )
    device = trainer.accelerator.device
    images = torch.rand(given.batch_size, 3, 256, 256, device=device)
    text = torch.randn(given.batch_size, 20, 384, device=device)
    mask = torch.ones(given.batch_size, 20, dtype=torch.bool, device=device)

    def step() -> None:
        trainer(images, text_embeds=text, text_masks=mask, unet_number=number)
        trainer.update(unet_number=number)

    def now() -> float:
        if not cpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(_WARM_UP):
        step()
    began, used = now(), time.process_time()
    for _ in range(given.steps):
        step()
    seconds, used = (now() - began) / given.steps, (time.process_time() - used) / given.steps
    rate = given.batch_size / seconds
    print(f"batch {given.batch_size}: {seconds:.2f} s a step, {used:.2f} s of CPU, {rate:.2f} images/s")


if __name__ == "__main__":
    main()
