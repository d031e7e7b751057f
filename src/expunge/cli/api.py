"""The Python API: load a study or a job, plan it, run it, and read its results as a table.

import expunge
study = expunge.load_study(["study=quickstart"])
result = study.run()
result.table()      # one dict per model
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.benchmarks.api import Benchmark
from expunge.cli.compose import single_tree, study_tree
from expunge.cli.display import Display
from expunge.cli.grid_reports import in_one, write_reports
from expunge.core.errors import ConfigError, JobError
from expunge.core.files import write_json
from expunge.core.fingerprints import canonical
from expunge.core.numbers import plain
from expunge.engine.job import in_order
from expunge.engine.pool import n_workers, run_pool
from expunge.engine.run import JobEvent, PlannedJob, RunOutcome, plan, run
from expunge.engine.slurm import export_slurm, run_slurm
from expunge.engine.store import Store
from expunge.engine.worker import quiet
from expunge.metrics.api import MetricResult
from expunge.metrics.results import left_out, read_results
from expunge.pipelines.audit_jobs.results import show_audit_rows
from expunge.pipelines.meta_evaluation.jobs import show_meta
from expunge.pipelines.study.config import StudyConfig, decode_study, decode_task
from expunge.pipelines.study.graph import StudyGraph
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.study.harness import EVAL_FILE as LM_EVAL_FILE
from expunge.pipelines.study.results import report_model
from expunge.pipelines.study.retention import after_run
from expunge.pipelines.study.single import PreparedJob, carry_out, prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.work import cut_answers
from expunge.pipelines.sweep.stages import SweepStage, next_stage
from expunge.report.model import ReportModel
from expunge.report.table import table

SWEEP = "sweep.json"


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    reports: by the name of the cell; one without a name if the study has no grid. folder: the output folder. failures:
    job -> reason.
    """

    reports: Mapping[str, ReportModel]
    folder: Path
    failures: Mapping[str, str]

    @property
    def report(self) -> ReportModel:
        """The report of a study without a grid. Raises ConfigError for a grid, which has `reports`."""
        if len(self.reports) > 1:
            raise ConfigError(f"this study is a grid of {len(self.reports)} cells; use `reports`")
        return next(iter(self.reports.values()))

    def table(self) -> list[dict[str, Any]]:
        """Return the results table, a dict per row: column name -> raw value. A grid has `cell` as its first column."""
        return [
            ({"cell": cell} if cell else {})
            | {"run": row.name}
            | {c.key: cell.value for c, cell in zip(results.columns, row.cells, strict=True)}
            for cell, report in self.reports.items()
            for results in [table(report)]
            for row in results.rows
        ]


@dataclass(frozen=True)
class SweepRun:
    """A study with a sweep: its plain tree and its present stage."""

    tree: Mapping[str, Any]
    plugins: tuple[str, ...]
    study: StudyConfig
    stage: SweepStage

    def at(self, failed: Collection[str]) -> StudyHandle:
        """Return the study to run when the jobs `lost` have failed."""
        stage = next_stage(self.tree, Store(Path(self.study.paths.store)), failed)
        return StudyHandle(stage.graph, self.plugins, dataclasses.replace(self, stage=stage))

    def write(self, failed: Mapping[str, str]) -> None:
        """Write sweep.json: every trial with its numbers, the choice, and the jobs that failed."""
        trials = [canonical(trial) for trial in self.stage.trials]
        record = {"rule": canonical(self.study.sweep), "trials": trials, "notes": list(self.stage.notes)}
        write_json(self.study.output_dir / SWEEP, {**record, "failed": dict(failed)})


