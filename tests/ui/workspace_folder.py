"""Files of a workspace: studies, results in a store, notes of runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.files import write_sealed
from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.core.records import GeneratedText, texts_table
from expunge.engine.lease import process_start
from expunge.engine.record import RECORD, write_record
from expunge.metrics.api import MetricResult
from expunge.metrics.results import write_results
from expunge.report.model import ReportModel, ReportRun
from expunge.report.query import write_results as write_table

HOSTILE = "<script>window.__pwned = 1</script>"


def results(value: float) -> dict[str, MetricResult]:
    rows = {row: {"prob": value + row / 100} for row in range(8)}
    return {"forget_Q_A_Prob": MetricResult(value + 0.035, per_row=rows)}


def answers(label: str, n: int) -> pa.Table:
    """Return the generations of a model for n rows."""
    return texts_table(
        GeneratedText(row, 0, f"Question {row}? {HOSTILE}", f"truth {row}", f"truth {row}", 4, True)
        if label == "true"
        else GeneratedText(row, 0, f"Question {row}? {HOSTILE}", f"{label} says {row}", f"truth {row}", 4, True)
        for row in range(n)
    )


def job(store: Path, kind: str, label: str, parents: dict[str, str], fill: Callable[[Path], None]) -> tuple[str, str]:
    """Write a finished job. Returns its key and its folder in the store."""
    identity = {"label": label}
    key = fingerprint({"kind": kind, "identity": identity, "parents": parents})
    folder = store / kind / f"{label}-{key[:12]}"
    folder.mkdir(parents=True)
    fill(folder)
    files = {f.name: [file_sha256(f), f.stat().st_size] for f in folder.iterdir()}
    record = {"key": key, "kind": kind, "identity": identity, "parents": parents, "excluded_from_key": [], "chain": {}}
    write_record(folder / RECORD, {**record, "files": files})
    return key, folder.relative_to(store).as_posix()


def artifact(store: Path, label: str, value: float) -> str:
    """Write the finished jobs that measured a model. Returns the folder of its metrics in the store."""

    def texts(folder: Path) -> None:
        pq.write_table(answers(label, 30), folder / "forget_eval.texts.parquet")
        pq.write_table(answers("true", 3), folder / "retain_eval.texts.parquet")

    key, _ = job(store, "records", label, {}, texts)
    numbers = results(value)
    return job(store, "metrics", label, {"records": key}, lambda f: write_results(f, numbers, {}, prefix="WORLD_"))[1]


def note(store: Path, place: Path, models: list[list[str]], **changes: Any) -> None:
    """Write the note of a run."""
    pid = os.getpid()
    written = {
        "study": place.name, "folder": str(place), "command": "expunge run study=x", "state": "done",
        "began": time.time(), "updated": time.time(), "host": socket.gethostname(), "pid": pid,
        "process": process_start(pid), "total": 20, "done": 20, "models": models,
    } | changes  # fmt: skip
    write_sealed(store / ".runs" / f"{place.name}.json", written)


def study(folder: Path, methods: tuple[str, ...]) -> None:
    """Write the files of a study's report that the workspace reads."""
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(f"<h1>{folder.name}</h1>")
    (folder / "results.md").write_text("# T\n\n## Verdict\n\n**NPO is the choice: 94% \\[91%, 97%\\].**\n")
    runs = tuple(ReportRun(name, "unlearn", name, "", 0, results(0.2)) for name in methods)
    write_table(ReportModel("t", folder.name, "c", "now", {"forget": 8}, runs), folder)
