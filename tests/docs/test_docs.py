"""What the documentation shows exists: commands, options, configuration keys, names, links."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

import satcascade
from satcascade.cli import app
from satcascade.config import preset as config
from satcascade.diffusion.solvers import SOLVERS
from satcascade.interop.imagen_names import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
API = ROOT / "docs/reference/api.md"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# Options of the program itself.
ALONE = ("--help", "--version", "--install-completion", "--show-completion")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

pytestmark = pytest.mark.skipif(len(PAGES) < 2, reason="the documentation is not beside the tests")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of the languages."""
    return [text for language, text in _FENCE.findall(page.read_text()) if language in languages]


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Every ``satcascade`` command line of a page's shell blocks, split into words."""
    for block in blocks(page, "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["satcascade"]:
                yield joined(words[1:])


def named_commands(page: Path) -> Iterator[list[str]]:
    """The ``satcascade`` commands named in running text, which may be incomplete."""
    for code in re.findall(r"(?<!`)`(satcascade [^`]+)`", visible(page)):
        yield joined(shlex.split(code)[1:])


def joined(words: list[str]) -> list[str]:
    """The words of a command line, with a command's name of two words as one."""
    return [" ".join(words[:2]), *words[2:]] if " ".join(words[:2]) in COMMANDS else words


def visible(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page.read_text()), flags=re.DOTALL)


def shown_in_the_reference_of_python() -> list[str]:
    return re.findall(r"^::: (\S+)$", API.read_text(), re.MULTILINE) if API.is_file() else []


def options(command: str) -> dict[str, Any]:
    return {
        option: param
        for param in COMMANDS[command].params
        for option in (*param.opts, *param.secondary_opts)
        if option[0] == "-"
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_shown_would_parse(page: Path) -> None:
    for words in shown_commands(page):
        if len(words) == 1 and words[0] in ALONE:
            continue
        assert words[0] in COMMANDS, words
        # Parses and checks everything without running it.
        COMMANDS[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_named_exist_with_their_options(page: Path) -> None:
    for words in named_commands(page):
        if words[0].startswith("--"):
            assert words[0] in ALONE
        elif words[0] != "COMMAND":
            assert words[0] in COMMANDS, words
            for word in words[1:]:
                assert not word.startswith("-") or word in {*options(words[0]), "--help"}, words


def test_there_are_commands_to_check() -> None:
    shown = [words[0] for page in PAGES for words in shown_commands(page)]
    assert set(COMMANDS) <= set(shown)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_reference_lists_the_options_of_a_command(command: str) -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    section = page.split(f"## satcascade {command}\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE))
    listed_options = {option for cell in listed for option in re.findall(r"`(--?[\w-]+)`", cell)}
    assert listed_options == {option for option in options(command) if option != "--help"}


def test_reference_gives_the_defaults_of_options() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    for command in ("sample", "prepare", "train", "train codec"):
        section = page.split(f"## satcascade {command}\n")[1].split("\n## ")[0]
        for option, param in options(command).items():
            default = getattr(param.default, "value", param.default)
            if isinstance(default, str | int) and not isinstance(default, bool) and param.opts[-1] == option:
                row = next(line for line in section.splitlines() if f"`{option}`" in line)
                assert row.split(" | ")[1].strip("`") == str(default), option


def test_reference_lists_the_schedulers() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    table = page.split("Schedulers")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE) == list(SOLVERS)


def reference_of_configuration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts/configuration_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_of_the_configuration_is_that_of_the_settings() -> None:
    reference = reference_of_configuration()
    assert reference.PAGE.read_text() == reference.page(), "run scripts/configuration_reference.py"


def test_a_setting_that_its_docstring_does_not_explain_is_no_reference() -> None:
    class Lamp(BaseModel):
        """A lamp.

        Attributes:
            colour: of its light,
                by day.
        """

        colour: str = "red"

    class Dimmed(Lamp):
        """A lamp that dims."""

        share: float = 0.5

    section = reference_of_configuration().section
    assert "| `colour` | text | `red` | of its light, by day |" in section("lamp", Lamp, "")
    with pytest.raises(LookupError, match="docstring of Dimmed does not say what share is"):
        section("lamp", Dimmed, "")


def test_reference_has_the_names_of_the_options_that_are_read() -> None:
    page = (ROOT / "docs/reference/rsdiff.md").read_text().split("| imagen-pytorch | Here |")[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE))
    assert rows.keys() >= OPTIONS.keys()
    for theirs, ours in rows.items():
        assert OPTIONS.get(theirs, ours) == ours
        assert ours in config.RSDiffModel.model_fields


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_shown_is_python_and_finds_what_it_imports(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_json_shown_is_json(page: Path) -> None:
    for block in blocks(page, "json"):
        for line in block.splitlines():
            json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(visible(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_changes_shown_have_their_place_in_the_files(page: Path) -> None:
    for block in blocks(page, "diff"):
        for change in re.split(r"^--- a/.*\n", block, flags=re.MULTILINE)[1:]:
            header, *lines = change.splitlines()
            file = (ROOT / header.removeprefix("+++ b/")).read_text().splitlines()
            # Lines that are replaced may have been, where somebody has followed the page.
            assert {line[1:] for line in lines if line[0] == " "} <= set(file), header


def test_the_map_shows_the_rooms_that_there_are_and_functions_that_exist() -> None:
    page = (ROOT / "docs/map.md").read_text()
    source = Path(satcascade.__file__).parent
    rooms = re.findall(r"^\| `([\w.]+)` \|", page.split("## The way")[0], re.MULTILINE)
    there = {path.name for path in source.iterdir() if not path.name.startswith("__")}
    assert set(rooms) == there - {"builtin", "py.typed"}
    rows = re.findall(r"^\| (?:\d \| )?`(\w+/\S+\.py|zoo\.py)` \| (`.+?`) \|", page, re.MULTILINE)
    assert len(rows) == page.count(".py` | `")
    for file, functions in rows:
        tree = ast.parse((source / file).read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for function in re.findall(r"`(.+?)`", functions):
            assert set(function.split(".")) <= {node.name for node in nodes}, f"{file}: {function}"


@pytest.mark.parametrize("name", shown_in_the_reference_of_python())
def test_the_reference_of_python_names_what_there_is(name: str) -> None:
    assert resolve_name(name).__doc__


def test_pages_of_the_site_are_the_pages() -> None:
    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            for child in node.values() if isinstance(node, dict) else node:
                yield from leaves(child)

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert set(leaves(site["nav"])) == pages


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == satcascade.__version__
    assert f"\n## {satcascade.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_demo_draws_nine_captions() -> None:
    captions = (ROOT / "examples/nine_captions.txt").read_text().splitlines()
    assert len({caption for caption in captions if caption.strip()}) == len(captions) == 9
    assert "examples/nine_captions.txt" in (ROOT / "Makefile").read_text()
