"""The command that trains the autoencoder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from satcascade.cli import completion
from satcascade.cli.options import DeviceOption, amount
from satcascade.errors import UsageError


def train_codec(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder written by 'satcascade prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder; an existing run is resumed.")],
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Imitate the latents of this teacher, not principal components."),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(metavar="VAE", help="Keep this autoencoder's encoder, and train a decoder for it."),
    ] = None,
    preset: Annotated[
        str, typer.Option(autocompletion=completion.codec_presets, help="Name of settings, or a YAML file.")
    ] = "tiny",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For example decoder.steps=1000; repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="The rows to train on.")] = "train",
    device: DeviceOption = "auto",
    minutes: Annotated[float | None, amount("Stop with a checkpoint after that many.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train the autoencoder whose latents a latent model diffuses.

    The same command again resumes where it was stopped. The autoencoder is in RUN/vae.
    """
    began = time.monotonic()
    from satcascade.config.codec import load_codec_settings

    load_codec_settings(preset, override or [])
    if not data.is_dir():
        raise UsageError(f"no folder {data}: make one with 'satcascade prepare SOURCE {data}'")

    from satcascade.training.codec.run import train_codec as train

    # Imports take seconds, which a lease counts too.
    left = None if minutes is None else minutes - (time.monotonic() - began) / 60
    vae = train(
        data,
        out,
        preset=preset,
        overrides=override or [],
        split=split,
        teacher=teacher,
        encoder=encoder,
        device=device,
        minutes=left,
        quiet=quiet,
    )
    if not quiet:
        print(f"autoencoder in {vae}")
