"""The command line: real processes for what depends on processes, in-process runs for the rest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forked import Forked, place
from forked import launch as launch_forked
from satcascade import cli
from satcascade.cli.launch import launch

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


class Result:
    def __init__(self, status: int, out: str, err: str):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(end.value.code, captured.out, captured.err)

    return run


def start(*arguments: object) -> subprocess.Popen:
    """The installed program, whose processes import what they need themselves."""
    return subprocess.Popen(
        [sys.executable, "-m", "satcascade", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forked(*arguments: object, **environment: str) -> Forked:
    return Forked(cli.main, [str(argument) for argument in arguments], environment=environment)


def files(folder: Path) -> dict[str, bytes]:
    # Locks stay, and are named after the shards that there were.
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def assert_refused(result: Result, status: int, *parts: str) -> None:
    assert result.status == status, result.err
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in result.err


# Fast answers


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom satcascade import cli\n"
        "try:\n    cli.main(['sample', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'yaml'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--scheduler" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sample"], ["give captions in one way"]),
        (["sample", ""], ["caption is empty"]),
        (["sample", "a pond", "  "], ["caption is empty"]),
        (["sample", "a pond", "--captions", "some.txt"], ["give captions in one way"]),
        (["sample", "--captions", "nowhere.txt"], ["no caption file nowhere.txt"]),
        (["sample", "--data", "nowhere"], ["no folder nowhere", "satcascade prepare"]),
        (["sample", "a pond", "-n", "0"], ["--number 0 is not possible: give 1 or more"]),
        (["sample", "a pond", "-n", "many"], ["-n"]),
        (["sample", "a pond", "--batch-size", "-1"], ["--batch-size -1 is not possible"]),
        (["sample", "a pond", "--steps", "0"], ["--steps 0 is not possible"]),
        (["sample", "a pond", "--base-steps", "-5"], ["--base-steps -5 is not possible"]),
        (["sample", "a pond", "--sr-steps", "0"], ["--sr-steps 0 is not possible"]),
        (["sample", "a pond", "--guidance", "-2"], ["--guidance -2.0 is not possible"]),
        (["sample", "a pond", "--seed", "-2"], ["--seed -2 is out of range"]),
        (["sample", "a pond", "--scheduler", "magic"], ["unknown scheduler 'magic'", "dpm++, "]),
        (["sample", "a pond", "--draw", "3"], ["--draw", "--data"]),
        (["sample", "a pond", "--columns", "0"], ["--columns 0 is not possible"]),
        (["sample", "a pond", "--stop-at", "lunch"], ["'--stop-at'", "lunch"]),
        (["sample", "a pond", "--model", "no-such"], ["unknown model 'no-such'", "builtin"]),
        (["sample", "a pond", "--model", "./no/such"], ["unknown model"]),
        (["sample", "a pond", "--device", "gpu0"], ["'gpu0' is not a device"]),
        (["sample", "a pond", "--precision", "int1"], ["'--precision'", "int1"]),
        (["sample", "a pond", "--shard", "3/2"], ["shard 3/2 is not possible", "1 <= I <= N"]),
        (["sample", "a pond", "--shard", "half"], ["shard 'half'"]),
        (["sample", "a pond", "--out", __file__], ["is a file"]),
        (["sample", "a pond", "--bogus"], ["No such option", "--bogus"]),
        (["edit"], ["Missing argument"]),
        (["edit", "nowhere.png", "a pond"], ["no image file nowhere.png"]),
        (["edit", __file__, " "], ["caption is empty"]),
        (["edit", __file__, "a pond", "--mask", "nowhere.png"], ["no image file nowhere.png"]),
        (["edit", __file__, "a pond", "--mask", __file__, "--box", "1,1,2,2"], ["--mask or with --box"]),
        (["edit", __file__, "a pond", "--strength", "1.5"], ["--strength 1.5 is not possible: give 0 to 1"]),
        (["edit", __file__, "a pond", "--strength", "-0.1"], ["--strength -0.1 is not possible"]),
        (["edit", __file__, "a pond", "--resampling", "0"], ["--resampling 0 is not possible"]),
        (["edit", __file__, "a pond", "--resampling", "2"], ["--resampling", "--mask or --box"]),
        (["edit", __file__, "a pond", "--feather", "4"], ["--feather", "--mask or --box"]),
        (
            ["edit", __file__, "a pond", "--box", "1,1,9,9", "--feather", "-4"],
            ["--feather -4 is not possible"],
        ),
        (["edit", __file__, "a pond", "--box", "1,2,3"], ["--box '1,2,3' is not possible"]),
        (["edit", __file__, "a pond", "--box", "a,b,c,d"], ["--box 'a,b,c,d' is not possible"]),
        (["edit", __file__, "a pond", "--out", __file__], ["is a file"]),
        (["edit", __file__, "a pond", "--model", "no-such"], ["unknown model 'no-such'"]),
        (["prepare", "somewhere", "out", "--image-size", "0"], ["--image-size 0 is not possible"]),
        (["prepare", "somewhere"], ["Missing argument"]),
        (["train", "middle", "--data", "d", "--out", "o"], ["middle"]),
        (["train", "base", "--data", "nowhere", "--out", "o"], ["no folder nowhere"]),
        (["train", "--data", ".", "--out", "o"], ["base, sr, or --joint"]),
        (["train", "sr", "--joint", "--data", ".", "--out", "o"], ["base, sr, or --joint"]),
        (["train", "base", "--data", ".", "--out", "o", "--preset", "no-such"], ["unknown preset 'no-such'"]),
        (
            ["train", "base", "--data", ".", "--out", "o", "--processes", "0"],
            ["--processes 0 is not possible"],
        ),
        (["assemble", "nowhere", "nowhere", "out"], ["no run folder nowhere"]),
        (["convert", "nowhere.pt", "out"], ["no checkpoint file nowhere.pt"]),
        (["convert", __file__, "out", "--base", "nowhere.pt"], ["no checkpoint file nowhere.pt"]),
        (["convert", __file__, "out", "--weights", "best"], ["'--weights'", "best"]),
        (["export", "no-such", "out.pt"], ["unknown model 'no-such'"]),
        (["web", "--port", "70000"], ["--port 70000 is not possible", "0 to 65535"]),
        (["web", "--model", "no-such"], ["unknown model 'no-such'"]),
        (["dance"], ["No such command", "dance"]),
    ],
)
def test_bad_usage_is_refused_in_one_line_and_nothing_made(run, arguments, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), 2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_version_and_empty_command_line(run):
    from satcascade import __version__

    assert run("--version").out == f"satcascade {__version__}\n"
    assert "Commands:" in run().out


# Errors at run time


@pytest.mark.parametrize(
    ("damage", "status", "parts"),
    [
        (lambda model: (model / "model_index.json").unlink(), 1, ["is no saved pipeline"]),
        (
            lambda model: truncate(model / "unet" / "diffusion_pytorch_model.safetensors"),
            1,
            ["weights file", "is damaged", "copy or download it again"],
        ),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(run, tiny_model, tmp_path, damage, status, parts):
    import shutil

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    damage(model)
    result = run("sample", "a pond", "--model", model, "--out", tmp_path / "out", "--device", "cpu")
    assert_refused(result, status, *parts)
    assert not (tmp_path / "out").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_run_time_refusals(run, tiny_model, prepared_synthetic, tmp_path):
    common = ["--model", tiny_model, "--device", "cpu", "--out", tmp_path / "out", "--quiet"]
    assert_refused(run("sample", "a pond", *common, "--device", "cuda:42"), 2, "no device 'cuda:42'")
    assert_refused(run("sample", "a pond", *common, "--steps", "1001"), 2, "1001 sampling steps")
    assert_refused(
        run("sample", "--data", prepared_synthetic.path, "--split", "holdout", *common),
        2,
        "no split 'holdout'",
    )
    assert_refused(run("sample", "--data", tmp_path, *common), 1, "is not a prepared set")
    (tmp_path / "captions.txt").write_text("a pond\n\ndesert")
    assert_refused(run("sample", "--captions", tmp_path / "captions.txt", *common), 2, "line 2")
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_an_error_came_from(run, tiny_model, tmp_path):
    result = run("sample", "a pond", "--model", tmp_path, "--debug")
    assert result.status == 1
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("error: ")


def test_interruption_is_one_line_and_130(run, monkeypatch, tiny_model, tmp_path):
    from satcascade.pipelines import cascade as pipeline

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.CascadePipeline, "__call__", interrupted)
    result = run("sample", "a pond", "--model", tiny_model, "--device", "cpu", "--out", tmp_path, "--quiet")
    assert result.status == 130
    assert result.err.splitlines()[-1].startswith("error: interrupted")


def test_an_unforeseen_error_is_one_line_too(run, monkeypatch, tiny_model, tmp_path):
    from satcascade.pipelines import cascade as pipeline

    def broken(*args, **kwargs):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(pipeline.CascadePipeline, "__call__", broken)
    result = run("sample", "a pond", "--model", tiny_model, "--device", "cpu", "--out", tmp_path, "--quiet")
    assert_refused(result, 1, "unexpected RuntimeError: first line second line", "--debug")


# Sampling


def test_sample_with_every_option(run, tiny_model, tmp_path):
    (tmp_path / "captions.txt").write_text("a pond\ndesert\n")
    arguments = ["sample", "--captions", tmp_path / "captions.txt", "-n", 2, "--seed", 3, "--batch-size", 3]
    arguments += ["--base-steps", 3, "--sr-steps", 2, "--guidance", 2.5, "--sr-guidance", 1.5]
    arguments += ["--scheduler", "unipc", "--model", tiny_model, "--device", "cpu", "--out", tmp_path / "out"]
    result = run(*arguments)
    assert result.status == 0
    assert "4 images in" in result.out
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [
        "0000_a-pond.png",
        "0001_a-pond.png",
        "0002_desert.png",
        "0003_desert.png",
    ]
    settings = lines[0]["settings"]
    assert settings["base"]["scheduler"] == settings["sr"]["scheduler"] == "UniPCMultistepScheduler"
    assert (settings["base"]["steps"], settings["sr"]["steps"]) == (3, 2)
    assert (settings["base"]["guidance"], settings["sr"]["guidance"]) == (2.5, 1.5)
    assert "4 were there" in run(*arguments).out


def test_sample_names_its_folder_after_the_caption(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        "sample",
        "A pond, forest",
        "--model",
        tiny_model,
        "--device",
        "cpu",
        "--steps",
        2,
        "--stop-at",
        "base",
    )
    assert result.status == 0
    assert (tmp_path / "samples" / "a-pond-forest" / "0000_a-pond-forest.png").exists()
    settings = json.loads((tmp_path / "samples" / "a-pond-forest" / "run.json").read_text())["settings"]
    assert settings["base"]["steps"] == 2
    assert "sr" not in settings


def test_a_long_caption_is_cut_with_one_warning(run, tiny_model, tmp_path):
    caption = " ".join(["forest"] * 1000)
    arguments = ["sample", caption, "-n", 3, "--batch-size", 1, "--model", tiny_model, "--device", "cpu"]
    result = run(*arguments, "--out", tmp_path, "--quiet")
    assert result.status == 0
    assert len(result.err.splitlines()) == 1
    assert re.match(r"warning: caption of \d+ tokens is cut at the \d+ that", result.err)
    assert (tmp_path / "captions.txt").read_text() == f"{caption}\n" * 3


def test_sample_from_a_prepared_set(run, tiny_model, prepared_synthetic, tmp_path):
    arguments = ["--model", tiny_model, "--device", "cpu", "--out", tmp_path, "--quiet", "--stop-at", "base"]
    assert run("sample", "--data", prepared_synthetic.path, "--split", "val", *arguments).status == 0
    rows = [json.loads(line)["row"] for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert rows == [prepared_synthetic.records[row].filename for row in prepared_synthetic.indices("val")]


def test_sample_on_a_full_disk_says_so(run, tiny_model, small_disk):
    from tiny_cascade import fill

    fill(small_disk, leaving=30_000)
    arguments = ["sample", "a pond", "-n", 9, "--model", tiny_model, "--device", "cpu", "--quiet"]
    assert_refused(run(*arguments, "--out", small_disk / "out"), 1, "no space left on the device")
    assert not [path for path in (small_disk / "out").iterdir() if path.name.endswith(".part")]


# Real processes


@pytest.fixture(scope="module")
def long_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Path]:
    """A command that makes 24 images in batches of 4, and the folder of its uninterrupted run."""
    arguments: list[object] = ["sample", "a pond", "desert", "-n", 12, "--batch-size", 4, "--steps", 30]
    arguments += ["--scheduler", "ddpm", "--model", tiny_model, "--device", "cpu", "--quiet", "--seed", 5]
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in [*arguments, "--out", folder]])
    assert end.value.code == 0
    return arguments, folder


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(run, long_run, tmp_path):
    arguments, uninterrupted = long_run
    out = tmp_path / "out"
    process = forked(*arguments, "--out", out)
    deadline = time.monotonic() + 300
    while len(list(out.glob("0*.png"))) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.poll() == -signal.SIGKILL
    made = len(list(out.glob("0*.png")))
    assert 6 <= made < 24
    assert not (out / "manifest.jsonl").exists()
    assert run(*arguments, "--out", out).status == 0
    assert files(out) == files(uninterrupted)


def test_two_processes_at_once_make_the_single_run(run, long_run, tmp_path):
    arguments, uninterrupted = long_run
    out = tmp_path / "out"
    other = forked(*arguments, "--out", out, "--shard", "1/2")
    assert run(*arguments, "--out", out, "--shard", "2/2").status == 0
    assert other.wait() == 0
    assert other.err == ""
    assert sorted(files(out)) == sorted(files(uninterrupted))
    for picture in uninterrupted.glob("0*.png"):
        left, right = (
            np.asarray(Image.open(folder / picture.name)).astype(int) for folder in (out, uninterrupted)
        )
        assert np.abs(left - right).max() <= 1
    assert (out / "manifest.jsonl").read_bytes() == (uninterrupted / "manifest.jsonl").read_bytes()


def test_processes_of_one_command_make_the_single_run(run, long_run, tmp_path, monkeypatch):
    """In processes as torchrun starts them."""
    monkeypatch.setattr("satcascade.cli.sharing.launch", launch_forked)
    arguments, uninterrupted = long_run
    out = tmp_path / "out"
    arguments = [argument for argument in arguments if argument != "--quiet"]
    ended = run(*arguments, "--out", out, "--processes", "2")
    assert ended.status == 0, ended.err
    assert re.fullmatch(rf"24 images in {re.escape(str(out))} \(.* s, 2 processes\)\n", ended.out)
    assert sorted(files(out)) == sorted(files(uninterrupted))
    assert (out / "manifest.jsonl").read_bytes() == (uninterrupted / "manifest.jsonl").read_bytes()


def test_what_one_of_several_processes_cannot_do_the_launch_cannot(capfd):
    assert launch(2, ["dance"]) == 1
    assert "error: No such command 'dance'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("sharing", ["sample", "a pond"]),
        ("sharing", ["edit", __file__, "a pond"]),
        ("training", ["train", "base", "--data", ".", "--out", "o"]),
    ],
)
def test_a_command_ends_as_what_it_launched(run, monkeypatch, tmp_path, module, command):
    monkeypatch.chdir(tmp_path)
    launched = []
    monkeypatch.setattr(f"satcascade.cli.{module}.launch", lambda *given: launched.append(given) or 3)
    arguments = [*command, "--processes", "2"]
    assert run(*arguments).status == 3
    assert launched == [(2, arguments)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_was_launched_once(monkeypatch, tmp_path, number):
    """Whatever comes first is passed on, and later ones are not; handlers are those of before."""
    script = (
        "import pathlib, signal, sys, time; came = pathlib.Path(sys.argv[1])\n"
        "def stop(*_): came.open('a').write('x'); time.sleep(1); sys.exit(4)\n"
        "signal.signal(signal.SIGTERM, stop); came.with_name('ready').touch(); time.sleep(60)"
    )

    class Launched(subprocess.Popen):
        def __init__(self, command: list[str], **options: object):
            super().__init__([sys.executable, "-c", script, str(tmp_path / "came")], **options)
            while not (tmp_path / "ready").exists():
                time.sleep(0.01)

        def wait(self, timeout: float | None = None) -> int:
            for delay in (0.1, 0.3):
                threading.Timer(delay, os.kill, (os.getpid(), number)).start()
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Launched)
    before = signal.getsignal(number)
    assert launch(2, ["sample", "a pond"]) == 128 + number
    assert (tmp_path / "came").read_text() == "x"
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_processes_of_one_command_end_with_it(long_run, tmp_path):
    arguments, _ = long_run
    out = tmp_path / "out"
    process = start(*arguments, "--out", out, "--processes", "2", "-n", 2000)
    deadline = time.monotonic() + 300
    while len(list(out.glob("0*.png"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    left = sorted(out.iterdir())
    time.sleep(2)
    assert sorted(out.iterdir()) == left


@pytest.mark.slow
def test_torchrun_shares_the_images_out_too(long_run, tmp_path):
    """Without ``--processes``: torchrun is the user's own."""
    arguments, uninterrupted = long_run
    out = tmp_path / "out"
    arguments = [argument for argument in arguments if argument != "--quiet"]
    processes = [forked(*arguments, "--out", out, **place(rank, 2)) for rank in range(2)]
    for process in processes:
        assert process.wait() == 0, process.err
    # The first speaks, of its own part.
    assert re.fullmatch(rf"12 images in {re.escape(str(out))} \(.*\n", processes[0].out)
    assert processes[1].out == ""
    assert (out / "manifest.jsonl").read_bytes() == (uninterrupted / "manifest.jsonl").read_bytes()


