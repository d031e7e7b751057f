"""A grid: one study for several cells, planned as one graph. Equal jobs of cells run once.

    grid:
      forget_split: [forget01, forget05]                    # a key of the study and its values
      training:                                             # or settings by names
        short: {train.num_train_epochs: 5}
        long: {train.num_train_epochs: 25}

The cells are the product of the axes, the last changing fastest. A cell's own settings (`grid_cells`) have
precedence. Jobs are shared because equal jobs have equal keys.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.errors import ConfigError, UserError, nearest
from expunge.engine.job import Job, in_order
from expunge.pipelines.study.config import StudyConfig, decode_study, with_value
from expunge.pipelines.study.graph import ModelNode, StudyGraph, TrainingCache, build_graph

FIXED = ("grid", "grid_cells", "grid_names", "launch", "name", "paths", "store", "sweep")  # the same for the whole grid

MOST_CELLS = 10_000  # each is planned; a study of that size has days of jobs


@dataclass(frozen=True)
class GridCell:
    """One cell: its name, its value on each axis, and its own study as a plain tree."""

    name: str
    values: Mapping[str, str]
    tree: Mapping[str, Any]


def study_graph(tree: Mapping[str, Any]) -> StudyGraph:
    """Build the graph of a study's plain tree, with all cells of a grid. Raises ConfigError or DataError."""
    whole = decode_study(tree)
    if not whole.grid or whole.stories is not None:  # a stories study refuses a grid
        return build_graph(whole)
    if whole.meta is not None:
        raise ConfigError("meta: not together with `grid`; list the variations of the pools in meta.variations")
    cache: TrainingCache = {}
    cell_list = cells(tree, whole)
    graphs = []
    for cell in cell_list:
        try:
            graphs.append(build_graph(decode_study(cell.tree), cache))
        except UserError as error:
            raise type(error)(f"grid, {cell.name}: {error}") from None
    if whole.grid_names == "settings":  # numbered cells come from another project, which runs all of them
        _check_axes(cell_list, graphs)
    return _joined(whole, cell_list, graphs)


def cells(tree: Mapping[str, Any], study: StudyConfig) -> list[GridCell]:
    """Return the cells of a study's grid, in order. Raises ConfigError."""
    axes = {axis: _values(axis, values) for axis, values in study.grid.items()}
    plain = {k: v for k, v in tree.items() if k not in ("grid", "grid_cells", "grid_names")}
    for name, changes in study.grid_cells.items():
        _check_keys(f"grid_cells.{name}", changes)
    out = []
    n_cells = math.prod(len(values) for values in axes.values())
    if n_cells > MOST_CELLS:
        raise ConfigError(f"grid: its axes have {n_cells} combinations, at most {MOST_CELLS} are planned at once")
    for number, combination in enumerate(itertools.product(*(values.items() for values in axes.values()))):
        labels = {axis: label for axis, (label, _) in zip(axes, combination, strict=True)}
        own: Mapping[str, Any] = plain
        for _, changes in combination:
            for key, value in changes.items():
                own = with_value(own, key, value)
        name = ",".join(labels.values()) if study.grid_names == "settings" else f"experiment_{number}"
        for key, value in study.grid_cells.get(name, {}).items():
            own = with_value(own, key, value)
        out.append(GridCell(name, labels, own))
    names = [cell.name for cell in out]
    for name in study.grid_cells:
        if name not in names:
            raise ConfigError(f"grid_cells.{name}: the grid has no such cell{nearest(name, names)}")
    return out


def _values(axis: str, axis_values: Any) -> dict[str, Mapping[str, Any]]:
    """Return the values of an axis: label -> keys of the study that it sets."""
    if isinstance(axis_values, Mapping) and axis_values:
        wrong = next((name for name, changes in axis_values.items() if not isinstance(changes, Mapping)), None)
        if wrong is not None:
            raise ConfigError(
                f"grid.{axis}.{wrong}: expected the keys it sets, such as {{train.num_train_epochs: 5}}, got "
                f"{axis_values[wrong]!r}"
            )
        by_label = {str(name): changes for name, changes in axis_values.items()}
    elif isinstance(axis_values, list | tuple) and axis_values:
        by_label = {v if isinstance(v, str) else f"{axis.rpartition('.')[2]}={v}": {axis: v} for v in axis_values}
        if len(by_label) < len(axis_values):
            raise ConfigError(f"grid.{axis}: a value is listed twice")
    else:
        raise ConfigError(f"grid.{axis}: expected a list of values, or settings by names, got {axis_values!r}")
    for name, changes in by_label.items():
        _check_keys(f"grid.{axis}: {name!r}", changes)
    return by_label


