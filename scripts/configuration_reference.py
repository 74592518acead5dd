"""Writes docs/reference/configuration.md from the settings themselves: types, defaults and docstrings.

``python scripts/configuration_reference.py`` after a change of a setting; a test says when it was forgotten.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from satcascade.config.codec import CodecSettings, codec_names
from satcascade.config.preset import Model, Preset, Stage, preset_names
from satcascade.config.training import FREE_SECTIONS

PAGE = Path(__file__).parents[1] / "docs/reference/configuration.md"

_TOP = f"""# Configuration

A preset describes a whole cascade in YAML. The package has {len(preset_names())}, in
`src/satcascade/presets/`: {", ".join(f"`{name}`" for name in preset_names())}.
`satcascade train --preset mine.yaml` takes a file of your own. Unknown keys are refused. `--set` changes
single values, which are read as YAML: `--set training.augmentation.crop=null`,
`--set 'model.widths=[64, 128, 192]'`.

Keys of a stage are given to `--set` without the stage, as in `training.batch_size=16`, and mean the stage
that is trained (with `--joint`, both; `base.training.batch_size=16` means one). Keys without a default must
be in the preset.

This page is made by `scripts/configuration_reference.py`: change the docstrings of the settings, not the
page.
"""
_TRAINING = f"""
A resumed run may change the settings of {", ".join(f"`{name}`" for name in FREE_SECTIONS)}: they leave the
steps already done as they are. Presets and runs from before there were sections (`training.learning_rate`
for `training.optimizer.learning_rate`) are still read.
"""
_SAMPLING = """
Stored in the model folder by `satcascade assemble`; every call may give others.
"""
_RSDIFF = """
[RSDiff's options under our names](rsdiff.md#networks-and-training) has imagen-pytorch's names of these.
"""
_CODEC = f"""
Settings of `satcascade train codec`: a YAML file of its own, of which the package has
{", ".join(f"`{name}`" for name in codec_names())}.
"""
_EXPLAINED = ", which explains them"
# Pages that say more of a key.
_MORE = {
    "training: augmentation": {"image_size": "training.md#start-on-small-images"},
    "training: averages": {"lengths": "training.md#choose-the-length-of-the-average-afterwards"},
    "training: hardware": {
        "accumulate": "training.md#several-gpus",
        "compile": "training.md#make-the-most-of-a-short-lease",
        "activation_checkpointing": "training.md#larger-batches-than-memory-holds",
        "fsdp": "training.md#several-gpus",
    },
    "training: validation": {"every": "training.md#validate-as-it-trains"},
}


def page() -> str:
    """The whole page."""
    parts = [_TOP, section("preset", Preset, "")]
    for network in networks():
        name = network.model_fields["architecture"].annotation
        (architecture,) = get_args(name)
        parts.append(section(f"model: {architecture}", network, _RSDIFF if architecture == "rsdiff" else ""))
    parts.append(sections("training", Stage.model_fields["training"].annotation, _TRAINING))
    parts.append(sections("sampling", Preset.model_fields["sampling"].annotation, _SAMPLING))
    parts.append(sections("codec", CodecSettings, _CODEC))
    return "\n".join(parts)


def networks() -> list[type[BaseModel]]:
    """The configuration of each network that a preset may name."""
    union = get_args(Model)[0]
    return [get_args(member)[0] for member in get_args(union)]


def sections(heading: str, model: Any, more: str) -> str:
    """The section of a model, and those of the models in it."""
    parts = [section(heading, model, more)]
    keys: dict[type[BaseModel], list[str]] = {}
    for key, field in model.model_fields.items():
        for inner in _models(field.annotation):
            keys.setdefault(inner, []).append(key)
    parts += [sections(f"{heading}: {', '.join(names)}", inner, "") for inner, names in keys.items()]
    return "\n".join(parts)


def section(heading: str, model: type[BaseModel], more: str) -> str:
    """A heading, what the section is, and the table of its keys."""
    said, meanings = meaning(model)
    schema = model.model_json_schema()
    rows = []
    for key, field in model.model_fields.items():
        if key not in meanings:
            raise LookupError(f"the docstring of {model.__name__} does not say what {key} is")
        kind = describe(schema["properties"][key])
        text = meanings[key].rstrip(".")
        if link := _MORE.get(heading, {}).get(key):
            text += f"; see [the how-to](../how-to/{link})"
        rows.append(f"| `{key}` | {kind} | {default(field)} | {text} |")
    marks = "#" * (2 + heading.removeprefix("model: ").count(": "))
    table = "\n".join(["| Key | Type | Default | |", "|---|---|---|---|", *rows])
    return f"{marks} {heading}\n\n{said}\n{more}\n{table}\n"


def meaning(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a docstring says of a model, and of each of its keys.

    A docstring that refers to a class, "which explains them", leaves the keys to that class.
    """
    keys: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            text = inspect.getdoc(kind) or ""
            if explained := re.search(rf":class:`([\w.]+)`{_EXPLAINED}", text):
                keys |= listed(inspect.getdoc(resolve_name(explained[1])) or "")
            keys |= listed(text)
    said = re.split(r"\n\n(?:Attributes|Args):\n", inspect.getdoc(model) or "")[0].replace(_EXPLAINED, "")
    return markdown(re.sub(r"(?<!\n)\n(?!\n)", " ", said)), keys


def listed(docstring: str) -> dict[str, str]:
    """The names under ``Args:`` or ``Attributes:``, with what is said of them."""
    found: dict[str, str] = {}
    for block in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE):
        for entry in re.split(r"^    (?=\S)", block, flags=re.MULTILINE)[1:]:
            names, _, text = entry.partition(":")
            found |= dict.fromkeys(names.split(", "), markdown(" ".join(text.split())))
    return found


def markdown(text: str) -> str:
    """Text of a docstring without the marks of Sphinx."""
    text = re.sub(r":\w+:`", "`", text).replace("``", "`")
    return re.sub(r"\bNone\b", "null", text).replace("|", r"\|")


def describe(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "$ref" in schema:
        return "section"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(describe(one) for one in schema[several]))
    if schema["type"] == "array":
        # Pydantic gives the kinds of a tuple of fixed length one by one; ours are all alike.
        items = schema["items"] if "items" in schema else schema["prefixItems"][0]
        many = re.sub("^(integer|number)", r"\1s", describe(items))
        return f"{len(schema['prefixItems'])} {many}" if "prefixItems" in schema else f"list of {many}"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {schema[limit]:g}" for limit, sign in signs.items() if limit in schema]
    return " ".join([words.get(schema["type"], schema["type"]), ", ".join(limits)]).strip()


def default(field: Any) -> str:
    """The cell of a key's default: empty where it has to be given, and for sections."""
    if field.is_required() or isinstance(field.default, BaseModel):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return [annotation] if inspect.isclass(annotation) and issubclass(annotation, BaseModel) else []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