@dataclass(frozen=True)
class StudyHandle:
    """A checked study."""

    graph: StudyGraph
    plugins: tuple[str, ...] = ()
    swept: SweepRun | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """The benchmarks' notes on their data: the columns and the examples that are read."""
        graphs = self.graph.cells.values() if self.graph.cells else (self.graph,)
        return tuple(dict.fromkeys(note for graph in graphs for note in _data_notes(graph.setting.benchmark)))

    @property
    def graphs(self) -> tuple[StudyGraph, ...]:
        """All graphs of the study: of a sweep the trials and, once they are done, the winners."""
        return self.swept.stage.graphs if self.swept else (self.graph,)

    @property
    def store(self) -> Store:
        """The store of its jobs."""
        return Store(Path(self.graph.study.paths.store))

    def plan(self) -> list[PlannedJob]:
        """Return every job and its state, without running."""
        return plan(self.graph.jobs, self.store)

    def run(self, *, console: Console | None = None, command: str = "") -> StudyResult:
        """Run the missing jobs, then write the report. Raises the first error if no model has a measurement."""
        quiet()
        if self.swept is not None:
            return self._run_sweep(self.swept, console, command)
        return self._run(console, command)

    def _run_sweep(self, swept: SweepRun, console: Console | None, command: str) -> StudyResult:
        """Run the stages in order, until the winners are measured. Repeats trials that failed before."""
        failed: dict[str, str] = {}
        names: dict[str, str] = {}
        handle = swept.at(failed)
        while handle.swept and not handle.swept.stage.last:
            with Display(handle.plan(), console or Console(quiet=True)) as display:
                outcome = handle._launch(display.tell)
            failed |= outcome.failures
            names |= {job.key: job.name for job in in_order(handle.graph.jobs)}
            if all(leaf.metrics.key in failed for leaf in handle.graph.leaves):
                raise outcome.first or JobError("no job could be done")
            handle = swept.at(failed)
        if handle.swept:
            handle.swept.write(failed)
        result = handle._run(console, command)
        return dataclasses.replace(result, failures={**{names[k]: v for k, v in failed.items()}, **result.failures})

    def _run(self, console: Console | None, command: str) -> StudyResult:
        with Display(self.plan(), console or Console(quiet=True)) as display:
            outcome = self._launch(display.tell)
        ends = [leaf.metrics for leaf in self.graph.leaves] or self.graph.jobs
        if all(job.key in outcome.failures for job in ends):
            raise outcome.first or JobError("no job could be done")
        reports = self._reports(outcome, command)
        folder = self.graph.study.output_dir
        write_reports(reports, folder)
        show_audit_rows([a for a in self.graph.audits if a.job.key in outcome.records], self.store, folder / "audits")
        if self.graph.meta is not None and self.graph.meta.key in outcome.records:
            show_meta(self.graph.meta, self.store, folder)
        names = {job.key: job.name for job in in_order(self.graph.jobs)}
        if not outcome.failures:
            after_run(self.graphs, self.store, self.graph.study.store.keep_weights)
        return StudyResult(reports, folder, {names.get(k, k): v for k, v in outcome.failures.items()})

    def _launch(self, tell: Callable[[JobEvent], None]) -> RunOutcome:
        launch, jobs = self.graph.study.launch, self.graph.jobs
        if launch.kind == "slurm":
            return run_slurm(jobs, self.store, launch, self.graph.study.output_dir / "slurm", tell, self.plugins)
        if n_workers(launch) > 1:
            return run_pool(jobs, self.store, launch, tell, self.plugins)
        return run(jobs, self.store, tell)

    def export_slurm(self, folder: Path) -> list[Path]:
        """Write the study as sbatch scripts to a folder. Returns the files, with `queue.sh` last."""
        return export_slurm(self.graph.jobs, self.store, self.graph.study.launch, folder, self.plugins)

    def _reports(self, outcome: RunOutcome, command: str) -> dict[str, ReportModel]:
        """Return a report for each cell, by name; one without a name if the study has no grid."""
        graphs = self.graph.cells or {"": self.graph}
        reports = {name: report_model(graph, outcome, self.store, command) for name, graph in graphs.items()}
        sweep_notes = self.swept.stage.reasons if self.swept else {}
        return {
            name: dataclasses.replace(r, notes=(*r.notes, *sweep_notes.get(name, ()))) for name, r in reports.items()
        }

    def stored(self, command: str = "") -> ReportModel:
        """Return the present results of all cells, without running jobs."""
        planned = self.plan()
        records = {p.job.key: self.store.record(p.job) or {} for p in planned if p.state == "hit"}
        waiting = {p.job.key: "not run yet" for p in planned if p.state != "hit"}
        return in_one(self._reports(RunOutcome(records, waiting), command))


