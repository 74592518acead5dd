"""The command line: arguments in, one-line errors out; the work is done elsewhere.

Only typer is imported at the top of its modules, so that help and refusals of bad arguments come at once.
"""

from satcascade.cli.program import app, main

__all__ = ["app", "main"]
