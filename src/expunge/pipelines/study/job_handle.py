"""A checked single job: run it, and read its results. The command line uses it; `load_job` reads its words."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.core.console import Console
from expunge.core.errors import ConfigError, as_texts, nearest
from expunge.core.numbers import plain
from expunge.core.terminal import quiet
from expunge.engine.run import JobEvent, plan
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.pipelines.study.single import PreparedJob, carry_out, mark_notes, prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import FRONT_END, decode_task
from expunge.pipelines.study_jobs import LM_EVAL_FILE, cut_answers

if TYPE_CHECKING:
    from expunge.metrics.verdict import Verdict

MODES = ("train", "unlearn", "eval")


@dataclass(frozen=True)
class JobResult:
    """A finished single job: its folder, and its metrics (name -> number or None).

    reasons: why a metric has no number, or that its number excludes rows. notes: which answers were cut. verdict: the
    comparison with the retain model of `retain_logs_path`, if one is given.
    """

    folder: Path
    summary: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    verdict: Verdict | None = None


@dataclass(frozen=True)
class JobHandle:
    """A checked single job."""

    prepared: PreparedJob
    notes: Sequence[str]

    @functools.cached_property
    def store(self) -> Store:
        """The store of its jobs. It remembers the records and checksums that it has read."""
        return Store(Path(self.prepared.single.paths.store))

    def run(self, *, console: Console | None = None, example: Callable[[str], None] | None = None) -> JobResult:
        """Run the job, unless it is done, and show it in its output folder. example: as in `StudyHandle.run`."""
        setting = self.prepared.setting
        planned = plan(self.prepared.ends, self.store)
        if all(p.state == "hit" for p in planned):
            example = None
        else:
            quiet()
        from expunge.report.display import Display

        with Display(planned, console or Console(quiet=True)) as display:
            tell: Callable[[JobEvent], None] = display.tell
            if example is not None and setting is not None:
                from expunge.pipelines.study.template_example import with_example

                tell = with_example(setting, self.store, tell, example)
            folder = carry_out(self.prepared, tell)
        return self._result(folder)

    def _result(self, folder: Path) -> JobResult:
        """Return the results of the job that is shown in a folder."""
        from expunge.engine.show import change_notes
        from expunge.metrics.results import left_out, read_results

        results: dict[str, MetricResult] = {}
        files = (
            (self.prepared.metrics, self.prepared.eval_file),
            (self.prepared.harness, LM_EVAL_FILE),
        )
        for job, name in files:
            if job is not None:
                results |= read_results(self.store.file(job, name))[0]
        summary = {n: plain(r.value) for n, r in results.items()}
        reasons = {n: why for n, r in results.items() if (why := r.reason or left_out(r))}
        notes = [*mark_notes(self.prepared), *change_notes(folder), *self._cut()]
        return JobResult(folder, summary, reasons, notes, self._verdict(results))

    def _verdict(self, results: Mapping[str, MetricResult]) -> Verdict | None:
        """Return the comparison with the retain model, or None without one."""
        logs = self.prepared.single.retain_logs_path
        if not logs:
            return None
        from expunge.evaluation.result import EvalResult
        from expunge.metrics.results import read_results

        retain = read_results(Path(logs).expanduser())[0]
        return EvalResult(results).with_controls(retain=retain).verdict

    def _cut(self) -> list[str]:
        """Return a line for each kind of rows that exceed the length limit, in training and in scoring."""
        parts = self.prepared.records.parents.items() if self.prepared.records else ()
        jobs = [(None, self.prepared.model), *((file.split(".")[0], job) for file, job in parts)]
        return [
            f"{n} answers of {name or own} were cut at model.template_args.max_length tokens, question included"
            for name, job in jobs
            if job is not None
            for own, n in cut_answers(self.store.record(job)).items()
        ]


def load_job(mode: str, overrides: Sequence[str]) -> JobHandle:
    """Load a single job ("train", "unlearn" or "eval") from `key=value` words. Raises ConfigError or DataError."""
    if mode not in MODES:
        raise ConfigError(f"mode: no job named {mode!r}{nearest(mode, MODES)}")
    tree, notes = importlib.import_module(FRONT_END).single_tree(mode, as_texts(overrides, "overrides"))
    prepared = prepare(decode_task(SingleJob, tree))
    return JobHandle(prepared, [*notes, *prepared.notes])
