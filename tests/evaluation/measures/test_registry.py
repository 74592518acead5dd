"""The registry: complete, as documented, and all that a new measure needs."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cheap_features import pixel_network
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import UsageError
from satcascade.evaluation import comparison
from satcascade.evaluation.measures import registry
from satcascade.evaluation.measures.distances import frechet_distance, kernel_distance
from satcascade.evaluation.measures.manifold import manifold_scores
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.registry import COLUMNS, MEASURES, Column, Measure
from satcascade.evaluation.report.data import Report, Sweep
from satcascade.evaluation.report.figures import comparison_figures, sweep_figures
from satcascade.evaluation.report.tables import headline
from satcascade.evaluation.run import EvaluationRequest, evaluate
from satcascade.sweep.request import SweepRequest
from satcascade.sweep.table import best_row

PAGE = Path(__file__).parents[3] / "docs/how-to/evaluate.md"


def test_every_measure_has_its_function() -> None:
    assert all(callable(measure.compute) for measure in MEASURES.values())
    columns = [column.key for measure in MEASURES.values() for column in measure.columns]
    assert len(columns) == len(set(columns)) == len(COLUMNS)


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not beside the tests")
def test_the_documentation_lists_every_measure_with_its_columns() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {row[0].strip("| `"): row[1] for row in rows}
    for name, measure in MEASURES.items():
        assert all(f"`{column.key}" in listed[name] for column in measure.columns), name


@pytest.mark.filterwarnings("ignore::satcascade.evaluation.measures.distances.FewImagesWarning")
def test_fewer_images_than_declared_are_refused() -> None:
    functions = {"frechet": frechet_distance, "kernel": kernel_distance, "manifold": manifold_scores}
    assert functions.keys() == {name for name, measure in MEASURES.items() if measure.fewest > 1}
    for name, function in functions.items():
        features = torch.eye(MEASURES[name].fewest, 8, dtype=torch.float64)
        function(features, features + 1, "x")
        with pytest.raises(UsageError, match="too few images"):
            function(features[1:], features + 1, "x")


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> str:
    """A measure that a stranger adds: a file with a function, and an entry."""

    def measure_brightness(compared: comparison.Comparison, _: object) -> Measured:
        levels = [float(np.asarray(image).mean()) for image in compared.bundle.images]
        return Measured({"brightness": float(np.mean(levels))}, images=[{"confidence": x} for x in levels])

    module = types.ModuleType("satcascade.evaluation.measures.brightness")
    module.measure_brightness = measure_brightness  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    column = Column("brightness", "Brightness", 1, "lower", "mean grey level", figure=True)
    measure = Measure("brightness", "how bright images are", "brightness:measure_brightness", (column,))
    monkeypatch.setitem(registry.MEASURES, "brightness", measure)
    monkeypatch.setitem(registry.COLUMNS, "brightness", (measure, column))
    monkeypatch.setattr(comparison, "load_features", pixel_network)
    return "brightness"


def test_a_measure_that_is_declared_once_is_everywhere(
    brightness: str, prepared_synthetic: PreparedDataset, tmp_path: Path
) -> None:
    rows = [int(row) for row in prepared_synthetic.indices("val")]
    (tmp_path / "bundle").mkdir()
    for row in rows:
        Image.fromarray(np.array(prepared_synthetic.images[row])).save(tmp_path / "bundle" / f"{row:03d}.png")
    captions = [prepared_synthetic.records[row].captions[0] + "\n" for row in rows]
    (tmp_path / "bundle" / "captions.txt").write_text("".join(captions))
    request = EvaluationRequest(
        tmp_path / "bundle",
        prepared_synthetic.path,
        tmp_path / "r",
        "val",
        metrics=(brightness,),
        device="cpu",
    )
    numbers = evaluate(request, progress=False)
    assert numbers["brightness"] == pytest.approx(prepared_synthetic.images[rows].mean())
    report = Report.read(tmp_path / "r")
    assert report.details.images[0].confidence == prepared_synthetic.images[rows[0]].mean()
    assert report.details.timings.keys() == {"brightness"}
    (row,) = [row for row in headline([report]) if row.title == "Brightness"]
    assert (row.hint, row.better) == ("mean grey level", "lower")
    (figure,) = comparison_figures([report, report], ["a", "b"])
    assert figure.text.startswith("Brightness. a ")
    swept = SweepRequest(prepared_synthetic.path, tmp_path / "s", metrics=(brightness,))
    assert swept.chosen_by() == "brightness"
    rows_of_table = tuple({"guidance": str(x), "brightness": str(9 - x)} for x in (1, 2))
    table = Sweep("s", ("guidance", "brightness"), rows_of_table)
    assert best_row(table, "brightness") == rows_of_table[1]
    assert [figure.text for figure in sweep_figures(table, "s")] == ["Brightness by guidance. 1 8, 2 7."]
