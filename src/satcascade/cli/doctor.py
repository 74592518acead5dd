"""The command that says what this installation has and lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from satcascade.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from satcascade.diagnosis import Diagnosis


def doctor(as_json: JsonOption = False) -> None:
    """Say what this installation has, and what is missing for what.

    The exit status is 1 if it cannot draw a picture.
    """
    from satcascade.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: Diagnosis) -> None:
    from satcascade.io.tables import aligned_table

    rows = [[name, value] for name, value in found.versions.items()]
    for device in found.devices:
        memory = "" if device.memory is None else f", {device.memory / 1e9:.0f} GB"
        threads = f", {found.threads} threads" if device.name == "cpu" else ""
        native = "bfloat16 is native" if device.bfloat16 else "float32 (bfloat16 is not native)"
        rows.append([device.name, f"{device.about}{memory}{threads}; {native}"])
    for name, folder in found.folders.items():
        used = "" if name == "here" else f"{folder.used / 1e9:.2f} GB used, "
        rows.append([name, f"{folder.path} ({used}{folder.free / 1e9:.1f} GB free)"])
    for name, extra in found.extras.items():
        state = "installed" if not extra.missing else f"not installed: pip install 'satcascade[{name}]' for"
        lacking = f" (missing: {', '.join(extra.missing)})" if extra.missing else ""
        rows.append(
            [f"extra {name}", f"{state}{'; for' if not extra.missing else ''} {extra.about}{lacking}"]
        )
    print(aligned_table(rows))
    for note in found.notes:
        print(f"note: {note}")
    for problem in found.problems:
        print(f"problem: {problem}")
    print("no picture can be drawn" if found.problems else "ready to draw")
