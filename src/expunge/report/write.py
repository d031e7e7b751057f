"""The report as files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.files import write_bytes
from expunge.report import examples
from expunge.report.audits import JSON, TABLE, audits_json, audits_parquet
from expunge.report.model import ReportModel
from expunge.report.page import to_html
from expunge.report.stories import FILE as RECOVERY
from expunge.report.stories import recovery_csv
from expunge.report.text import to_csv, to_latex, to_markdown

FILES = ("results.md", "results.csv", "results.tex", "report.html")


def write_report(model: ReportModel, folder: Path) -> tuple[Path, ...]:
    """Write results.md, results.csv, results.tex and report.html to the folder; existing files are replaced.

    Further files: rows.parquet if there are rows to browse, audits.json and audits.parquet if there are audits, and
    recovery.csv for a study of stories. Each file is written atomically. All contents are prepared before the first
    write, so a failure changes nothing on disk.
    """
    texts = (to_markdown(model), to_csv(model), to_latex(model), to_html(model))
    data = [(path, text.encode()) for path, text in zip((folder / name for name in FILES), texts, strict=True)]
    if model.explorer.rows:
        sink = pa.BufferOutputStream()
        pq.write_table(examples.rows_table(model.explorer), sink)
        data.append((folder / examples.FILE, sink.getvalue().to_pybytes()))
    if model.protocol is not None:
        data.append((folder / RECOVERY, recovery_csv(model.protocol).encode()))
    if model.audits:
        data += [(folder / JSON, audits_json(model).encode()), (folder / TABLE, audits_parquet(model))]
    for path, content in data:
        write_bytes(path, content)
    return tuple(path for path, _ in data)
