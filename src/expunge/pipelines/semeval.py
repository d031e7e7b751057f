"""Unlearning within a time limit, as SemEval-2025 Task 4 asks for it: a model goes in, and a model folder is there from
early on, replaced by later ones, so that whoever stops the run at any moment finds a whole one."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import write_json
from expunge.methods.weight_edits import WeightEdit
from expunge.pipelines.study import work
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single import TrainingRun, merge_of, sides_of, training_runs
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_context import TaskContext, check_model, check_sides
from expunge.training.budget import Budget
from expunge.training.evaluation_callback import suite_metrics
from expunge.training.lora import check_quantize
from expunge.training.phases import check_run
from expunge.training.run_state import Diverged

STATUS = "semeval.json"
SAVE_SHARE = 20  # a save takes at most a twentieth of the time
Stopped = Literal["done", "time", "guard", "running"]


@dataclass(frozen=True)
class Submission:
    """What lies in the output folder. stopped: why the run ended: all steps done, the time limit, or the guard against
    a loss that runs away. steps: of the model that lies there, of so many planned (of all parts together)."""

    folder: Path
    stopped: Stopped
    steps: int
    planned: int
    wall_s: float
    note: str = ""


@dataclass(frozen=True)
class SubmissionProgress:
    """How far a run is. wall_s: since the beginning; limit_s: all the time there is (inf: no limit); eta_s: to the end
    of this part, by its steps or by the limit."""

    part: str
    step: int
    planned: int
    wall_s: float
    limit_s: float
    eta_s: float


Tell = Callable[[SubmissionProgress], None]


class TimeLimitExceeded(BaseException):  # no library that catches errors should catch this one
    """The hard end of the time limit. What lies in the output folder counts."""


@dataclass(frozen=True)
class PreparedRun:
    """A checked run: its settings, its rows, its training runs and what merges them."""

    single: SingleJob
    setting: TaskContext
    fittings: tuple[TrainingRun, ...]
    merge: WeightEdit | None


def prepare_run(single: SingleJob) -> PreparedRun:
    """Everything that can be wrong, before any weight is read. Raises ConfigError or DataError."""
    check_model(single.model)
    if single.model.source is None:
        raise ConfigError("model: unlearning starts from a model that knows the rows; give its folder")
    setting = resolve_task(single)
    fittings, merge = training_runs(single), merge_of(single)
    for fitting in fittings:
        name = fitting.objective.spec.name
        if fitting.objective.spec.teacher or getattr(fitting.objective.method, "ALTERNATES", ""):
            raise ConfigError(f"trainer={name}: it needs another model first; use `expunge unlearn`")
        check_quantize(fitting.args.lora)
        check_run(fitting.objective, fitting.args)
        check_sides(setting.benchmark, sides_of(single, setting), fitting.objective)
        if fitting.args.evaluate.on:
            suite_metrics(setting.benchmark.panel, fitting.args.evaluate)
    return PreparedRun(single, setting, fittings, merge)


def submit(
    entry: PreparedRun,
    out: Path,
    *,
    limit_s: float | None = None,
    save_every_s: float = 300.0,
    tell: Tell | None = None,
) -> Submission:
    """Unlearn, with a whole model in `out` from early on, and all of it done within `limit_s` seconds.

    The first model there is the one that was given. A new one takes its place every `save_every_s` seconds (seldomer
    where a save takes more than a twentieth of that), or where the best by an evaluation is to be kept, once there is
    a better one. Of several runs that are to be merged, one is worked on after the other, each in an equal share of the
    time. Raises JobError if nothing was learned before the end, ConfigError for an output folder that holds something.
    """
    check_folder(out)
    run = _SubmissionRun(entry, SubmissionFolder(out), Budget(limit_s), save_every_s, tell)
    try:
        with alarm(run.budget):
            run.all_parts()
    except TimeLimitExceeded:
        run.stopped = "time"
        run.note = "the hard end of the time limit came first; the last model that was saved is the result"
    except Diverged as error:
        run.stopped, run.note = "guard", str(error)
        run.ended()
        raise
    finally:
        shutil.rmtree(run.output.aside, ignore_errors=True)
    if run.saved_steps == 0:
        run.ended()
        limit = "" if limit_s is None else " within the time limit"
        raise JobError(f"nothing was unlearned{limit}: {out} holds the given model, or none. {run.note}".rstrip())
    return run.result()


def check_folder(out: Path) -> None:
    """Raise ConfigError unless the output folder is new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} already holds something; name a new or empty folder")


