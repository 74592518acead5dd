"""The requirements in pyproject.toml and the versions in constraints.txt."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Left out of the constraints: what builds the package, not what it runs with.
UNPINNED = {"setuptools", "satcascade"}

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.99",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }


def pins(python: str) -> dict[str, str]:
    """The version of each package that the constraints name for a Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found: dict[str, str] = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} has two versions on Python {python}"
            found[name] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_constraints_hold_a_fitting_version_of_what_an_extra_asks_for(extra: str, python: str) -> None:
    asked = [Requirement(text) for text in (EXTRAS[extra] if extra else PROJECT["dependencies"])]
    known = pins(python)
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        if name not in UNPINNED:
            assert name in known, f"make constraints: {name} has no version on Python {python}"
            assert requirement.specifier.contains(known[name], prereleases=True), (
                f"{requirement}: {known[name]}"
            )


def test_the_makefile_resolves_every_extra() -> None:
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nresolve:")[1].split("\n\n")[0]
    named = rule.split(".[")[1].split("]")[0].split(",")
    assert set(named) == set(EXTRAS)
