"""SemEval-2025 Task 4 by its official rules, within a time limit: `expunge semeval`, `expunge.semeval.unlearn`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.cli.commands.semeval_arguments import SEMEVAL_EXPERIMENT, named_model
from expunge.cli.compose import single_tree
from expunge.core.console import Console
from expunge.core.durations import seconds
from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, quiet
from expunge.data.loaders.semeval import has_validation, side_files
from expunge.pipelines.semeval import (
    OnProgress,
    Submission,
    SubmissionProgress,
    prepare_run,
    submit,
)
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single import prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task
from expunge.pipelines.study.template_example import check_measured
from expunge.pipelines.submission_folder import check_folder
from expunge.report.display import duration

EVALS = "evals"  # the scores, within the output folder
Validation = str | Path | tuple[str | Path, str | Path] | None
ROWS = "--forget and --retain name the rows"
STORED = "such a run is not stored"
# Keys that `expunge unlearn` reads and this command does not.
IDLE = {
    "forget_split": ROWS,
    "data.root": ROWS,
    "task_name": "--out names the result",
    "paths": "--out names the result",
    "store": STORED,
    "launch": STORED,
    "retain_logs_path": "the official evaluation has no retain model",
    "model.model_args.pretrained_model_name_or_path": "--model names the model",
}


def unlearn(
    model_path: str | Path,
    output_dir: str | Path,
    forget_dir: str | Path,
    retain_dir: str | Path,
    *,
    overrides: Sequence[str] = (),
    time_limit: str | float | None = None,
    save_every: str | float = 300.0,
    save_steps: int | None = None,
    validation: Validation = None,
    on_progress: OnProgress | None = None,
) -> Submission:
    """Unlearn the rows of `forget_dir` from a model by the rules of SemEval-2025 Task 4.

    The task defines the first four arguments. forget_dir contains forget.parquet or forget.jsonl, retain_dir retain.*,
    with the columns id, task, input and output; or they are such files, or folders with the hub's files. From early on
    output_dir contains a complete model folder (safetensors, configuration, tokenizer), which later ones replace.

    overrides: settings by `key=value`, such as `experiment=semeval/ails-ntua`; `experiment=semeval/iterative` unless
    they name one. time_limit, save_every: seconds, or text such as "1h" or "5m". save_steps: also keep the
    model of every n-th step, in checkpoint-<step>. validation: a folder with forget and retain rows for evaluation
    during the run, or a pair of folders or files; default, if the experiment evaluates: the validation rows in
    forget_dir, or else the training rows.
    on_progress: called with the progress after each step.

    Raises ConfigError or DataError for wrong input before any weight is read, JobError if nothing was learned.
    """
    tree, notes = _tree("unlearn", model_path, forget_dir, retain_dir, validation, overrides)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    entry = prepare_run(decode_task(SingleJob, tree))
    limit = None if time_limit is None else seconds(time_limit, "time_limit")
    every = seconds(save_every, "save_every")
    quiet()
    return submit(
        entry, Path(output_dir).expanduser(), limit_s=limit, save_every_s=every, save_steps=_steps(save_steps),
        on_progress=on_progress,
    )  # fmt: skip


def _steps(number: int | None) -> int | None:
    if number is not None and number < 1:
        raise ConfigError(f"--save-steps: must be at least 1, got {number}")
    return number


def _idle_words(words: Sequence[str], *, score: bool) -> list[str]:
    """Return a note for each word that `expunge semeval` accepts and does not use."""
    notes = []
    for key in dict.fromkeys(word.partition("=")[0].lstrip("+~") for word in words):
        reason = next((why for prefix, why in IDLE.items() if key == prefix or key.startswith(f"{prefix}.")), None)
        if key.startswith("eval.") and not key.startswith("eval.generation"):
            reason = None if score else "nothing is measured without --score"
        if reason is not None:
            notes.append(f"{key} has no effect: {reason}")
    return notes


def _tree(
    mode: str,
    model: str | Path,
    forget: str | Path,
    retain: str | Path,
    validation: Validation,
    overrides: Sequence[str],
    *,
    score: bool = False,
    **args: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a run or a measurement, and notes. Paths are inserted unchanged, without a grammar."""
    name = named_model(str(model))
    words = [*overrides, *name]
    if mode == "unlearn" and not any(word.startswith("experiment=") for word in words):
        words.insert(0, SEMEVAL_EXPERIMENT)
    notes = _idle_words(overrides, score=score)
    tree, composed = single_tree(mode, [*words, "task_name=semeval"])
    notes += [note for note in composed if not any(note.startswith(own.partition(":")[0]) for own in notes)]
    if tree["benchmark"] != "semeval":
        raise ConfigError(f"benchmark={tree['benchmark']}: `expunge semeval` reads only the rows of semeval")
    tree["forget_split"] = None  # the experiments set it for data.root
    tree["data"]["root"] = None
    if not name:
        tree["model"]["model_args"]["pretrained_model_name_or_path"] = str(model)
    paths = {"forget_dir": str(forget), "retain_dir": str(retain), **{k: v for k, v in args.items() if v is not None}}
    tree["data"]["args"] = {**tree["data"]["args"], **paths}
    evaluate = tree["trainer"]["args"].get("evaluate") or {}
    own: dict[str, Any] = tree["data"]["args"]
    if isinstance(validation, tuple):
        own |= {"validation": None, "forget_validation": str(validation[0]), "retain_validation": str(validation[1])}
    elif validation is not None:
        own["validation"] = str(validation)
    elif mode == "unlearn" and not own.get("forget_validation") and (evaluate.get("every") or evaluate.get("steps")):
        default = str(forget) if has_validation(str(forget)) else "self"
        own["validation"] = own.get("validation") or default
        if own["validation"] == default and default != "self":
            notes.append(f"validation rows: those of {default} (--validation names others)")
    return tree, notes


