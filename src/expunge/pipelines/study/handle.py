"""Checked studies: plan them, run them, write their reports, and read their results.

The command line and `Study` use them. `load_study` reads the words of a command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import __version__
from expunge.core.console import Console
from expunge.core.errors import ConfigError, JobError, as_list, as_texts
from expunge.core.files import check_place, write_json, write_text
from expunge.core.fingerprints import canonical, fingerprint
from expunge.core.terminal import quiet
from expunge.engine.job import in_order, job_types
from expunge.engine.launch import check_kinds
from expunge.engine.run import JobEvent, PlannedJob, RunOutcome, plan, run
from expunge.engine.store import Store
from expunge.pipelines.study.config import StudyConfig, decode_study
from expunge.pipelines.study.graph import StudyGraph
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.study.run_note import link_latest, with_folder
from expunge.pipelines.study.task_config import FRONT_END

if TYPE_CHECKING:
    from expunge.benchmarks.api import Benchmark
    from expunge.pipelines.study.run_note import NoteWriter
    from expunge.pipelines.sweep.stages import SweepStage
    from expunge.report.model import ReportModel

SWEEP = "sweep.json"
REPORT_MARK = ".report-of"  # in the folder of a report: a fingerprint of the results and settings that it shows


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
        from expunge.report.table import table

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
        from expunge.pipelines.sweep.stages import next_stage

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

    def __repr__(self) -> str:
        return f"StudyHandle({self.graph.study.name}, {len(in_order(self.graph.jobs))} jobs)"

    @functools.cached_property
    def store(self) -> Store:
        """The store of its jobs. It remembers the records and checksums that it has read."""
        return Store(Path(self.graph.study.paths.store))

    def plan(self) -> list[PlannedJob]:
        """Return every job and its state, without running."""
        return plan(self.graph.jobs, self.store)

    def run(
        self, *, console: Console | None = None, command: str = "", example: Callable[[str], None] | None = None
    ) -> StudyResult:
        """Run the missing jobs, then write the report. Raises the first error if no model has a measurement.

        example: receives the lines that show how an example becomes tokens, unless every job is done.
        """
        check_place(self.graph.study.output_dir, "paths.output_dir", writable=True)
        study, failed_trials = self._after_trials(console, command, example)
        planned = study.plan()
        with study._watched(planned, console, command) as watch:
            tell = study._tell_with_example(watch.tell, planned, example if self.swept is None else None)
            outcome = study._runner(planned)(tell)
        ends = [leaf.metrics for leaf in study.graph.leaves] or study.graph.jobs
        if all(job.key in outcome.failures for job in ends):
            raise outcome.first or JobError("no job could be done")
        study._write(reports := study._reports(outcome, command), outcome, command)
        link_latest(self.graph.study.output_dir, self.graph.study.name)
        names = {job.key: job.name for job in in_order(study.graph.jobs)}
        settings = study.graph.study
        if not outcome.failures and settings.store.keep_weights != "all":
            from expunge.pipelines.study.retention import after_run

            after_run(study.graphs, study.store, settings.store.keep_weights)
        unread = {m.label: m.reason for report in reports.values() for m in report.missing}
        failures = {names.get(k, k): v for k, v in outcome.failures.items()}
        return StudyResult(reports, settings.output_dir, {**failed_trials, **unread, **failures})

    @contextlib.contextmanager
    def _watched(
        self, planned: Sequence[PlannedJob], console: Console | None, command: str, *, last: bool = True
    ) -> Iterator[NoteWriter]:
        """Show the run in the terminal, and note its state in the store, which must be writable if a job will run."""
        from expunge.pipelines.study.run_note import NoteWriter
        from expunge.report.display import Display

        if any(p.state != "hit" for p in planned):
            check_place(self.store.root, "paths.store", writable=True)
        with (
            Display(planned, console or Console(quiet=True)) as display,
            NoteWriter(display, self.store, self.graph, command, last=last) as watch,
        ):
            yield watch

    def _tell_with_example(
        self,
        tell: Callable[[JobEvent], None],
        planned: Sequence[PlannedJob],
        example: Callable[[str], None] | None,
    ) -> Callable[[JobEvent], None]:
        """Return the receiver of the jobs' events, after the example of a run that has work to do."""
        if example is None or all(p.state == "hit" for p in planned):
            return tell
        from expunge.pipelines.study.template_example import with_example

        return with_example(self.graph.setting, self.store, tell, example, self.graph.study.eval.generation)

    def _after_trials(
        self, console: Console | None, command: str, example: Callable[[str], None] | None
    ) -> tuple[StudyHandle, dict[str, str]]:
        """Run the trials of a sweep, stage by stage, and return the study of its winners and the failures by name.

        Repeats trials that failed before. A study without a sweep is returned as it is.
        """
        failed: dict[str, str] = {}
        if self.swept is None:
            return self, failed
        names: dict[str, str] = {}
        handle = self.swept.at(failed)
        while handle.swept and not handle.swept.stage.last:
            planned = handle.plan()
            with handle._watched(planned, console, command, last=False) as watch:
                outcome = handle._runner(planned)(handle._tell_with_example(watch.tell, planned, example))
            example = None
            failed |= outcome.failures
            names |= {job.key: job.name for job in in_order(handle.graph.jobs)}
            if all(leaf.metrics.key in failed for leaf in handle.graph.leaves):
                raise outcome.first or JobError("no job could be done")
            handle = self.swept.at(failed)
        if handle.swept:
            handle.swept.write(failed)
        return handle, {names[k]: v for k, v in failed.items()}

    def _write(self, reports: Mapping[str, ReportModel], outcome: RunOutcome, command: str) -> None:
        """Write the report, unless its folder has it for the same results already."""
        folder = self.graph.study.output_dir
        timeless = [repr(dataclasses.replace(report, created="")) for report in reports.values()]
        outcomes = json.dumps([outcome.records, outcome.failures])
        mark = fingerprint([repr(self.graph.study), outcomes, __version__, list(reports), *timeless])
        file = folder / REPORT_MARK
        if file.is_file() and file.read_text(encoding="utf-8") == mark and (folder / "report.html").is_file():
            return
        from expunge.pipelines.study.grid_reports import write_reports

        file.unlink(missing_ok=True)
        write_reports(reports, folder, self.graph.axes)
        if self.graph.audits:
            from expunge.pipelines.audit_jobs.results import show_audit_rows

            done = [a for a in self.graph.audits if a.job.key in outcome.records]
            show_audit_rows(done, self.store, folder / "audits")
        if self.graph.meta is not None and self.graph.meta.key in outcome.records:
            from expunge.pipelines.meta_evaluation.jobs import show_meta

            show_meta(self.graph.meta, self.store, folder)
        write_text(file, mark)

    @property
    def damage(self) -> dict[str, str]:
        """The jobs whose stored results cannot be used, with the reasons."""
        return {p.job.name: p.damage for p in self.plan() if p.damage}

    @property
    def has_results(self) -> bool:
        """Whether some model has a measurement, a trial of a sweep included."""
        ends = {job.key for graph in self.graphs for job in graph.jobs}
        return any(p.state == "hit" and p.job.key in ends for p in self.plan())

    def _runner(self, planned: Sequence[PlannedJob]) -> Callable[[Callable[[JobEvent], None]], RunOutcome]:
        """Return the function that runs the jobs, here or elsewhere, and reports their events."""
        launch, jobs = self.graph.study.launch, self.graph.jobs
        here = functools.partial(run, jobs, self.store)
        if all(p.state == "hit" for p in planned):
            return here
        quiet()
        if launch.kind == "slurm":
            from expunge.engine.slurm import run_slurm

            folder = self.graph.study.output_dir / "slurm"
            return lambda tell: run_slurm(jobs, self.store, launch, folder, tell, self.plugins)
        if launch.workers != 1:
            from expunge.engine.pool import n_workers, run_pool

            if n_workers(launch) > 1:
                return lambda tell: run_pool(jobs, self.store, launch, tell, self.plugins)
        return here

    def export_slurm(self, folder: Path) -> list[Path]:
        """Write the study as sbatch scripts to a folder. Returns the files, with `queue.sh` last."""
        from expunge.engine.slurm import export_slurm

        return export_slurm(self.graph.jobs, self.store, self.graph.study.launch, folder, self.plugins)

    def _reports(self, outcome: RunOutcome, command: str) -> dict[str, ReportModel]:
        """Return a report for each cell, by name; one without a name if the study has no grid."""
        from expunge.engine.verify import root
        from expunge.pipelines.study.results import report_model

        graphs = self.graph.cells or {"": self.graph}
        reports = {name: report_model(graph, outcome, self.store, command) for name, graph in graphs.items()}
        of_all = (
            f"Root of the results: {root(self.graph.jobs, self.store)} (`expunge verify study=...` computes it again)."
        )
        sweep_notes = self.swept.stage.reasons if self.swept else {}
        return {
            name: dataclasses.replace(r, notes=(*r.notes, *sweep_notes.get(name, ()), of_all))
            for name, r in reports.items()
        }

    def stored(self, command: str = "") -> ReportModel:
        """Return the present results of all cells as one model, without running jobs."""
        from expunge.pipelines.study.grid_reports import in_one

        return in_one(self.stored_reports(command))

    def stored_reports(self, command: str = "") -> dict[str, ReportModel]:
        """Return a report of the present results for each cell, by name, without running jobs."""
        planned = self.plan()
        records = {p.job.key: self.store.record(p.job) or {} for p in planned if p.state == "hit"}
        waiting = {p.job.key: p.damage or "not run yet" for p in planned if p.state != "hit"}
        return self._reports(RunOutcome(records, waiting), command)


