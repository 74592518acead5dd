"""RSDiff here against RSDiff on imagen-pytorch: seconds a guided step and a picture, and the limit of both.

    sh benchmarks/peer/make_environment.sh /tmp/peer
    python benchmarks/rsdiff_speed.py --peer /tmp/peer [--threads 2] [--runs 5] [--device cpu]

Both sides compute the same step (both branches, projected guidance of 5, dynamic thresholding, the draw from
the posterior) from the same weights, which are random, and the same inputs. They take turns: a step of the
peer, one of ours in float32, one in bfloat16, and again. With ``--compile`` ours runs under ``torch.compile``
too. On a machine busy with other work, ``--clock cpu --threads 1`` counts the seconds of processor time that
a step takes instead of those that pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attainable import attainable, operations
from satcascade.config.preset import load_preset
from satcascade.diffusion.guidance import guide
from satcascade.diffusion.process import cosine_log_snr, linear_log_snr
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.hardware.precision import autocast
from satcascade.interop.imagen_names import to_imagen_names
from satcascade.models.registry import build_model
from satcascade.models.text import TextEmbeddings
from satcascade.pipelines.assembly import build_pipeline

PEER_STEPS = 1000
TOKENS = 20
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Case:
    """One stage at one batch size: the network, its inputs, and the peer that computes the same."""

    def __init__(self, stage: str, unet: Any, batch: int, arguments: argparse.Namespace, folder: Path):
        self.stage, self.unet, self.batch, self.device = stage, unet, batch, arguments.device
        self.clock = CLOCKS[arguments.clock]
        size = unet.config.sample_size
        draw = torch.Generator().manual_seed(1)
        time_now = torch.full((batch,), 0.5)
        self.inputs = {
            "x": torch.randn(batch, 3, size, size, generator=draw),
            "time": time_now,
            "time_next": time_now - 1 / PEER_STEPS,
            "embeddings": 0.2 * torch.randn(batch, TOKENS, 768, generator=draw),
            "mask": torch.ones(batch, TOKENS, dtype=torch.bool),
        }
        if unet.config.low_res:
            self.inputs["low_res"] = torch.randn(batch, 3, size, size, generator=draw)
            self.inputs["low_res_time"] = torch.full((batch,), 0.2)
        tensors = {f"in.{name}": value for name, value in self.inputs.items()}
        for name, value in to_imagen_names(unet.state_dict(), unet.config).items():
            tensors[f"weights.{name}"] = value.cpu().contiguous()
        self.folder = folder
        save_file(tensors, folder / "inputs.safetensors")
        self.peer = subprocess.Popen(
            [
                *(arguments.peer / "bin" / "python", "-W", "ignore"),
                *(Path(__file__).parent / "peer" / "step.py", folder / "inputs.safetensors"),
                *("--stage", stage, "--threads", str(arguments.threads), "--device", arguments.device),
                *("--clock", arguments.clock),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HOME": str(arguments.peer / "hub"), "HF_HUB_OFFLINE": "1"},
        )
        self.scheduler = RSDiffScheduler()
        self.scheduler.set_timesteps(PEER_STEPS, self.device)
        self.inputs = {name: value.to(self.device) for name, value in self.inputs.items()}

    def ask_peer(self, request: str) -> float:
        """Seconds that the peer took for it."""
        assert self.peer.stdin is not None
        assert self.peer.stdout is not None
        print(request, file=self.peer.stdin, flush=True)
        return float(self.peer.stdout.readline())

    def peers_prediction(self) -> Tensor:
        """What the peer predicts, guided."""
        path = self.folder / "prediction.safetensors"
        self.ask_peer(f"predict {path}")
        return load_file(path)["prediction"]

    def network_inputs(self) -> tuple[Any, ...]:
        """Arguments of the network for both branches."""
        values = self.inputs
        keep = torch.arange(2 * self.batch, device=self.device) < self.batch
        text = self.unet.encode_text(values["embeddings"].repeat(2, 1, 1), values["mask"].repeat(2, 1), keep)
        low_res: tuple[Any, ...] = (None, None)
        if "low_res" in values:
            low_res = (
                values["low_res"].repeat(2, 1, 1, 1),
                linear_log_snr(values["low_res_time"]).repeat(2),
            )
        return (values["x"].repeat(2, 1, 1, 1), cosine_log_snr(values["time"]).repeat(2), text, *low_res)

    def predict(self, network: Callable[..., Tensor], inputs: tuple[Any, ...]) -> Tensor:
        """What our network predicts, guided."""
        return guide(*network(*inputs).chunk(2), scale=5.0, projected=True)

    def step(self, network: Callable[..., Tensor], inputs: tuple[Any, ...]) -> float:
        """Seconds of a step of ours."""
        start = self.clock()
        self.scheduler._step_index = None
        prediction = self.predict(network, inputs)
        self.scheduler.step(prediction, self.scheduler.timesteps[PEER_STEPS // 2], self.inputs["x"])
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return self.clock() - start

    def close(self) -> None:
        """End the peer."""
        assert self.peer.stdin is not None
        self.peer.stdin.close()
        self.peer.wait()


def random_network(stage: str) -> Any:
    """The network of a stage of the preset, with random weights that let everything through."""
    torch.manual_seed(0)
    unet: Any = build_model(getattr(load_preset("rsdiff1.5"), stage).model).eval()
    nn.init.normal_(unet.out.weight, std=0.02)
    return unet.to(memory_format=torch.channels_last)


def multiplications(stage: str) -> float:
    """Floating-point operations (two a multiplication) of a guided step, batch 1."""
    with torch.device("meta"), torch.no_grad():
        unet: Any = build_model(getattr(load_preset("rsdiff1.5"), stage).model)
        size, both = unet.config.sample_size, 2
        text = unet.encode_text(torch.empty(both, TOKENS, 768), torch.ones(both, TOKENS, dtype=torch.bool))
        image, level = torch.empty(both, 3, size, size), torch.empty(both)
        low_res = (image, level) if unet.config.low_res else ()
        return operations(lambda: unet(image, level, text, *low_res))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """L2, relative to the expected."""
    return float((found.cpu() - expected.cpu()).norm() / expected.norm())


def time_case(case: Case, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of each side, taking turns; prints how far the predictions are apart."""
    seconds: dict[str, list[float]] = {"peer": []}
    networks: dict[str, Callable[..., Tensor]] = {"": case.unet}
    if arguments.compile:
        networks[" compiled"] = torch.compile(case.unet)
    expected = case.peers_prediction()
    errors = []
    for turn in range(arguments.runs + 1):
        results = {"peer": case.ask_peer("step")}
        for label, network in networks.items():
            for precision, dtype in PRECISIONS.items():
                with autocast(dtype, case.device):
                    inputs = case.network_inputs()
                    if turn == 0:
                        error = relative_error(case.predict(network, inputs), expected)
                        errors.append(f"{precision}{label} {error:.1e}")
                    results[precision + label] = case.step(network, inputs)
        # The first turn warms up.
        for name, value in results.items() if turn else ():
            seconds.setdefault(name, []).append(value)
    print(
        f"\n{case.stage}, batch {case.batch}: relative error to the peer's guided prediction:",
        ", ".join(errors),
    )
    return seconds