def run_semeval(parsed: argparse.Namespace) -> int:
    """Run the command. Returns the exit code."""
    console, limit = Console(), parsed.limit
    every = seconds(parsed.save_every, "--save-every")
    where = (parsed.model, parsed.forget, parsed.retain, _validation(parsed))
    parsed.overrides, save_steps = _save_steps(parsed.overrides, parsed.save_steps)
    for key in ("mia", "mmlu"):
        named = getattr(parsed, key)
        if named is not None and not parsed.score:
            raise ConfigError(f"--{key}: only used for the scores; give --score as well")
        if named is not None and not Path(named).expanduser().exists():
            raise ConfigError(f"--{key}: no folder {named}")
    training = [w for w in parsed.overrides if not (parsed.score and w.lstrip("+").startswith("data.args.mmlu_"))]
    tree, notes = _tree("unlearn", *where, training, score=parsed.score)
    for note in notes:
        complain(f"note: {note}")
    entry = prepare_run(decode_task(SingleJob, tree))
    out = parsed.out.expanduser()
    if parsed.output is None:
        check_folder(out)
    if parsed.score:
        _check_scoring(_scoring(parsed, str(parsed.model), out))
    for side, file in side_files({"forget": parsed.forget, "retain": parsed.retain}).items():
        complain(f"note: {side}: {len(entry.task.benchmark.sets[side])} rows of {file}")
    quiet()
    try:
        done = submit(
            entry, out, limit_s=limit, before_s=time.monotonic() - parsed.began, save_every_s=every,
            save_steps=save_steps, on_progress=_ProgressLines(console), output=parsed.output, hard_end=parsed.hard_end,
        )  # fmt: skip
    except KeyboardInterrupt:
        complain(f"expunge: interrupted; {out} contains the model that was saved last, if any")
        return 130
    console.print(_summary(done), highlight=False, soft_wrap=True, markup=False)
    if parsed.score:
        if parsed.hard_end is not None:
            parsed.hard_end.cancel()
        _score(parsed, out, console)
    return 0


