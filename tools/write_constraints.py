"""Print the installed packages as pip constraints, without what ties them to this platform.

    .venv/bin/python tools/write_constraints.py > constraints.txt

Local versions (``torch 2.13.0+cpu``) lose their suffix, and a package that no longer runs on the oldest Python
that satcascade supports is pinned only for the Pythons it runs on; below, pip takes the newest that does.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

OLDEST_PYTHON = 10
# What a virtual environment comes with is not ours to pin.
LEFT_OUT = {"pip", "satcascade", "setuptools", "wheel"}
HEADER = """\
# Versions that satcascade is tested with, for `pip install -c constraints.txt`.
# Made in an environment with `pip install -e '.[dev,eval]'` by
#     python tools/write_constraints.py > constraints.txt
"""


def pin(distribution: Distribution) -> str:
    """The constraint of one package."""
    version = Version(distribution.version).public
    supported = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
    first = next(minor for minor in range(OLDEST_PYTHON, 100) if supported.contains(f"3.{minor}.99"))
    marker = f' ; python_version >= "3.{first}"' if first > OLDEST_PYTHON else ""
    return f"{canonicalize_name(distribution.name)}=={version}{marker}"


def main() -> None:
    """Print the constraints, sorted by name."""
    found = {canonicalize_name(each.name): each for each in distributions()}
    print(HEADER + "\n".join(pin(found[name]) for name in sorted(found.keys() - LEFT_OUT)))


if __name__ == "__main__":
    main()
