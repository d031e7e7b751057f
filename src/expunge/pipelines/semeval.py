"""Unlearning within a time limit, for SemEval-2025 Task 4.

The output folder contains a complete model from early in the run on. Later models replace it, so a run may be stopped
at any moment.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import whole_folder, write_json
from expunge.core.terminal import complain
from expunge.methods.weight_edits import WeightEdit
from expunge.models.folder_files import whole_model
from expunge.models.trial import check_part_names
from expunge.pipelines.budget import Budget
from expunge.pipelines.hard_end import HardEnd, TimeLimitExceeded, alarm
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single import TrainingRun, merge_of, sides_of, training_runs
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_context import TaskContext, check_model, check_sides
from expunge.pipelines.study_jobs import work
from expunge.pipelines.submission_folder import STATUS, SubmissionFolder, check_folder, nothing_learned, write_status
from expunge.training.lora import check_quantize
from expunge.training.model_selection import watched_metrics
from expunge.training.phases import check_run, part_names
from expunge.training.run_state import Diverged
from expunge.training.saved_run import TrainerState

SAVE_SHARE = 20  # a save takes at most a twentieth of the time
Stopped = Literal["done", "time", "guard", "running"]


@dataclass(frozen=True)
class Submission:
    """The result of a run.

    Attributes:
        folder: The output folder with the model.
        stopped: Why the run ended: all steps done, the time limit, or the guard against a diverging loss.
        steps: Optimiser steps of the model in the folder.
        planned: Planned steps of all parts together.
        wall_s: Time of the run in seconds.
        note: Details of the end; empty for a run with all steps done.
    """

    folder: Path
    stopped: Stopped
    steps: int
    planned: int
    wall_s: float
    note: str = ""


@dataclass(frozen=True)
class SubmissionProgress:
    """The progress of a run.

    Attributes:
        part: Label of the training run.
        step: Steps done of this part.
        planned: Planned steps of this part.
        wall_s: Seconds since the start.
        limit_s: Time limit in seconds; inf without a limit.
        eta_s: Seconds until this part ends, by its steps or by the limit.
    """

    part: str
    step: int
    planned: int
    wall_s: float
    limit_s: float
    eta_s: float


OnProgress = Callable[[SubmissionProgress], None]


@dataclass(frozen=True)
class PreparedRun:
    """A checked run: settings, examples, training runs, and the weight edit that merges their models."""

    single: SingleJob
    task: TaskContext
    training_runs: tuple[TrainingRun, ...]
    merge: WeightEdit | None


def prepare_run(single: SingleJob) -> PreparedRun:
    """Check all settings and examples without weights. Raises ConfigError or DataError."""
    check_model(single.model)
    if single.model.source is None:
        raise ConfigError("model: unlearning starts from a model trained on the forget rows; name its folder")
    task = resolve_task(single)
    runs, merge = training_runs(single), merge_of(single)
    for run in runs:
        name = run.objective.spec.name
        if run.objective.spec.teacher or getattr(run.objective.method, "ALTERNATES", ""):
            raise ConfigError(f"trainer={name}: needs a second model; use `expunge unlearn`")
        check_quantize(run.args.lora)
        if run.args.save_strategy != "no":
            raise ConfigError("trainer.args.save_strategy: has no effect here; write --save-steps N")
        check_run(run.objective, run.args)
        check_part_names(single.model, None, part_names(run.objective, run.args))
        check_sides(task.benchmark, sides_of(single, task), run.objective)
        if run.args.evaluate.on:
            watched_metrics(task.benchmark, run.args.evaluate)
    return PreparedRun(single, task, runs, merge)


def submit(
    prepared: PreparedRun,
    out: Path,
    *,
    limit_s: float | None = None,
    before_s: float = 0.0,
    save_every_s: float = 300.0,
    save_steps: int | None = None,
    on_progress: OnProgress | None = None,
    output: SubmissionFolder | None = None,
    hard_end: HardEnd | None = None,
) -> Submission:
    """Unlearn within `limit_s` seconds, with a complete model in `out` from early on.

    The initial model comes first. A new model replaces it every `save_every_s` seconds, or after a longer interval if a
    save takes more than a twentieth of that. If the run keeps the best model of an evaluation, each better one replaces
    it instead. Runs to be merged follow one another with equal shares of the time.

    Args:
        prepared: The checked run.
        out: The output folder, new or empty.
        limit_s: Time limit in seconds; None for no limit.
        before_s: Seconds of it that are used already.
        save_every_s: Seconds between saves.
        save_steps: Also keep the model of every n-th step, in `checkpoint-<step>` below the output folder.
        on_progress: Called after each step.
        output: The output folder, if it contains the given model already.
        hard_end: The end of the process, which then writes the status of this run.

    Raises:
        JobError: Nothing was learned before the end.
        ConfigError: The output folder is not empty.
    """
    if output is None:
        check_folder(out)
    run = _SubmissionRun(
        prepared, output or SubmissionFolder(out), Budget(limit_s, before_s=before_s), save_every_s, on_progress,
        save_steps, started=output is not None,
    )  # fmt: skip
    if hard_end is not None:
        hard_end.end = run.cut_off
    try:
        with alarm(run.budget):
            run.all_parts()
    except TimeLimitExceeded:
        run.cut("run")
    except Diverged as error:
        run.stopped, run.note = "guard", str(error)
        run.write_end()
        raise
    finally:
        shutil.rmtree(run.output.aside, ignore_errors=True)
    if run.saved_steps == 0:
        run.write_end()
        line = f"nothing was unlearned: {run.note}"
        raise JobError(line if limit_s is None else nothing_learned(out, in_training=run.in_training))
    return run.result()


@dataclass
class _SubmissionRun:
    """One submission: its output folder, time budget and status."""

    prepared: PreparedRun
    output: SubmissionFolder
    budget: Budget
    save_every_s: float
    on_progress: OnProgress | None
    save_steps: int | None = None
    started: bool = False  # the given model is in the output folder
    stopped: Stopped = "running"
    note: str = ""
    saved_steps: int = 0  # of the model in the output folder
    planned: int = 0
    in_training: bool = False  # the first step has begun

    def all_parts(self) -> None:
        """Do all training runs, and merge their models."""
        merge, runs = self.prepared.merge, self.prepared.training_runs
        if merge is None:
            _SubmissionPart(self, runs[0], self.budget, shown=True).train(self._folder("model"))
            return
        models: list[Path] = []
        steps = 0
        for i, run in enumerate(runs):
            # a merge reads all models and writes one: about as long as saving each of them twice
            budget = self.budget.part(len(runs) - i, 2 * (len(runs) + 1) * self.budget.save_s)
            part = _SubmissionPart(self, run, budget, shown=i == 0)
            models.append(self._folder(f"model{i}"))
            try:
                steps += part.train(models[-1])
            except Diverged as error:
                if i == 0:
                    raise
                self.stopped, self.note = "guard", f"{error}; the model of {runs[0].label} is the result, unmerged"
                return
        self._merge(merge, models, steps)

    def _folder(self, name: str) -> Path:
        folder = self.output.aside / name
        folder.mkdir(parents=True)
        return folder

    def _merge(self, edit: WeightEdit, models: list[Path], steps: int) -> None:
        source = str(self.prepared.single.model.source)
        parents: dict[str, Path | str] = {"base": source, **{f"other_{i}": path for i, path in enumerate(models)}}

        def make(part: Path) -> None:
            work.apply_edit(part, parents, self.prepared.task, edit, lambda done, total: None)

        self.publish(make, steps)

    def publish(self, make: Callable[[Path], object], steps: int) -> None:
        """Write the model after `steps` steps into the output folder."""
        began = time.monotonic()
        self.output.fill(make, self.status(steps))
        self.budget.saved(time.monotonic() - began)
        self.saved_steps = steps

    def status(self, steps: int) -> dict[str, object]:
        """Return the status that is saved with a model."""
        return {
            "stopped": self.stopped, "steps": steps, "planned": self.planned, "note": self.note,
            "wall_s": round(self.budget.used_s, 3),
        }  # fmt: skip

    def cut_off(self) -> int:
        """Write the status at the hard end of the process, and return its exit code."""
        self.output.moving.acquire(timeout=self.budget.margin_s / 8)
        if self.stopped != "running":
            return 0 if self.saved_steps else 1
        self.cut("process")
        self.write_end()
        if self.saved_steps:
            complain(f"note: {self.note}: {self.output.folder}")
        else:
            complain(f"expunge: error: {nothing_learned(self.output.folder, in_training=self.in_training)}")
        shutil.rmtree(self.output.aside, ignore_errors=True)
        return 0 if self.saved_steps else 1

    def cut(self, what: str) -> None:
        """Note that the time limit ended `what`, the run or the process."""
        self.stopped = "time"
        result = "the last saved model is the result" if self.saved_steps else "no model of a step was saved"
        when = "during a step" if self.in_training else "before the first step"
        self.note = f"the time limit ended the {what} {when}; {result}"

    def write_end(self) -> None:
        """Write the final status next to the model, if there is one."""
        write_status(self.output.folder, self.status(self.saved_steps))

    def result(self) -> Submission:
        """Write the final status next to the model and return it."""
        if self.stopped == "running":
            self.stopped = "done"
        write_json(self.output.folder / STATUS, self.status(self.saved_steps))
        return Submission(
            self.output.folder, self.stopped, self.saved_steps, self.planned, self.budget.used_s, self.note
        )


class _SubmissionPart:
    """One training run of a submission, with its saves, time budget and progress.

    shown: write its models into the output folder. Before a merge only the first run does.
    """

    def __init__(self, run: _SubmissionRun, training: TrainingRun, budget: Budget, *, shown: bool) -> None:
        self._run, self._training, self._budget, self._shown = run, training, budget, shown
        self._merging = run.prepared.merge is not None
        self._saved, self._best, self._step, self._steps = time.monotonic(), -1, 0, 0
        self._began: float | None = None

    def train(self, folder: Path) -> int:
        """Train and return the number of steps of the resulting model.

        The model is in `folder` if a merge follows, and in the output folder if it is shown. If the loss diverges, the
        last shown model is the result. Raises Diverged if there is none.
        """
        run, prepared = self._run, self._run.prepared
        try:
            work.fit(
                folder, str(prepared.single.model.source), prepared.task, self._training.objective,
                sides_of(prepared.single, prepared.task), self._training.args, self._progress,
                generation=prepared.single.eval.generation, after_step=self._after_step,
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

    def _after_step(self, state: TrainerState) -> bool:
        """Save if a save is due, and return whether time is up. Called before the first step and after each."""
        run, budget = self._run, self._budget
        if self._began is None:
            self._began = time.monotonic()
            if self._shown and not run.started:
                self._save(state, 0)
            budget.begin()
            run.in_training = True
            return False
        budget.stepped()
        self._report(time.monotonic() - self._began)
        best = state.best_step
        if best is not None and best == self._step:
            self._best = best
        if budget.over:
            run.stopped = "time"
            return True
        if self._shown and (self._due() if best is None else best == self._step):
            self._save(state, self._step)
        if self._shown and run.save_steps and self._step % run.save_steps == 0:
            self._keep(state)
        return False

    def _keep(self, state: TrainerState) -> None:
        """Keep the present model in a folder of its own."""
        began = time.monotonic()
        with whole_folder(self._run.output.folder / f"checkpoint-{self._step}") as part:
            state.save(part)
        for budget in {self._budget, self._run.budget}:
            budget.saved(time.monotonic() - began)

    def _due(self) -> bool:
        wait = max(self._run.save_every_s, SAVE_SHARE * self._budget.save_s)
        return time.monotonic() - self._saved >= wait

    def _save(self, state: TrainerState, steps: int) -> None:
        self._run.publish(state.save, steps)
        self._saved = time.monotonic()
        self._budget.saved(self._run.budget.save_s)

    def _report(self, train_s: float) -> None:
        if self._run.on_progress is None:
            return
        left = train_s / max(1, self._step) * (self._steps - self._step)
        left = min(left, max(0.0, self._budget.left_s - self._budget.reserve_s))
        whole = self._run.budget
        self._run.on_progress(
            SubmissionProgress(self._training.label, self._step, self._steps, whole.used_s, whole.limit_s, left)
        )


def _copy(source: Path, target: Path, *, move: bool = False) -> None:
    """Copy or move the files of a model folder, and of the subfolders that belong to the model."""
    for file in whole_model(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        if move:
            os.replace(file, place)
        else:
            shutil.copy2(file, place)