@pytest.mark.parametrize("command", [["sample", "a pond"], ["edit", __file__, "a pond"]])
def test_processes_and_shards_do_not_go_together(run, monkeypatch, command):
    result = run(*command, "--processes", "2", "--shard", "1/2")
    assert result.status == 2
    assert result.err == "error: --processes shares the images out itself: leave --shard out\n"
    for name, value in place(0, 2).items():
        monkeypatch.setenv(name, value)
    result = run(*command, "--shard", "1/2")
    assert result.err == "error: torchrun shares the images out itself: leave --shard out\n"


# The other commands


def test_prepare_train_assemble_and_sample_make_a_chain(run, tmp_path, synthetic_rsicd, tiny_text_encoder):
    """From a captioned set to a picture, with networks too small to learn anything."""
    data = tmp_path / "data"
    result = run(
        "prepare", synthetic_rsicd, data, "--image-size", 64, "--encoder", tiny_text_encoder, "--quiet"
    )
    assert result.status == 0, result.err
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny_preset(tiny_text_encoder))
    options = ["--preset", preset, "--data", data, "--device", "cpu", "--quiet"]
    for stage in ("base", "sr"):
        result = run("train", stage, *options, "--out", tmp_path / stage, "--set", "training.steps=2")
        assert result.status == 0, result.err
    result = run("train", "base", *options, "--out", tmp_path / "x", "--set", "training.pace=1")
    assert_refused(result, 2, "training.pace", "unknown key")
    assert not (tmp_path / "x").exists()
    assert run("assemble", tmp_path / "base", tmp_path / "sr", tmp_path / "model").status == 0
    result = run(
        "sample", "a pond", "--model", tmp_path / "model", "--device", "cpu", "--out", tmp_path / "out"
    )
    assert result.status == 0, result.err
    assert Image.open(tmp_path / "out" / "0000_a-pond.png").size == (32, 32)


