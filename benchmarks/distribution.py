"""Wheel and sdist: built, checked, and the wheel installed by itself, offline; its size and start-up time.

    make dist-check          (or: python benchmarks/distribution.py [--wheels DIR] [--runs 7])

Needs build, twine and git, and the package index for the requirements of the wheel. Everything is made in
a folder of its own and removed at the end. Times of --help and --version are medians, after a run that is not
counted; sizes are of the files in site-packages, without pip.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What an installation has to have beside modules.
DATA = ("builtin", "presets", "evaluation/report/templates", "py.typed")
CAPTION = "a curved river with many green trees on both sides"


def data_files() -> set[str]:
    """The files of the package that are no modules, as the repository has them."""
    return {name.removeprefix("src/") for name in files("src/satcascade") if not name.endswith(".py")}


def files(folder: str) -> list[str]:
    """The files in a folder of the repository that git does not ignore, as paths from its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


def built(folder: Path) -> tuple[Path, Path]:
    """Build wheel and sdist; refuse them if a file is missing or twine has something to say."""
    # Of a copy, since building leaves its own folders beside the sources.
    with tempfile.TemporaryDirectory() as sources:
        for name in files("."):
            there = Path(sources, name)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, there)
        run(sys.executable, "-m", "build", "--outdir", folder, sources)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        lacking = data_files() - set(archive.namelist())
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
        lacking |= {name for name in data_files() if f"src/{name}" not in names}
    assert not lacking, f"not in wheel and sdist: {', '.join(sorted(lacking))}"
    for part in DATA:
        assert any(name.startswith(f"satcascade/{part}") for name in data_files()), part
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def installed(wheel: Path, folder: Path) -> Path:
    """Install a wheel in a new environment; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "-c", ROOT / "constraints.txt", wheel)
    run(programs / "python", "-m", "pip", "check")
    return programs


def sizes(programs: Path) -> dict[str, int]:
    """Bytes of each package in an environment, without pip."""
    (site,) = programs.parent.glob("lib/python*/site-packages")
    found = {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if entry.is_dir()
        else entry.stat().st_size
        for entry in site.iterdir()
    }
    return {name: size for name, size in found.items() if not name.startswith("pip")}


def offline() -> dict[str, str]:
    """An environment in which every connection by HTTP fails, and nothing of this repository is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    nowhere = "http://127.0.0.1:9"
    return kept | {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "ALL_PROXY": nowhere, "NO_PROXY": ""}


def seconds(command: Sequence[str | Path], folder: Path) -> tuple[float, float]:
    """Wall time, and time of all cores, of a command that has to succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [str(part) for part in command], cwd=folder, env=offline(), check=True, capture_output=True
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(*command: str | Path) -> None:
    """Run a command; what it prints is shown only if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7, help="Of --help and --version.")
    parser.add_argument("--wheels", type=Path, help="Keep wheel and sdist in this folder.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = built(options.wheels or folder / "dist")
        start = time.perf_counter()
        programs = installed(wheel, folder / "venv")
        took = time.perf_counter() - start
        program = programs / "satcascade"
        first = seconds([program, "sample", CAPTION, "--out", folder / "first", "--quiet"], folder)
        again = seconds([program, "sample", CAPTION, "--out", folder / "second", "--quiet"], folder)
        assert len(list((folder / "first").glob("0000_*.png"))) == 1
        found = sizes(programs)
        largest = sorted(found, key=found.__getitem__, reverse=True)[:6]
        rows = [
            ["", "MB"],
            ["wheel", megabytes(wheel.stat().st_size)],
            ["sdist", megabytes(sdist.stat().st_size)],
            ["installed", megabytes(sum(found.values()))],
            *([f"of that `{package}`", megabytes(found[package])] for package in largest),
        ]
        print(markdown_table(rows))
        rows = [["", "seconds", "seconds of all cores"], ["installing the wheel", f"{took:.0f}", ""]]
        rows.append(["first picture, right after installing", *(f"{each:.1f}" for each in first)])
        rows.append(["second picture", *(f"{each:.1f}" for each in again)])
        for option in ("--help", "--version"):
            times = [seconds([program, option], folder) for _ in range(options.runs + 1)][1:]
            medians = (statistics.median(each) for each in zip(*times, strict=True))
            rows.append([f"`satcascade {option}`", *(f"{each:.2f}" for each in medians)])
        print(markdown_table(rows))


def megabytes(size: int) -> str:
    """Bytes as millions of them."""
    return f"{size / 1e6:.1f}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, of which the first is the head."""
    head, *body = rows
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    main()