def _data_notes(benchmark: Benchmark) -> tuple[str, ...]:
    return (*benchmark.notes, *benchmark.preview)


def load_study(overrides: Sequence[str], plugins: Sequence[str] = ()) -> StudyHandle:
    """Load a study from `study=NAME` or `study=FILE.yaml` and `key=value` words. Raises ConfigError or DataError.

    plugins: files that are already loaded here, for the processes that run the jobs.
    """
    read = importlib.import_module(FRONT_END).study_tree
    overrides = as_texts(overrides, "overrides")
    tree = with_folder(read(overrides), overrides, read)
    names = as_texts([str(p) if isinstance(p, Path) else p for p in as_list(plugins, "plugins")], "plugins")
    files = tuple(str(Path(name).expanduser().resolve()) for name in names)
    study = decode_study(tree)
    handle = sweep_of(tree, study, files) if study.sweep.trials else StudyHandle(study_graph(tree), files)
    check_kinds(study.launch.slurm, (job.kind for job in job_types().values()))
    return handle


def sweep_of(tree: Mapping[str, Any], study: StudyConfig, plugins: tuple[str, ...]) -> StudyHandle:
    """Return a study with a sweep at its present stage, without the trials that failed in its last run."""
    from expunge.pipelines.sweep.stages import next_stage

    failed: list[str] = []
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        failed = list(json.loads((study.output_dir / SWEEP).read_text(encoding="utf-8"))["failed"])
    stage = next_stage(tree, Store(Path(study.paths.store)), failed)
    return StudyHandle(stage.graph, plugins, SweepRun(tree, plugins, study, stage))
