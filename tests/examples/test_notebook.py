"""The notebook: it is one, and its cells run from top to bottom. Without Jupyter, they are plain Python."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples/satcascade.ipynb"

# diffusers calls NumPy in ways that NumPy 2 warns of; a notebook's few images are warned of too.
pytestmark = pytest.mark.filterwarnings("ignore")


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; what its last line is worth, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.mark.slow
def test_the_cells_run_and_show_what_they_say():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # Its pictures would be in every clone of the repository.
    assert not any(cell.outputs for cell in cells)
    names: dict[str, Any] = {}
    try:
        _, picture, grid, pair, line, measured = [run(cell.source, names) for cell in cells]
        assert isinstance(picture, Image.Image)
        assert picture.size == (256, 256)
        assert np.asarray(picture).std() > 10
        assert grid.size == (4 * 128, 128)
        assert pair.size == (512, 256)
        before, after = np.asarray(pair)[:, :256], np.asarray(pair)[:, 256:]
        changed = (before != after).any(-1)
        assert changed[64:192, 64:192].mean() > 0.5
        assert not changed[:64].any()
        assert line["caption"] == "a lake in a green forest"
        assert (names["generated"] / line["file"]).is_file()
        assert measured["n_generated"] == measured["n_real"] == 4
        assert measured["frechet_distance/efficientnet-lite0"] > 0
    finally:
        if "folder" in names:
            shutil.rmtree(names["folder"])
