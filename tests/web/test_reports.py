"""Reports under a folder: found, shown, and none outside of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from satcascade.errors import SatcascadeError, UsageError
from satcascade.web import reports
from satcascade.web.reports import find_reports, report_page


def make_report(folder: Path, name: str = "mine") -> Path:
    folder.mkdir(parents=True)
    (folder / "details.json").write_text(json.dumps({"name": name, "notes": ["<script>alert(1)</script>"]}))
    (folder / "metrics.json").write_text(json.dumps({"frechet_distance/efficientnet-lite0": 203.9}))
    return folder


def test_reports_are_found_the_newest_first(tmp_path: Path) -> None:
    for number, name in enumerate(["reports/a", "reports/deep/er/b", "reports/hidden/.git/c", "d/e/f/g/h"]):
        folder = make_report(tmp_path / name)
        os.utime(folder / "metrics.json", (number, number))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text("{}")
    assert find_reports(tmp_path) == ["reports/deep/er/b", "reports/a"]


def test_a_large_tree_is_not_searched_to_its_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reports, "_MOST_FOLDERS", 3)
    for name in "abcd":
        make_report(tmp_path / name)
    # The root itself counts too.
    assert sorted(find_reports(tmp_path)) == ["a", "b"]


def test_a_report_is_the_page_of_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    make_report(tmp_path / "a", "mine")
    html = report_page(tmp_path, ["a"])
    assert "203.9" in html
    assert "mine" in html
    assert "<script>alert" not in html


@pytest.mark.parametrize("name", ["../outside", "/etc", "inside/../../outside"])
def test_nothing_outside_is_read(tmp_path: Path, name: str) -> None:
    make_report(tmp_path / "outside")
    (tmp_path / "root" / "inside").mkdir(parents=True)
    with pytest.raises(UsageError, match="is outside of"):
        report_page(tmp_path / "root", [name])


def test_a_link_to_the_outside_is_not_followed(tmp_path: Path) -> None:
    make_report(tmp_path / "outside")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    assert find_reports(tmp_path / "root") == []
    with pytest.raises(UsageError, match="is outside of"):
        report_page(tmp_path / "root", ["link"])


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no report is chosen"):
        report_page(tmp_path, [])
    with pytest.raises(SatcascadeError, match="is no report"):
        report_page(tmp_path, ["empty"])
