"""The Python API: load a study or a job, plan it, run it, and take its results as a table.

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
from expunge.report.model import ReportModel
from expunge.report.table import table
from expunge.study.audit_jobs.results import show_audit_rows
from expunge.study.config import StudyConfig, decode_study, decode_task
from expunge.study.graph import StudyGraph
from expunge.study.grid import study_graph
from expunge.study.harness import EVAL_FILE as LM_EVAL_FILE
from expunge.study.meta_evaluation.jobs import show_meta
from expunge.study.results import report_model
from expunge.study.retention import after_run
from expunge.study.single import PreparedJob, carry_out, prepare
from expunge.study.single_config import SingleJob
from expunge.study.sweep.stages import SweepStage, next_stage
from expunge.study.work import cut_answers

SWEEP = "sweep.json"


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its report (of a grid, one for each cell, by name), where it lies, and what failed (job ->
    reason)."""

    reports: Mapping[str, ReportModel]
    folder: Path
    failures: Mapping[str, str]

    @property
    def report(self) -> ReportModel:
        """The report of a study without a grid. Raises ConfigError for a grid, which has `reports`."""
        if len(self.reports) > 1:
            raise ConfigError(f"this study is a grid of {len(self.reports)} cells: take `reports`")
        return next(iter(self.reports.values()))

    def table(self) -> list[dict[str, Any]]:
        """The results table, a dict per row: column name -> raw value; of a grid, with the `cell` in front."""
        return [
            ({"cell": cell} if cell else {})
            | {"run": row.name}
            | {c.key: cell.value for c, cell in zip(made.columns, row.cells, strict=True)}
            for cell, report in self.reports.items()
            for made in [table(report)]
            for row in made.rows
        ]


@dataclass(frozen=True)
class SweepRun:
    """A study with a sweep: its plain tree, and how far it is."""

    tree: Mapping[str, Any]
    plugins: tuple[str, ...]
    study: StudyConfig
    stage: SweepStage

    def at(self, lost: Collection[str]) -> StudyHandle:
        """The study to run when the jobs `lost` have failed."""
        stage = next_stage(self.tree, Store(Path(self.study.paths.store)), lost)
        return StudyHandle(stage.graph, self.plugins, dataclasses.replace(self, stage=stage))

    def write(self, lost: Mapping[str, str]) -> None:
        """sweep.json: every trial with its numbers, what was chosen, and the jobs that failed."""
        trials = [canonical(trial) for trial in self.stage.trials]
        said = {"rule": canonical(self.study.sweep), "trials": trials, "notes": list(self.stage.notes)}
        write_json(self.study.output_dir / SWEEP, {**said, "failed": dict(lost)})


