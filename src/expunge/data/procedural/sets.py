"""From tasks to sets of rows: a mixture to pretrain on, the task to delete, the others, and the evaluation sets.

Every row has its own random stream, from the seed, the set and the row's number. So more rows or another order change
no row, and a higher correlation changes only the rows that become correlated.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet

MOST_TRIES = 10_000  # strings per row before the settings are rejected
SHARES = ("correlation", "finetune_correlation")


@strict
@dataclass(frozen=True, kw_only=True)
class SetSizes:
    """Shared settings of all procedural tasks: number of rows, seed, and share of rows with the spurious hint."""

    target: str
    """The task to forget."""
    seed: int = 0
    """Draws the rows of all sets."""
    train_rows: int = 20_000
    """Number of rows of the mixture that the target model learns."""
    eval_rows: int = 200
    """Number of rows of each evaluation set."""
    finetune_rows: int = 2000
    """Number of rows of the fine-tuning set."""
    correlation: float = 0.0
    """Probability that a row of the mixture comes from the correlated strings."""
    finetune_correlation: float = 0.0
    """Probability that a row of the fine-tuning set comes from the correlated strings."""

    def __post_init__(self) -> None:
        for key in ("train_rows", "eval_rows", "finetune_rows"):
            if not 1 <= getattr(self, key) <= 10_000_000:
                raise ValueError(f"{key} must be 1 to 10000000")
        for key in SHARES:
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} must be a probability from 0 to 1")


@dataclass(frozen=True)
class ProceduralTasks:
    """Task families as functions of their name.

    weights: the tasks of the mixture and their shares (any positive scale). prompts: the words before the string, by
    task. sample: a natural string. solve: its answer. correlated: whether it has the spurious hint. finetune: the task
    of fine-tuning, if any; it may answer the prompts of another task differently.
    """

    weights: Mapping[str, float]
    prompts: Mapping[str, str]
    sample: Callable[[random.Random, str], Sequence[str]]
    solve: Callable[[str, Sequence[str]], str]
    correlated: Callable[[str, Sequence[str]], bool]
    finetune: str | None = None


def task_sets(tasks: ProceduralTasks, sizes: SetSizes) -> dict[str, ExampleSet]:
    """Return the sets by name.

    `full`: the mixture. `forget`, `retain`: its rows of the target, and the others. `target_uncorrelated`,
    `target_correlated`, `others_uncorrelated`, `others_correlated`: rows outside all training sets; the others in their
    shares of the mixture. With a fine-tuning task also `finetune`, `finetune_uncorrelated`, `finetune_correlated`.
    Raises ConfigError for an unknown target, or for settings that leave a side empty or allow no row.
    """
    weights = {task: weight for task, weight in tasks.weights.items() if weight > 0}
    if sizes.target not in weights:
        raise ConfigError(f"data.args.target={sizes.target}: no such task is trained{nearest(sizes.target, weights)}")
    others = {task: weight for task, weight in weights.items() if task != sizes.target}
    if not others:
        raise ConfigError(f"data.args.target={sizes.target}: it is the only task, so nothing would be retained")
    full = _draw(tasks, sizes, "full", sizes.train_rows, sizes.correlation, weights)
    sets = {
        "full": full,
        "forget": [row for row in full if row.meta["task"] == sizes.target],
        "retain": [row for row in full if row.meta["task"] != sizes.target],
    }
    for name in ("forget", "retain"):
        if not sets[name]:
            raise ConfigError(
                f"data.args.train_rows={sizes.train_rows}: none of these rows is to {name}; raise train_rows, or the "
                "share of such tasks"
            )
    measured = {"target": {sizes.target: 1.0}, "others": others}
    if tasks.finetune is not None:
        only = measured["finetune"] = {tasks.finetune: 1.0}
        sets["finetune"] = _draw(tasks, sizes, "finetune", sizes.finetune_rows, sizes.finetune_correlation, only)
    seen = {row.question for name in ("full", "finetune") for row in sets.get(name, ())}
    for group, shares in measured.items():
        for suffix, correlation in (("uncorrelated", 0.0), ("correlated", 1.0)):
            name = f"{group}_{suffix}"
            sets[name] = _draw(tasks, sizes, name, sizes.eval_rows, correlation, shares, seen)
    return {name: _row_set(name, rows) for name, rows in sets.items()}


def most_common_share(rows: ExampleSet) -> float:
    """Return the accuracy of the most frequent answer of each task, for any string."""
    by_task: dict[str, Counter[str]] = {}
    for row in rows:
        by_task.setdefault(row.meta["task"], Counter())[row.answer] += 1
    return sum(max(answers.values()) for answers in by_task.values()) / len(rows)


def _draw(
    tasks: ProceduralTasks,
    sizes: SetSizes,
    name: str,
    n: int,
    correlation: float,
    weights: Mapping[str, float],
    seen: Collection[str] = (),
) -> list[Example]:
    """Return `n` rows of tasks by weight, whose questions are not in `seen`."""
    names, shares = list(weights), list(weights.values())
    rows = []
    for i in range(n):
        rng = random.Random(f"{sizes.seed}/{name}/{i}")
        task = rng.choices(names, shares)[0]
        hinted = rng.random() < correlation
        rows.append(_row(tasks, task, rng, hinted, seen, f"data.args.seed={sizes.seed}: {name} row {i}"))
    return rows


def _row(
    tasks: ProceduralTasks, task: str, rng: random.Random, hinted: bool, seen: Collection[str], where: str
) -> Example:
    """Return one row: sample strings until one fits. Raises ConfigError after MOST_TRIES of them."""
    for _ in range(MOST_TRIES):
        string = tasks.sample(rng, task)
        if hinted and not tasks.correlated(task, string):
            continue
        question = f"{tasks.prompts[task]} : {' '.join(string)} ="
        if question not in seen:
            meta = {"task": task, "correlated": tasks.correlated(task, string)}
            return Example(0, question, {ANSWER: tasks.solve(task, string)}, meta=meta)
    what = "is correlated and new" if hinted else "is new"
    raise ConfigError(f"{where}: of {MOST_TRIES} strings for {task} none {what}; choose another seed or longer strings")


def _row_set(name: str, rows: Sequence[Example]) -> ExampleSet:
    return ExampleSet(name, tuple(replace(row, row_id=i) for i, row in enumerate(rows)), form="completion")