def _check_axes(cell_list: Sequence[GridCell], graphs: Sequence[StudyGraph]) -> None:
    """Raise ConfigError if the values of an axis lead to equal jobs everywhere, because its cells would look compared.

    An example is `forget_split` with a benchmark that has no splits.
    """
    results = [tuple(job.key for job in graph.jobs) for graph in graphs]
    for axis in cell_list[0].values:
        labels = list(dict.fromkeys(cell.values[axis] for cell in cell_list))
        by_others: dict[tuple[str, ...], set[Any]] = {}
        for cell, keys in zip(cell_list, results, strict=True):
            by_others.setdefault(tuple(v for k, v in cell.values.items() if k != axis), set()).add(keys)
        if len(labels) > 1 and all(len(different) == 1 for different in by_others.values()):
            raise ConfigError(
                f"grid.{axis}: {labels[0]!r} and {labels[1]!r} lead to the same jobs: this axis has no effect in this "
                "study; leave it out"
            )


def _check_keys(where: str, changes: Mapping[str, Any]) -> None:
    for key in changes:
        if str(key).partition(".")[0] in FIXED:
            raise ConfigError(f"{where} sets {key}, which is the same for the whole grid")


def _joined(study: StudyConfig, cell_list: Sequence[GridCell], graphs: Sequence[StudyGraph]) -> StudyGraph:
    """Return one graph of all cells. Equal jobs become one, labelled by the common values of its cells."""
    shared: dict[str, list[int]] = {}
    for number, graph in enumerate(graphs):
        for job in in_order(graph.jobs):
            shared.setdefault(job.key, []).append(number)
    varied = [axis for axis in cell_list[0].values if len({c.values[axis] for c in cell_list}) > 1]
    numbers = _numbers(study.name, graphs) if study.grid_names == "numbers" else {}
    relabelled: dict[str, Job] = {}

    @functools.cache
    def prefix(cells: tuple[int, ...]) -> str:
        of = [cell_list[n] for n in cells]
        if len(of) == 1 and study.grid_names == "numbers":
            return of[0].name
        return ",".join(of[0].values[a] for a in varied if len({c.values[a] for c in of}) == 1)

    def one(job: Job) -> Job:
        if job.key not in relabelled:
            label = numbers.get(job.key) or "/".join(filter(None, (prefix(tuple(shared[job.key])), job.label)))
            relabelled[job.key] = job.relabelled(label, {role: one(parent) for role, parent in job.parents.items()})
        return relabelled[job.key]

    def renamed(leaf: ModelNode) -> ModelNode:
        return dataclasses.replace(
            leaf,
            model=None if leaf.model is None else one(leaf.model),
            records=one(leaf.records),
            metrics=one(leaf.metrics),
            harness=None if leaf.harness is None else one(leaf.harness),
        )

    parts = {
        cell.name: dataclasses.replace(
            graph,
            leaves=tuple(renamed(leaf) for leaf in graph.leaves),
            audits=tuple(dataclasses.replace(audited, job=one(audited.job)) for audited in graph.audits),
        )
        for cell, graph in zip(cell_list, graphs, strict=True)
    }
    if len(parts) < len(cell_list):
        raise ConfigError("grid: two cells have the same name; give the values different names")
    leaves = tuple(leaf for part in parts.values() for leaf in part.leaves)
    audits = tuple(audited for part in parts.values() for audited in part.audits)
    axes = {cell.name: cell.values for cell in cell_list}
    return StudyGraph(study, graphs[0].setting, leaves, parts, axes, audits=audits)


def _numbers(name: str, graphs: Sequence[StudyGraph]) -> dict[str, str]:
    """Name models by number, each role from 0 in the order of the cells: NAME/full_0, NAME/retain_0, NAME/forget_0."""
    out: dict[str, str] = {}
    counts = {"full": 0, "retain": 0, "unlearn": 0}
    for leaf in (leaf for graph in graphs for leaf in graph.leaves):
        if leaf.model is not None and leaf.model.key not in out:
            role = "forget" if leaf.role == "unlearn" else leaf.role
            out[leaf.model.key] = f"{name}/{role}_{counts[leaf.role]}"
            counts[leaf.role] += 1
    return out