@dataclass(frozen=True)
class StudyHandle:
    """A checked study."""

    graph: StudyGraph
    plugins: tuple[str, ...] = ()
    swept: SweepRun | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the benchmarks of the study say of their data: the columns that are read, the examples taken."""
        graphs = self.graph.cells.values() if self.graph.cells else (self.graph,)
        return tuple(dict.fromkeys(note for graph in graphs for note in _told(graph.setting.benchmark)))

    @property
    def graphs(self) -> tuple[StudyGraph, ...]:
        """Every study that it is made of: of a sweep the trials and, where they are done, the winners."""
        return self.swept.stage.graphs if self.swept else (self.graph,)

    @property
    def store(self) -> Store:
        """Where its jobs are kept."""
        return Store(Path(self.graph.study.paths.store))

    def plan(self) -> list[PlannedJob]:
        """Every job and its state, without running."""
        return plan(self.graph.jobs, self.store)

    def run(self, *, console: Console | None = None, command: str = "") -> StudyResult:
        """Run what is missing, then write the report. Raises the first error if not one model could be measured."""
        quiet()
        if self.swept is not None:
            return self._run_sweep(self.swept, console, command)
        return self._run(console, command)

    def _run_sweep(self, swept: SweepRun, console: Console | None, command: str) -> StudyResult:
        """One study after the other, until the winners are measured. A trial that failed before is tried once more."""
        lost: dict[str, str] = {}
        names: dict[str, str] = {}
        handle = swept.at(lost)
        while handle.swept and not handle.swept.stage.last:
            with Display(handle.plan(), console or Console(quiet=True)) as display:
                outcome = handle._launch(display.tell)
            lost |= outcome.failures
            names |= {job.key: job.name for job in in_order(handle.graph.jobs)}
            if all(leaf.metrics.key in lost for leaf in handle.graph.leaves):
                raise outcome.first or JobError("no job could be done")
            handle = swept.at(lost)
        if handle.swept:
            handle.swept.write(lost)
        result = handle._run(console, command)
        return dataclasses.replace(result, failures={**{names[k]: v for k, v in lost.items()}, **result.failures})

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
        """The study as sbatch scripts in a folder; the files, the one that queues them all last."""
        return export_slurm(self.graph.jobs, self.store, self.graph.study.launch, folder, self.plugins)

    def _reports(self, outcome: RunOutcome, command: str) -> dict[str, ReportModel]:
        """A report for each cell; of a study without a grid, one without a name."""
        graphs = self.graph.cells or {"": self.graph}
        reports = {name: report_model(graph, outcome, self.store, command) for name, graph in graphs.items()}
        said = self.swept.stage.said if self.swept else {}
        return {name: dataclasses.replace(r, notes=(*r.notes, *said.get(name, ()))) for name, r in reports.items()}

    def stored(self, command: str = "") -> ReportModel:
        """The results as far as they are in the store, of all cells; nothing is run."""
        planned = self.plan()
        records = {p.job.key: self.store.record(p.job) or {} for p in planned if p.state == "hit"}
        waiting = {p.job.key: "not run yet" for p in planned if p.state != "hit"}
        return in_one(self._reports(RunOutcome(records, waiting), command))


def _told(benchmark: Benchmark) -> tuple[str, ...]:
    return (*benchmark.notes, *benchmark.preview)


def load_study(overrides: Sequence[str], plugins: Sequence[str] = ()) -> StudyHandle:
    """A study by `study=NAME` or `study=FILE.yaml` and further `key=value` words. Raises ConfigError or DataError.

    plugins: files that are already loaded, for the processes that do the jobs.
    """
    tree = study_tree(overrides)
    files = tuple(str(Path(p).expanduser().resolve()) for p in plugins)
    study = decode_study(tree)
    if not study.sweep.trials:
        return StudyHandle(study_graph(tree), files)
    return sweep_of(tree, study, files)


def sweep_of(tree: Mapping[str, Any], study: StudyConfig, plugins: tuple[str, ...]) -> StudyHandle:
    """A study with a sweep, as far as it is: trials that its last run saw fail are not waited for."""
    lost: list[str] = []
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        lost = list(json.loads((study.output_dir / SWEEP).read_text(encoding="utf-8"))["failed"])
    stage = next_stage(tree, Store(Path(study.paths.store)), lost)
    return StudyHandle(stage.graph, plugins, SweepRun(tree, plugins, study, stage))


@dataclass(frozen=True)
class JobResult:
    """A finished single job: its folder, and its metrics (name -> number, or None where there is none).

    reasons: why a metric has no number, or that its number leaves rows out. notes: what was cut.
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
        """Do it, unless it is done, and show it in its output folder."""
        quiet()
        planned = plan(self.prepared.ends, Store(Path(self.prepared.single.paths.store)))
        with Display(planned, console or Console(quiet=True)) as display:
            folder = carry_out(self.prepared, display.tell)
        found: dict[str, MetricResult] = {}
        evals = folder / "evals" if self.prepared.model else folder
        files = (
            (self.prepared.metrics, self.prepared.eval_file),
            (self.prepared.harness, LM_EVAL_FILE),
        )
        for job, name in files:
            if job is not None:
                found |= read_results(evals / name)[0]
        summary = {n: plain(r.value) for n, r in found.items()}
        reasons = {n: why for n, r in found.items() if (why := r.reason or left_out(r))}
        return JobResult(folder, summary, reasons, self._cut())

    def _cut(self) -> list[str]:
        """Which rows were longer than the template allows: in training, and of what was scored."""
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
    """A single job ("train", "unlearn" or "eval") by `key=value` words. Raises ConfigError or DataError."""
    tree, notes = single_tree(mode, overrides)
    prepared = prepare(decode_task(SingleJob, tree))
    return JobHandle(prepared, [*notes, *prepared.notes])