def _data_notes(benchmark: Benchmark) -> tuple[str, ...]:
    return (*benchmark.notes, *benchmark.preview)


def load_study(overrides: Sequence[str], plugins: Sequence[str] = ()) -> StudyHandle:
    """Load a study from `study=NAME` or `study=FILE.yaml` and `key=value` words. Raises ConfigError or DataError.

    plugins: files that are already loaded here, for the processes that run the jobs.
    """
    tree = study_tree(overrides)
    files = tuple(str(Path(p).expanduser().resolve()) for p in plugins)
    study = decode_study(tree)
    if not study.sweep.trials:
        return StudyHandle(study_graph(tree), files)
    return sweep_of(tree, study, files)


def sweep_of(tree: Mapping[str, Any], study: StudyConfig, plugins: tuple[str, ...]) -> StudyHandle:
    """Return a study with a sweep at its present stage, without the trials that failed in its last run."""
    failed: list[str] = []
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        failed = list(json.loads((study.output_dir / SWEEP).read_text(encoding="utf-8"))["failed"])
    stage = next_stage(tree, Store(Path(study.paths.store)), failed)
    return StudyHandle(stage.graph, plugins, SweepRun(tree, plugins, study, stage))


@dataclass(frozen=True)
class JobResult:
    """A finished single job: its folder, and its metrics (name -> number or None).

    reasons: why a metric has no number, or that its number excludes rows. notes: which answers were cut.
    """

    folder: Path
    summary: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class JobHandle:
    """A checked single job."""

    prepared: PreparedJob
    notes: Sequence[str]

    def run(self, *, console: Console | None = None) -> JobResult:
        """Run the job, unless it is done, and show it in its output folder."""
        quiet()
        planned = plan(self.prepared.ends, Store(Path(self.prepared.single.paths.store)))
        with Display(planned, console or Console(quiet=True)) as display:
            folder = carry_out(self.prepared, display.tell)
        results: dict[str, MetricResult] = {}
        evals = folder / "evals" if self.prepared.model else folder
        files = (
            (self.prepared.metrics, self.prepared.eval_file),
            (self.prepared.harness, LM_EVAL_FILE),
        )
        for job, name in files:
            if job is not None:
                results |= read_results(evals / name)[0]
        summary = {n: plain(r.value) for n, r in results.items()}
        reasons = {n: why for n, r in results.items() if (why := r.reason or left_out(r))}
        return JobResult(folder, summary, reasons, self._cut())

    def _cut(self) -> list[str]:
        """Return a line for each kind of rows that exceed the length limit, in training and in scoring."""
        store = Store(Path(self.prepared.single.paths.store))
        parts = self.prepared.records.parents.items() if self.prepared.records else ()
        jobs = [(None, self.prepared.model), *((file.split(".")[0], job) for file, job in parts)]
        return [
            f"{n} answers of {name or own} were cut at model.template_args.max_length tokens, question included"
            for name, job in jobs
            if job is not None
            for own, n in cut_answers(store.record(job)).items()
        ]


def load_job(mode: str, overrides: Sequence[str]) -> JobHandle:
    """Load a single job ("train", "unlearn" or "eval") from `key=value` words. Raises ConfigError or DataError."""
    tree, notes = single_tree(mode, overrides)
    prepared = prepare(decode_task(SingleJob, tree))
    return JobHandle(prepared, [*notes, *prepared.notes])