def _validation(parsed: argparse.Namespace) -> Validation:
    """Return the validation rows that the options name. Raises ConfigError if one side is missing."""
    both = (parsed.forget_validation, parsed.retain_validation)
    if (both[0] is None) != (both[1] is None):
        lacks = "--forget-validation" if both[0] is None else "--retain-validation"
        raise ConfigError(f"{lacks}: missing; validation needs rows of both sides")
    if both[0] is None:
        named: Validation = parsed.validation
        return named
    if parsed.validation is not None:
        raise ConfigError("--validation: remove it, or --forget-validation and --retain-validation")
    return both


def _save_steps(words: Sequence[str], option: int | None) -> tuple[list[str], int | None]:
    """Return the words without `trainer.args.save_steps=N`, which means --save-steps, and the number of steps."""
    others, steps = [], option
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") == "trainer.args.save_steps":
            if not value.isdecimal():
                raise ConfigError(f"{word}: must be a whole number of steps")
            steps = int(value)
        else:
            others.append(word)
    return others, _steps(steps)


class _ProgressLines:
    """Prints a line of progress at intervals."""

    def __init__(self, console: Console) -> None:
        self._console, self._every = console, 5.0 if console.is_terminal else 30.0
        self._spoke = -math.inf

    def __call__(self, progress: SubmissionProgress) -> None:
        now = time.monotonic()
        if now - self._spoke < self._every:
            return
        self._spoke = now
        of = "" if math.isinf(progress.limit_s) else f" of {duration(progress.limit_s)}"
        self._console.print(
            f"{progress.part}: step {progress.step}/{progress.planned}, {duration(progress.wall_s)}{of} used, about "
            f"{duration(progress.eta_s)} left",
            highlight=False, markup=False,
        )  # fmt: skip


def _summary(done: Submission) -> str:
    why = {
        "done": "all steps done",
        "time": "stopped by the time limit",
        "guard": "stopped by the guard against a diverging loss",
    }[done.stopped]
    note = f" ({done.note})" if done.note else ""
    best = "best " if done.stopped == "done" and done.steps < done.planned else ""  # of the evaluations in training
    return (
        f"written: {done.folder}: the {best}model after {done.steps} of {done.planned} steps; {why}{note}; "
        f"{duration(done.wall_s)} used"
    )


def _scoring(parsed: argparse.Namespace, model: str, out: Path) -> SingleJob:
    """Return the checked settings of a model's official measurement."""
    settings = [w for w in parsed.overrides if not w.startswith(("experiment=", "trainer.", "trainer="))]
    words = ["experiment=eval/semeval/default", *settings]
    where = (model, parsed.forget, parsed.retain, None)
    tree, _ = _tree("eval", *where, words, score=True, mia=parsed.mia, mmlu=parsed.mmlu)
    single = decode_task(SingleJob, tree)
    paths = dataclasses.replace(single.paths, output_dir=str(out / EVALS))
    return dataclasses.replace(single, paths=paths)


def _check_scoring(single: SingleJob) -> None:
    """Raise an error, before training, for rows that the measurement could not read."""
    setting = resolve_task(single)
    encoder = setting.planned_encoder()
    if encoder is not None:
        check_measured(setting, single.eval.generation, encoder, str(single.model.source))


def _score(parsed: argparse.Namespace, out: Path, console: Console) -> None:
    from expunge.metrics.results import read_results
    from expunge.pipelines.study.job_handle import JobHandle
    from expunge.report.semeval import parts_of

    prepared = prepare(_scoring(parsed, str(out), out))
    folder = JobHandle(prepared, prepared.notes).run(console=console).folder
    results = read_results(folder / prepared.eval_file)[0]
    for name, text in parts_of(results):
        console.print(f"{name:36} {text}", highlight=False, markup=False)
    console.print(f"scores: {folder}", highlight=False, soft_wrap=True, markup=False)
