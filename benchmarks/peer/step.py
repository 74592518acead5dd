"""Steps of the peer's sampler, on request: run by the peer's own Python (see make_environment.sh).

    python benchmarks/peer/step.py INPUTS.safetensors --stage base|sr --threads N --device cpu --clock wall

INPUTS holds the network's weights under imagen-pytorch's names (``weights.*``) and what a step takes
(``in.*``). Each line of the standard input asks for one thing: ``step`` for a step of ``Imagen.p_sample``
with guidance 5, answered by its seconds; ``predict FILE`` for the guided prediction, which goes to FILE.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from rsdiff.cascade import build_imagen
from rsdiff.config import load_preset
from safetensors.torch import load_file, save_file


def main() -> None:
    """Answer requests until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs")
    parser.add_argument("--stage", choices=["base", "sr"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--clock", choices=["wall", "cpu"], required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tensors = load_file(arguments.inputs, device=arguments.device)
    imagen = build_imagen(load_preset("rsdiff1.5").cascade, text_embed_dim=768).to(arguments.device).eval()
    index = ["base", "sr"].index(arguments.stage)
    unet, scheduler = imagen.unets[index], imagen.noise_schedulers[index]
    unet.load_state_dict(
        {name[len("weights.") :]: value for name, value in tensors.items() if name.startswith("weights.")}
    )
    x, time_now, time_next = tensors["in.x"], tensors["in.time"], tensors["in.time_next"]
    text = {
        "text_embeds": tensors["in.embeddings"],
        "text_mask": tensors["in.mask"].bool(),
        "cond_scale": 5.0,
    }
    low_res, level = tensors.get("in.low_res"), tensors.get("in.low_res_time")

    def step() -> torch.Tensor:
        image, _ = imagen.p_sample(
            unet,
            x,
            time_now,
            t_next=time_next,
            noise_scheduler=scheduler,
            lowres_cond_img=low_res,
            lowres_noise_times=level,
            **text,
        )
        return image

    def predict() -> torch.Tensor:
        return unet.forward_with_cond_scale(
            x,
            scheduler.get_condition(time_now),
            lowres_cond_img=low_res,
            lowres_noise_times=imagen.lowres_noise_schedule.get_condition(level),
            **text,
        )

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    with torch.no_grad():
        for request in sys.stdin:
            what, *where = request.split()
            start = clock()
            result = step() if what == "step" else predict()
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds = clock() - start
            if where:
                save_file({"prediction": result.cpu()}, where[0])
            print(seconds, flush=True)


if __name__ == "__main__":
    main()