class SubmissionFolder:
    """A folder that holds a whole model at every moment after the first save: files are written beside, within the
    folder, and take the places of the old ones one by one, the weights (one file up to 50 GB) last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aside = folder / ".work"

    def fill(self, make: Callable[[Path], object], status: dict[str, object]) -> None:
        """Put what `make` writes into the folder."""
        part = self.aside / uuid.uuid4().hex[:8]
        part.mkdir(parents=True)
        make(part)
        write_json(part / STATUS, status)
        self.take(part)

    def take(self, part: Path) -> None:
        """Move the files of a finished model folder into this one."""
        files = sorted((p for p in part.iterdir() if p.is_file()), key=lambda p: p.suffix == ".safetensors")
        for file in files:
            with open(file, "rb") as f:
                os.fsync(f.fileno())
            os.replace(file, self.folder / file.name)
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def alarm(budget: Budget) -> Iterator[None]:
    """Within the block OutOfTime is raised half a margin before the limit, whatever is being done. Only the main thread
    can listen to the clock; elsewhere nothing changes."""
    if math.isinf(budget.limit_s) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, budget.left_s - budget.margin_s / 2), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class _SubmissionRun:
    """One handing in: what is saved, and how far it is."""

    entry: PreparedRun
    output: SubmissionFolder
    budget: Budget
    save_every_s: float
    tell: Tell | None
    stopped: Stopped = "running"
    note: str = ""
    saved_steps: int = 0  # of the model that lies in the output folder
    planned: int = 0

    def all_parts(self) -> None:
        """Each run, and what merges them."""
        merge, fittings = self.entry.merge, self.entry.fittings
        if merge is None:
            _SubmissionPart(self, fittings[0], self.budget, shown=True).train(self._folder("model"))
            return
        kept: list[Path] = []
        steps = 0
        for i, fitting in enumerate(fittings):
            # a merge reads all models and writes one: about as long as saving each of them twice
            budget = self.budget.part(len(fittings) - i, 2 * (len(fittings) + 1) * self.budget.save_s)
            part = _SubmissionPart(self, fitting, budget, shown=i == 0)
            kept.append(self._folder(f"model{i}"))
            try:
                steps += part.train(kept[-1])
            except Diverged as error:
                if i == 0:
                    raise
                self.stopped, self.note = "guard", f"{error}; the model of {fittings[0].label} is the result, unmerged"
                return
        self._merge(merge, kept, steps)

    def _folder(self, name: str) -> Path:
        made = self.output.aside / name
        made.mkdir(parents=True)
        return made

    def _merge(self, edit: WeightEdit, kept: list[Path], steps: int) -> None:
        source = str(self.entry.single.model.source)
        parents: dict[str, Path | str] = {"base": source, **{f"other_{i}": path for i, path in enumerate(kept)}}

        def make(part: Path) -> None:
            work.apply_edit(part, parents, self.entry.setting, edit, lambda done, total: None)

        self.publish(make, steps)

    def publish(self, make: Callable[[Path], object], steps: int) -> None:
        """Put a model of so many steps into the output folder."""
        began = time.monotonic()
        self.output.fill(make, self.status(steps))
        self.budget.saved(time.monotonic() - began)
        self.saved_steps = steps

    def status(self, steps: int) -> dict[str, object]:
        """What is written beside a model."""
        return {
            "stopped": self.stopped, "steps": steps, "planned": self.planned, "note": self.note,
            "wall_s": round(self.budget.used_s, 3),
        }  # fmt: skip

    def ended(self) -> None:
        """Say beside the model, if there is one, that the run has ended, and why."""
        if (self.output.folder / STATUS).is_file():
            write_json(self.output.folder / STATUS, self.status(self.saved_steps))

    def result(self) -> Submission:
        """What lies there at the end; it is written down beside the model, too."""
        if self.stopped == "running":
            self.stopped = "done"
        write_json(self.output.folder / STATUS, self.status(self.saved_steps))
        return Submission(
            self.output.folder, self.stopped, self.saved_steps, self.planned, self.budget.used_s, self.note
        )


class _SubmissionPart:
    """One training run of a handing in: it saves, keeps time, and tells how far it is.

    shown: its models go into the output folder. Of several runs only the first one's do, until all are merged.
    """

    def __init__(self, run: _SubmissionRun, fitting: TrainingRun, budget: Budget, *, shown: bool) -> None:
        self._run, self._fitting, self._budget, self._shown = run, fitting, budget, shown
        self._merging = run.entry.merge is not None
        self._saved, self._best, self._step, self._steps = time.monotonic(), -1, 0, 0
        self._began: float | None = None

    def train(self, folder: Path) -> int:
        """Train; the model is in `folder` then if it is to be merged, and in the output folder if it is shown. Returns
        its step. Where the loss runs away, the last model shown counts; raises Diverged if there is none."""
        run, entry = self._run, self._run.entry
        try:
            work.fit(
                folder, str(entry.single.model.source), entry.setting, self._fitting.objective,
                sides_of(entry.single, entry.setting), self._fitting.args, self._progress,
                generation=entry.single.eval.generation, after_step=self._after_step,
            )  # fmt: skip
        except Diverged as error:
            if not self._shown or run.saved_steps == 0:
                raise
            run.stopped, run.note = "guard", str(error)
            if self._merging:
                _copy(run.output.folder, folder)
            return run.saved_steps
        done = self._best if self._best >= 0 else self._step
        if self._shown:
            run.publish(lambda part: _copy(folder, part, move=not self._merging), done)
        return done

    def _progress(self, step: int, steps: int) -> None:
        if self._steps != steps:
            self._run.planned += steps - self._steps
            self._steps = steps
        self._step = step

    def _after_step(self, moment: work.TrainerState) -> bool:
        """Before the first step and after each: save if it is time, and say whether time is up."""
        run, budget = self._run, self._budget
        if self._began is None:
            self._began = time.monotonic()
            if self._shown:
                self._save(moment, 0)
            budget.begin()
            return False
        budget.stepped()
        self._say(time.monotonic() - self._began)
        best = moment.best_step
        if best is not None and best == self._step:
            self._best = best
        if budget.over:
            run.stopped = "time"
            return True
        if self._shown and (self._due() if best is None else best == self._step):
            self._save(moment, self._step)
        return False

    def _due(self) -> bool:
        wait = max(self._run.save_every_s, SAVE_SHARE * self._budget.save_s)
        return time.monotonic() - self._saved >= wait

    def _save(self, moment: work.TrainerState, steps: int) -> None:
        self._run.publish(moment.save, steps)
        self._saved = time.monotonic()
        self._budget.saved(self._run.budget.save_s)

    def _say(self, ran: float) -> None:
        if self._run.tell is None:
            return
        left = ran / max(1, self._step) * (self._steps - self._step)
        left = min(left, max(0.0, self._budget.left_s - self._budget.reserve_s))
        whole = self._run.budget
        self._run.tell(
            SubmissionProgress(self._fitting.label, self._step, self._steps, whole.used_s, whole.limit_s, left)
        )


def _copy(source: Path, target: Path, *, move: bool = False) -> None:
    """The files of a model folder, not what lies in folders beside them."""
    for file in sorted(p for p in source.iterdir() if p.is_file()):
        if move:
            os.replace(file, target / file.name)
        else:
            shutil.copy2(file, target / file.name)
