"""SemEval-2025 Task 4 as its organisers run it, within a time limit: `expunge semeval`, `expunge.semeval.unlearn`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.cli.compose import single_tree
from expunge.cli.display import duration
from expunge.cli.vocabulary import SEMEVAL_EXPERIMENT
from expunge.core.durations import seconds
from expunge.core.errors import ConfigError
from expunge.engine.worker import quiet
from expunge.pipelines.semeval import (
    PreparedRun,
    Submission,
    SubmissionProgress,
    Tell,
    check_folder,
    prepare_run,
    submit,
)
from expunge.pipelines.study.config import decode_task
from expunge.pipelines.study.single import prepare
from expunge.pipelines.study.single_config import SingleJob

EVALS = "evals"  # the scores, within the output folder


def unlearn(
    model_path: str | Path,
    output_dir: str | Path,
    forget_dir: str | Path,
    retain_dir: str | Path,
    *,
    overrides: Sequence[str] = (),
    time_limit: str | float | None = None,
    save_every: str | float = 300.0,
    validation: str | Path | None = None,
    tell: Tell | None = None,
) -> Submission:
    """Unlearn the rows of `forget_dir` from a model, as SemEval-2025 Task 4 asks for it.

    The first four are the task's own. forget_dir holds forget.parquet or forget.jsonl, retain_dir retain.*, with the
    columns id, task, input and output. A whole model folder (safetensors, configuration, tokenizer) lies in output_dir
    from early on; later ones take its place.

    overrides: settings by `key=value`, such as `experiment=semeval/ails-ntua`; `experiment=semeval/iterative` unless
    they name one. time_limit, save_every: seconds, or text such as "1h" or "5m". validation: a folder with forget and
    retain rows to watch the run by; without one the rows themselves serve, where the experiment evaluates. tell: is
    given the progress after each step.

    Raises ConfigError or DataError for wrong input before any weight is read, JobError where nothing was learned.
    """
    entry = prepare_run(
        decode_task(SingleJob, _tree("unlearn", model_path, forget_dir, retain_dir, validation, overrides))
    )
    limit = None if time_limit is None else seconds(time_limit, "time_limit")
    every = seconds(save_every, "save_every")
    quiet()
    return submit(entry, Path(output_dir).expanduser(), limit_s=limit, save_every_s=every, tell=tell)


def _tree(
    mode: str,
    model: str | Path,
    forget: str | Path,
    retain: str | Path,
    validation: str | Path | None,
    overrides: Sequence[str],
    **args: str | None,
) -> dict[str, Any]:
    """The settings of a run or a measurement. Paths are put in as they are, so no character in them has a meaning."""
    words = list(overrides)
    if mode == "unlearn" and not any(word.startswith("experiment=") for word in words):
        words.insert(0, SEMEVAL_EXPERIMENT)
    tree, _ = single_tree(mode, [*words, "task_name=semeval"])
    if tree["benchmark"] != "semeval":
        raise ConfigError(f"benchmark={tree['benchmark']}: `expunge semeval` reads the rows of semeval alone")
    tree["forget_split"] = None  # which the experiments name for data.root
    tree["data"]["root"] = None
    tree["model"]["model_args"]["pretrained_model_name_or_path"] = str(model)
    given = {"forget_dir": str(forget), "retain_dir": str(retain), **{k: v for k, v in args.items() if v is not None}}
    tree["data"]["args"] = {**tree["data"]["args"], **given}
    evaluate = tree["trainer"]["args"].get("evaluate") or {}
    if validation is not None:
        tree["data"]["args"]["validation"] = str(validation)
    elif mode == "unlearn" and (evaluate.get("every") or evaluate.get("steps")):
        tree["data"]["args"]["validation"] = tree["data"]["args"].get("validation") or "self"
    return tree


def run_semeval(parsed: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    began = time.monotonic()
    console = Console()
    limit = None if parsed.time_limit is None else seconds(parsed.time_limit, "--time-limit")
    every = seconds(parsed.save_every, "--save-every")
    where = (parsed.model, parsed.forget, parsed.retain, parsed.validation)
    for key in ("mia", "mmlu"):
        named = getattr(parsed, key)
        if named is not None and not parsed.score:
            raise ConfigError(f"--{key}: used for the scores alone; give --score as well")
        if named is not None and not Path(named).expanduser().exists():
            raise ConfigError(f"--{key}: no folder {named}")
    entry = prepare_run(decode_task(SingleJob, _tree("unlearn", *where, parsed.overrides)))
    out = parsed.out.expanduser()
    check_folder(out)
    if parsed.score:
        _scoring(parsed, str(parsed.model), out)  # wrong input ends here, before anything is trained
    quiet()
    try:
        done = _within(entry, out, limit, every, began, console)
    except KeyboardInterrupt:
        print(f"expunge: interrupted; {out} holds the model that was saved last, if any", file=sys.stderr)
        return 130
    console.print(_said(done), highlight=False, soft_wrap=True, markup=False)
    if parsed.score:
        _score(parsed, out, console)
    return 0


def _within(
    entry: PreparedRun, out: Path, limit: float | None, every: float, began: float, console: Console
) -> Submission:
    """The run, told of on the console; what was spent on checking the input counts."""
    left = None if limit is None else max(0.01, limit - (time.monotonic() - began))
    return submit(entry, out, limit_s=left, save_every_s=every, tell=_ProgressLines(console))


class _ProgressLines:
    """A line of progress now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._every = console, 5.0 if console.is_terminal else 30.0
        self._spoke = -math.inf

    def __call__(self, told: SubmissionProgress) -> None:
        now = time.monotonic()
        if now - self._spoke < self._every:
            return
        self._spoke = now
        of = "" if math.isinf(told.limit_s) else f" of {duration(told.limit_s)}"
        self._console.print(
            f"{told.part}: step {told.step}/{told.planned}, {duration(told.wall_s)}{of} used, about "
            f"{duration(told.eta_s)} left",
            highlight=False, markup=False,
        )  # fmt: skip


def _said(done: Submission) -> str:
    why = {
        "done": "all steps done",
        "time": "stopped by the time limit",
        "guard": "stopped by the guard against a loss that runs away",
    }[done.stopped]
    note = f" ({done.note})" if done.note else ""
    return (
        f"written: {done.folder}: the model after {done.steps} of {done.planned} steps; {why}{note}; "
        f"{duration(done.wall_s)} used"
    )


def _scoring(parsed: argparse.Namespace, model: str, out: Path) -> SingleJob:
    """The official measurement of a model, checked."""
    kept = [w for w in parsed.overrides if not w.startswith(("experiment=", "trainer.", "trainer="))]
    words = ["experiment=eval/semeval/default", *kept]
    where = (model, parsed.forget, parsed.retain, None)
    tree = _tree("eval", *where, words, mia=parsed.mia, mmlu=parsed.mmlu)
    single = decode_task(SingleJob, tree)
    paths = dataclasses.replace(single.paths, output_dir=str(out / EVALS))
    return dataclasses.replace(single, paths=paths)


def _score(parsed: argparse.Namespace, out: Path, console: Console) -> None:
    from expunge.cli.api import JobHandle
    from expunge.metrics.results import read_results
    from expunge.report.semeval import parts_of

    prepared = prepare(_scoring(parsed, str(out), out))
    folder = JobHandle(prepared, prepared.notes).run(console=console).folder
    results = read_results(folder / prepared.eval_file)[0]
    for name, text in parts_of(results):
        console.print(f"{name:36} {text}", highlight=False, markup=False)
    console.print(f"scores: {folder}", highlight=False, soft_wrap=True, markup=False)
