"""The files of a report appear whole, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from expunge.report import write
from expunge.report.model import Explorer, ReportEntry, ReportModel, RowScore
from expunge.report.text import to_csv
from expunge.report.write import write_report


def test_whole_files(model: ReportModel, tmp_path: Path) -> None:
    paths = write_report(model, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["results.md", "results.csv", "results.tex", "report.html"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in paths)
    assert paths[1].read_text("utf-8") == to_csv(model)
    assert paths[3].read_text("utf-8").rstrip().endswith("</html>")


def test_writing_again_replaces(model: ReportModel, tmp_path: Path) -> None:
    write_report(model, tmp_path)
    paths = write_report(dataclasses.replace(model, title="Second"), tmp_path)
    assert paths[0].read_text("utf-8").startswith("# Second")


def test_a_failure_leaves_the_old_files(model: ReportModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [path.read_bytes() for path in write_report(model, tmp_path)]

    def fails(model: ReportModel) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(write, "to_html", fails)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(dataclasses.replace(model, title="Second"), tmp_path)
    assert [path.read_bytes() for path in (tmp_path / n for n in write.FILES)] == before


def test_all_rows_beside_the_page(model: ReportModel, tmp_path: Path) -> None:
    rows = (ReportEntry("forget", 3, "Who?", "She.", ("He.", None), ((0.5,), (float("nan"),))),)
    explorer = Explorer(("full", "npo"), (RowScore("probability"),), rows)
    path = write_report(dataclasses.replace(model, explorer=explorer), tmp_path)[-1]
    about = {"set": "forget", "row_id": 3, "question": "Who?", "answer": "She."}
    assert path.name == "rows.parquet" and pq.read_table(path).to_pylist() == [
        about | {"model": "full", "says": "He.", "probability": 0.5},
        about | {"model": "npo", "says": None, "probability": None},
    ]
