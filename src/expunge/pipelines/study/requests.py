"""Sequential forget requests: split the forget rows into one set of rows per request."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.pipelines.study.task_context import TaskContext, changed

Ranges = Mapping[str, tuple[int, int]]


def ranges(requests: int | Ranges, n_rows: int, where: str = "requests") -> dict[str, tuple[int, int]]:
    """Return each request's rows [first, end), by name, in order.

    A number gives consecutive parts; the first ones are larger by one if they cannot be equal. Raises ConfigError for
    parts that are empty, out of range or share rows.
    """
    if isinstance(requests, int):
        if not 1 <= requests <= n_rows:
            raise ConfigError(f"{where}: {n_rows} forget rows make 1 to {n_rows} parts, got {requests}")
        each, more = divmod(n_rows, requests)
        ends = [i * each + min(i, more) for i in range(requests + 1)]
        return {f"{i + 1}/{requests}": (ends[i], ends[i + 1]) for i in range(requests)}
    if not requests:
        raise ConfigError(f"{where}: no request is named; give a number, or a mapping from names to [first, end]")
    request_of_row: dict[int, str] = {}
    for name, (first, end) in requests.items():
        if not 0 <= first < end <= n_rows:
            raise ConfigError(
                f"{where}.{name}: must be [first, end] with 0 <= first < end <= {n_rows}, got {[first, end]}"
            )
        for row in range(first, end):
            if row in request_of_row:
                raise ConfigError(f"{where}.{name}: row {row} belongs to {request_of_row[row]} already")
            request_of_row[row] = name
    return dict(requests)


def with_requests(setting: TaskContext, requests: int | Ranges) -> tuple[TaskContext, dict[str, str]]:
    """Return the setting with a set of rows for each request, and the sets' names by request. Raises ConfigError."""
    forget = setting.benchmark.forget_set
    whole = setting.benchmark.sets[forget]
    cut = ranges(requests, len(whole))
    names = {name: f"{forget}@{name}" for name in cut}
    for name in cut:
        setting = _with_part(setting, name, *cut[name])
    return setting, names


def narrowed(setting: TaskContext, request: str, where: str = "data.request") -> TaskContext:
    """Return the setting with one part of the forget rows, such as `2/4`, as its forget set. Raises ConfigError."""
    match = re.fullmatch(r"(\d+)/(\d+)", request.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"{where}: must be a part such as 2/4, the second of four, got {request!r}")
    forget = setting.benchmark.forget_set
    whole = setting.benchmark.sets[forget]
    number, n = int(match[1]), int(match[2])
    name = f"{number}/{n}"
    cut = _with_part(setting, name, *ranges(n, len(whole), where)[name])
    return changed(cut, forget_set=f"{forget}@{name}")


def _with_part(setting: TaskContext, name: str, first: int, end: int) -> TaskContext:
    """Return the setting with consecutive forget rows as a set of their own, also of those with traces."""
    benchmark = setting.benchmark
    traced = benchmark.traced.get(benchmark.forget_set)
    of = {whole: f"{whole}@{name}" for whole in (benchmark.forget_set, traced) if whole}
    parts = {mine: part(benchmark.sets[whole], mine, first, end) for whole, mine in of.items()}
    links = {of[benchmark.forget_set]: of[traced]} if traced else {}
    return changed(setting, sets={**benchmark.sets, **parts}, traced={**benchmark.traced, **links})


def part(whole: ExampleSet, name: str, first: int, end: int) -> ExampleSet:
    """Return consecutive rows as a set, numbered from 0."""
    rows = tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(whole.rows[first:end]))
    return dataclasses.replace(whole, name=name, rows=rows)
