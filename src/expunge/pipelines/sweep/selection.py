"""Separate the rows for the selection of settings from the rows of the report.

`eval.split` cuts every set that metrics read in two, `selection` and `report`. A question of several sets is in
the same part of all, so no selection row can enter a report. Training rows stay whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import Metric
from expunge.pipelines.study.task_config import EvalSplit
from expunge.pipelines.study.task_context import TaskContext

Side = Literal["selection", "report"]


def with_part(setting: TaskContext, how: EvalSplit, suite: Sequence[Metric] = ()) -> TaskContext:
    """Return the setting with one part of its evaluation rows.

    Evaluations during training, which select a model, always read the selection part. suite: the metrics before
    `eval.metrics`, so that the part of a question does not depend on it. Raises ConfigError if a set
    is too small to be split.
    """
    if how.part == "all":
        return setting
    sides = _sides(setting.benchmark, how, suite)
    part = _cut(setting.benchmark, sides, how.part)
    watched = _cut(setting.benchmark, sides, "selection") if how.part == "report" else None
    return dataclasses.replace(setting, benchmark=part, watched=watched)


def _sides(benchmark: Benchmark, how: EvalSplit, suite: Sequence[Metric]) -> Mapping[str, Side]:
    """Return the part of each question that metrics read: in each set by a hash of the seed and the question."""
    sides: dict[str, Side] = {}
    read = _read(benchmark)
    names = read.keys() | {m.rows for m in suite if m.rows is not None}
    for name in sorted(names, key=lambda n: (len(benchmark.sets[n]), n)):
        rows = list(dict.fromkeys(_question(row) for row in benchmark.sets[name]))
        n_selection = min(max(1, round(how.share * len(rows))), len(rows) - 1) - sum(
            sides.get(q) == "selection" for q in rows
        )
        free = sorted((q for q in rows if q not in sides), key=lambda q: _draw(how.seed, q))
        sides |= {q: "selection" if i < n_selection else "report" for i, q in enumerate(free)}
        parts = {sides[q] for q in rows}
        if len(parts) < 2 and name in read:
            raise ConfigError(
                f"eval.split_share: of the {len(rows)} questions of {name}, all are in the {parts.pop()} part; each "
                "part needs at least one"
            )
    return sides


def _cut(benchmark: Benchmark, sides: Mapping[str, Side], part: str) -> Benchmark:
    """Return the benchmark whose metrics read one part. A set that is also trained on stays whole."""
    trained = {benchmark.forget_set, benchmark.retain_set, *benchmark.full_sets, *benchmark.retain_sets}
    sets, names = dict(benchmark.sets), {}
    for name in _read(benchmark):
        whole = benchmark.sets[name]
        names[name] = f"{name}-{part}" if name in trained else name
        rows = [row for row in whole if sides[_question(row)] == part]
        numbered = tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(rows))
        sets[names[name]] = dataclasses.replace(whole, name=names[name], rows=numbered)
    shown = benchmark.shown_set
    return dataclasses.replace(
        benchmark,
        sets=sets,
        panel=tuple(m if m.rows is None else dataclasses.replace(m, rows=names[m.rows]) for m in benchmark.panel),
        generation={names.get(name, name): limits for name, limits in benchmark.generation.items()},
        shown_set=None if shown is None else names.get(shown, shown),
        notes=(*benchmark.notes, f"measured on the {part} part of the evaluation rows"),
    )


def _read(benchmark: Benchmark) -> dict[str, ExampleSet]:
    """Return the sets that metrics read."""
    return {m.rows: benchmark.sets[m.rows] for m in benchmark.panel if m.rows is not None}


def _question(row: Example) -> str:
    """Return the identity of a row: its question, or the text of a row without one."""
    return row.question.strip() or row.answer


def _draw(seed: int, question: str) -> str:
    return hashlib.sha256(f"{seed}\n{question}".encode()).hexdigest()
