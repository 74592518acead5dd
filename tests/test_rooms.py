"""The rooms of the package: a module imports from rooms below its own, and modules never in a circle.

Every import counts: those inside of functions and those for type checkers too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import satcascade

# Lowest first; `satcascade` is the package's own `__init__`, which shows what users import.
ROOMS = (
    *("errors", "seeds", "presets", "io", "hardware", "formats", "diffusion", "rsdiff_scheduler", "models"),
    *("config", "sampling", "pipelines", "interop", "zoo", "diagnosis", "data", "generation", "evaluation"),
    *("publishing", "training", "sweep", "satcascade", "web", "cli", "__main__"),
)
SOURCE = Path(satcascade.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    return {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, known: dict[str, Path]) -> set[tuple[int, str]]:
    """The line and the name of each module of the package that a file imports, wherever it does."""
    return set(_imports(path, known))


def _imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            # `from package import module` is an import of that module.
            names = [
                inner if (inner := f"{node.module}.{alias.name}") in known else str(node.module)
                for alias in node.names
            ]
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "satcascade")


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def test_every_module_is_in_a_room_of_the_list():
    assert {room(name) for name in modules()} <= set(ROOMS)


def test_no_import_goes_up():
    known = modules()
    up = [
        f"{name}:{line} imports {other}"
        for name, path in known.items()
        for line, other in sorted(imports_of(path, known))
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not up, "\n".join(["imports of a higher room:", *up])


def test_no_imports_go_round():
    known = modules()
    imports = {name: {other for _, other in imports_of(path, known)} for name, path in known.items()}
    circles = []
    for name in known:
        reached: set[str] = set()
        following = list(imports[name])
        while following:
            module = following.pop()
            if module not in reached:
                reached.add(module)
                following.extend(imports.get(module, ()))
        if name in reached:
            circles.append(name)
    assert not circles, "\n".join(["modules that import themselves, by way of others:", *circles])
