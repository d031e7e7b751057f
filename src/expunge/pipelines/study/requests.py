"""Forget requests that come one after the other: the forget rows in parts, each a set of rows of its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.pipelines.study.task_context import TaskContext

Ranges = Mapping[str, tuple[int, int]]


def ranges(requests: int | Ranges, n_rows: int, where: str = "requests") -> dict[str, tuple[int, int]]:
    """Each request's rows, [first, end), by name, in order; a number cuts consecutive parts, the first ones larger by
    one where they cannot all be equal. Raises ConfigError for parts that are empty, out of range or share rows."""
    if isinstance(requests, int):
        if not 1 <= requests <= n_rows:
            raise ConfigError(f"{where}: {n_rows} forget rows make 1 to {n_rows} parts, got {requests}")
        each, more = divmod(n_rows, requests)
        ends = [i * each + min(i, more) for i in range(requests + 1)]
        return {f"{i + 1}/{requests}": (ends[i], ends[i + 1]) for i in range(requests)}
    if not requests:
        raise ConfigError(f"{where}: no request is named; give a number, or a mapping from names to [first, end]")
    taken: dict[int, str] = {}
    for name, (first, end) in requests.items():
        if not 0 <= first < end <= n_rows:
            raise ConfigError(
                f"{where}.{name}: must be [first, end] with 0 <= first < end <= {n_rows}, got {[first, end]}"
            )
        for row in range(first, end):
            if row in taken:
                raise ConfigError(f"{where}.{name}: row {row} belongs to {taken[row]} already")
            taken[row] = name
    return dict(requests)


def with_requests(setting: TaskContext, requests: int | Ranges) -> tuple[TaskContext, dict[str, str]]:
    """The setting with a set of rows for each request, and the sets' names by request. Raises ConfigError."""
    forget = setting.benchmark.forget_set
    whole = setting.benchmark.sets[forget]
    cut = ranges(requests, len(whole))
    names = {name: f"{forget}@{name}" for name in cut}
    parts = {names[name]: part(whole, names[name], *cut[name]) for name in cut}
    return changed(setting, sets={**setting.benchmark.sets, **parts}), names


def narrowed(setting: TaskContext, request: str, where: str = "data.request") -> TaskContext:
    """The setting with one part of the forget rows, such as `2/4`, as its forget set. Raises ConfigError."""
    found = re.fullmatch(r"(\d+)/(\d+)", request.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"{where}: must be a part such as 2/4, the second of four, got {request!r}")
    forget = setting.benchmark.forget_set
    whole = setting.benchmark.sets[forget]
    number, n = int(found[1]), int(found[2])
    name = f"{forget}@{number}/{n}"
    mine = part(whole, name, *ranges(n, len(whole), where)[f"{number}/{n}"])
    return changed(setting, sets={**setting.benchmark.sets, name: mine}, forget_set=name)


def changed(setting: TaskContext, **fields: Any) -> TaskContext:
    """A setting with some of its benchmark's fields changed."""
    return dataclasses.replace(setting, benchmark=dataclasses.replace(setting.benchmark, **fields))


def part(whole: ExampleSet, name: str, first: int, end: int) -> ExampleSet:
    """Consecutive rows as a set of their own, numbered from 0."""
    rows = tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(whole.rows[first:end]))
    return dataclasses.replace(whole, name=name, rows=rows)