def whole_pictures(unets: dict[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one picture of ours from its embedded caption, few-step sampler, by precision."""
    pipeline = build_pipeline(load_preset("rsdiff1.5"), unets["base"], unets["sr"]).to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    text = TextEmbeddings(0.2 * torch.randn(1, TOKENS, 768), torch.ones(1, TOKENS, dtype=torch.bool))
    found = {}
    for pipeline.precision in PRECISIONS:
        start = CLOCKS[arguments.clock]()
        pipeline(
            prompt_embeds=text,
            seeds=[0],
            num_inference_steps=arguments.base_steps,
            sr_num_inference_steps=arguments.sr_steps,
            output_type="np",
        )
        found[pipeline.precision] = CLOCKS[arguments.clock]() - start
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", type=Path, default=os.environ.get("SATCASCADE_PEER"), help="its environment"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--base-steps", type=int, default=20)
    parser.add_argument("--sr-steps", type=int, default=12)
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    parser.add_argument("--cases", nargs="+", default=["base:1", "base:4", "sr:1"], metavar="STAGE:BATCH")
    parser.add_argument("--no-pictures", action="store_true", help="steps only")
    arguments = parser.parse_args()
    if arguments.peer is None:
        parser.error("--peer: the folder that benchmarks/peer/make_environment.sh made")
    arguments.peer = arguments.peer.absolute()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{arguments.threads} threads, {arguments.clock} time"
    )

    clock = CLOCKS[arguments.clock]
    limits = {name: attainable(dtype, arguments.device, clock) for name, dtype in PRECISIONS.items()}
    for name, (convolution, product) in limits.items():
        print(
            f"attainable in {name}: {convolution / 1e9:.0f} GFLOP/s convolution, {product / 1e9:.0f} matrices"
        )
    unets = {stage: random_network(stage).to(arguments.device) for stage in ("base", "sr")}
    peer_step: dict[str, float] = {}
    with torch.inference_mode():
        for text in arguments.cases:
            stage, batch = text.split(":")
            work = multiplications(stage) * int(batch)
            with tempfile.TemporaryDirectory() as folder:
                case = Case(stage, unets[stage], int(batch), arguments, Path(folder))
                seconds = time_case(case, arguments)
                case.close()
            if batch == "1":
                peer_step[stage] = min(seconds["peer"])
            print(f"{work / 1e9:.0f} GFLOP a guided step")
            print(
                "| side | median s | fastest s | times faster (median, fastest) | GFLOP/s | of attainable |"
            )
            print("|---|---|---|---|---|---|")
            peer = seconds["peer"]
            for name, values in seconds.items():
                median, fastest = statistics.median(values), min(values)
                faster = f"{statistics.median(peer) / median:.1f}, {min(peer) / fastest:.1f}"
                rate, limit = work / fastest, limits.get(name.split()[0], limits["float32"])[0]
                print(
                    f"| {name} | {median:.2f} | {fastest:.2f} | {faster} "
                    f"| {rate / 1e9:.0f} | {100 * rate / limit:.0f} % |"
                )
    if arguments.no_pictures or len(peer_step) < 2:
        return
    whole = PEER_STEPS * (peer_step["base"] + peer_step["sr"])
    print(f"\na picture, peer, estimated from its fastest steps ({PEER_STEPS} + {PEER_STEPS}): {whole:.0f} s")
    for precision, ours in whole_pictures(unets, arguments).items():
        steps = f"{arguments.base_steps} + {arguments.sr_steps} steps"
        print(
            f"a picture, ours, {precision}, measured ({steps}): {ours:.1f} s, {whole / ours:.0f} times faster"
        )


if __name__ == "__main__":
    main()