def test_convert_and_export_say_what_they_made_or_why_not(run, tmp_path):
    """The work itself is tested in test_checkpoints."""
    import torch

    (tmp_path / "notes.pt").write_text("not a checkpoint")
    assert_refused(run("convert", tmp_path / "notes.pt", tmp_path / "out"), 1, "notes.pt is no checkpoint")
    torch.save({"model": {"unets.1.final_conv.bias": torch.zeros(3)}}, tmp_path / "slim.pt")
    assert_refused(run("convert", tmp_path / "slim.pt", tmp_path / "out"), 2, "no base stage", "--base FILE")
    assert_refused(run("export", "builtin", tmp_path / "out.pt"), 1, "builtin is no RSDiff model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.pt", "slim.pt"]


def tiny_preset(text_encoder: str) -> str:
    model = "widths: [16, 32], blocks: [1, 1], attention: [false, true], head_dim: 16, text_dim: 16"
    training = "steps: 2, batch_size: 4, learning_rate: 1.0e-3, precision: float32"
    return f"""
name: tiny
text_encoder: {json.dumps(text_encoder)}
base:
  model: {{sample_size: 16, dropout: 0.0, {model}}}
  training: {{{training}}}
sr:
  model: {{sample_size: 32, dropout: 0.0, low_res: true, self_attention: false, {model}}}
  training: {{{training}, low_res_noise: {{low: 0.0, high: 8.0}}}}
sampling:
  base: {{steps: 3, guidance_scale: 2.0}}
  sr: {{steps: 2}}
  low_res_log_snr: 3.0
"""
