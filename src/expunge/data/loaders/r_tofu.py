"""R-TOFU (Yoon et al. 2025, arXiv:2505.15214): TOFU's questions with a reasoning trace before each answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import Example, ExampleSet, qa_rows
from expunge.data.source import load_raw

SPLITS = ("forget01", "forget05", "forget10")
MAX_LENGTH = 2048  # tokens of a training row in the authors' script
EVALUATION = {
    "retain_eval": "retain_perturbed",
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
}


def retain_file(split: str) -> str:
    """Return the retain file that completes a forget file, which contains the rows of all its tasks.

    A file has ten tasks of 1 or 5 % of the rows each, or nine of 10 %: `forget01` -> `retain90`, `forget05` ->
    `retain50`, `forget10` -> `retain10`.
    """
    return f"retain{100 - min(10 * int(split.removeprefix('forget')), 90)}"


def load_r_tofu(root: str, split: str, task: int) -> dict[str, ExampleSet]:
    """Load R-TOFU's sets by role from a folder of its files (`data/tofu` of the authors' repository), or a hub id.

    Training rows have traces: `full` (all authors), `forget` (the rows of one task) and `retain` (all others).
    Evaluation rows with wrong answers: `forget_eval`, `retain_eval`, `real_authors`, `world_facts`. A trace that is
    empty in the files is a closed thought without text.

    Args:
        root: The folder or the hub id. Columns: task_id, question, answer, cot; paraphrased_answer and
            perturbed_answer in the evaluation files.
        split: forget01, forget05 or forget10.
        task: The number of the task to forget, by `task_id`.

    Raises:
        ConfigError: For an unknown split or task.
        DataError: For files that are missing, malformed or inconsistent.
    """
    if split not in SPLITS:
        raise ConfigError(f"forget_split={split}: R-TOFU has no such split{nearest(split, SPLITS)}")
    listed, of_task, place = _tasks(root, split, task)
    retain = _rows(root, retain_file(split), "retain")
    forget = [row for row, number in zip(listed, of_task, strict=True) if number == task]
    others = [row for row, number in zip(listed, of_task, strict=True) if number != task]
    sets = {
        "full": _set("full", [*listed, *retain]),
        "forget": _set("forget", forget),
        "retain": _set("retain", [*retain, *others]),
    }
    perturbed, numbers, where = _tasks(root, f"{split}_perturbed", task)
    sets["forget_eval"] = _set("forget_eval", [r for r, n in zip(perturbed, numbers, strict=True) if n == task])
    if [row.question for row in sets["forget_eval"]] != [row.question for row in forget]:
        raise DataError(f"{where}: the questions of task {task} differ from those of {place}")
    for role, file in EVALUATION.items():
        sets[role] = _set(role, _rows(root, file, role))
    bare = next((row for row in sets["forget"] if not row.trace), None)
    if bare is not None:
        raise DataError(f"{place}: no trace in the column 'cot' of the question {bare.question[:60]!r}")
    return sets


def _tasks(root: str, file: str, task: int) -> tuple[Sequence[Example], list[int], str]:
    """Return the rows of a forget file, their tasks, and its location. Raises ConfigError for a task it lacks."""
    raw, place = load_raw(file, root=root)
    numbers = [_number(record, f"{place} row {i}") for i, record in enumerate(raw)]
    if task not in numbers:
        raise ConfigError(f"data.args.task={task}: {place} has the tasks {min(numbers)} to {max(numbers)}")
    return qa_rows(raw, name=file, where=place, trace_key="cot").rows, numbers, place


def _number(record: Mapping[str, Any], where: str) -> int:
    """Return the task of a record. Raises DataError if it is no number."""
    value = str(record.get("task_id", ""))
    if not value.isdecimal():
        raise DataError(f"{where}: 'task_id' must be a number, got {record.get('task_id')!r}")
    return int(value)


def _rows(root: str, file: str, role: str) -> Sequence[Example]:
    """Return the rows of a file."""
    raw, place = load_raw(file, root=root)
    return qa_rows(raw, name=role, where=place, trace_key="cot").rows


def _set(name: str, rows: Sequence[Example]) -> ExampleSet:
    numbered = tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(rows))
    return ExampleSet(name, numbered, max_length=MAX_LENGTH)
