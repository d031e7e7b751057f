"""The report as files."""

from __future__ import annotations

from pathlib import Path

from expunge.core.files import write_bytes, write_text
from expunge.report.audits import JSON, TABLE, audits_json, audits_parquet
from expunge.report.model import ReportModel
from expunge.report.page import to_html
from expunge.report.text import to_csv, to_markdown

FILES = ("results.md", "results.csv", "report.html")


def write_report(model: ReportModel, folder: Path) -> tuple[Path, ...]:
    """Write results.md, results.csv and report.html to the folder, each whole; earlier ones are replaced.

    Where there are audits, audits.json and audits.parquet too. The first three are made before the first is written,
    so a model that cannot be shown changes nothing on disk.
    """
    texts = (to_markdown(model), to_csv(model), to_html(model))
    paths = tuple(folder / name for name in FILES)
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    if model.audits:
        write_text(folder / JSON, audits_json(model))
        write_bytes(folder / TABLE, audits_parquet(model))
        paths += (folder / JSON, folder / TABLE)
    return paths
