"""The Python API: load a study or a job, plan it, run it, and take its results as a table.

import expunge
study = expunge.load_study(["study=quickstart"])
result = study.run()
result.table()      # one dict per model
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.cli.compose import single_tree, study_tree
from expunge.cli.display import Display
from expunge.core.errors import JobError
from expunge.report.model import ReportModel
from expunge.report.table import table
from expunge.report.write import write_report
from expunge.study.config import decode_study, decode_task
from expunge.study.graph import Graph, build_graph
from expunge.study.results import report_model
from expunge.study.run import Planned, plan, run
from expunge.study.single import Prepared, Single, carry_out, prepare
from expunge.study.store import Store


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its report, where it lies, and what failed (job -> reason)."""

    report: ReportModel
    folder: Path
    failures: Mapping[str, str]

    def table(self) -> list[dict[str, Any]]:
        """The results table, a dict per row: column name -> raw value."""
        made = table(self.report)
        return [
            {"run": row.name} | {c.key: cell.value for c, cell in zip(made.columns, row.cells, strict=True)}
            for row in made.rows
        ]


@dataclass(frozen=True)
class StudyHandle:
    """A checked study."""

    graph: Graph

    @property
    def store(self) -> Store:
        """Where its jobs are kept."""
        return Store(Path(self.graph.study.paths.store))

    def plan(self) -> list[Planned]:
        """Every job and its state, without running."""
        return plan(self.graph.jobs, self.store)

    def run(self, *, console: Console | None = None, command: str = "") -> StudyResult:
        """Run what is missing, then write the report. Raises the first error if not one model could be measured."""
        with Display(self.plan(), console or Console(quiet=True)) as display:
            outcome = run(self.graph.jobs, self.store, display.tell)
        if all(leaf.metrics.key in outcome.failures for leaf in self.graph.leaves):
            raise outcome.first or JobError("no job could be done")
        report = report_model(self.graph, outcome, self.store, command)
        folder = self.graph.study.output_dir
        write_report(report, folder)
        names = {job.key: job.name for leaf in self.graph.leaves for job in (leaf.model, leaf.records, leaf.metrics)}
        return StudyResult(report, folder, {names.get(k, k): v for k, v in outcome.failures.items()})


def load_study(overrides: Sequence[str]) -> StudyHandle:
    """A study by `study=NAME` or `study=FILE.yaml` and further `key=value` words. Raises ConfigError or DataError."""
    return StudyHandle(build_graph(decode_study(study_tree(overrides))))


@dataclass(frozen=True)
class JobResult:
    """A finished single job: its folder, and its metrics (name -> number, or None where there is none)."""

    folder: Path
    summary: Mapping[str, float | None]


@dataclass(frozen=True)
class JobHandle:
    """A checked single job."""

    prepared: Prepared
    notes: Sequence[str]

    def run(self, *, console: Console | None = None) -> JobResult:
        """Do it, unless it is done, and show it in its output folder."""
        planned = plan([self.prepared.last], Store(Path(self.prepared.single.paths.store)))
        with Display(planned, console or Console(quiet=True)) as display:
            folder = carry_out(self.prepared, display.tell)
        summary: dict[str, float | None] = {}
        if self.prepared.metrics is not None:
            evals = folder / "evals" if self.prepared.model else folder
            summary = json.loads((evals / self.prepared.eval_file.replace("EVAL", "SUMMARY")).read_text())
        return JobResult(folder, summary)


def load_job(mode: str, overrides: Sequence[str]) -> JobHandle:
    """A single job ("train", "unlearn" or "eval") by `key=value` words. Raises ConfigError or DataError."""
    tree, notes = single_tree(mode, overrides)
    prepared = prepare(decode_task(Single, tree))
    return JobHandle(prepared, [*notes, *prepared.notes])
