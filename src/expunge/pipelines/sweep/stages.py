"""A sweep: each method tried with several settings, the best chosen, and the study run with these.

Trials and winners are two plain studies, one after the other: first every trial, with one seed, measured on the
selection part of the evaluation rows; then each method with what was chosen, with all seeds, measured on the report
part. What the first has made (full and retain models, the winners' first seed) the second finds done. The choice is
computed from stored numbers alone, so the same command comes to the same studies wherever it was interrupted.

Each cell of a grid is searched by itself, with as many trials, and each in its own rows. With `requests` a trial is a
chain of models with the same settings, and its last model is what is measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.pipelines.study.config import MethodEntry, StudyConfig, decode_study, entry_label, unlearn_args, with_value
from expunge.pipelines.study.graph import ModelNode, StudyGraph
from expunge.pipelines.study.grid import cells, study_graph
from expunge.pipelines.sweep.space import BUDGET, Space, Values, check_count, propose, read_space
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluation_callback import EvalPoint, ModelSelection, forget_of, model_selection, utility_of


@dataclass(frozen=True)
class SweepTrial:
    """A method (of a grid, in a cell) with the values that were tried, and what the selection rows said: None where the
    trial failed."""

    cell: str
    method: str
    number: int
    values: Values
    utility: float | None = None
    forget: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class SweepStage:
    """How far a sweep is: the study to run now, as a plain tree and as a graph, whether it is the last, all graphs so
    far, and every trial that is decided. said: what was chosen and why, by cell, a line for each method."""

    tree: Mapping[str, Any]
    graph: StudyGraph
    last: bool
    graphs: tuple[StudyGraph, ...]
    trials: tuple[SweepTrial, ...] = ()
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen in all cells."""
        return tuple(note for notes in self.said.values() for note in notes)


@dataclass(frozen=True)
class _SweepSearch:
    """The search in one cell (of a study without a grid: the whole, without a name): points, and their scores."""

    cell: str
    study: StudyConfig
    spaces: Mapping[str, Space]
    points: dict[str, list[Values]]
    told: dict[str, list[float]]

    def of(self, graph: StudyGraph) -> StudyGraph:
        """Its part of a graph."""
        return graph.cells[self.cell] if graph.cells else graph


def next_stage(tree: Mapping[str, Any], store: Store, lost: Collection[str] = ()) -> SweepStage:
    """The study that a sweep needs next. lost: keys of jobs that have failed; their trials count as tried.

    Raises ConfigError or DataError.
    """
    whole = decode_study(tree)
    searches = _searches(tree, whole)
    n_trials = whole.sweep.trials
    while True:
        for s in searches:
            for label, space in s.spaces.items():
                s.points[label] += propose(s.study.sweep, label, space, s.told[label])
        trial_tree = _stage_tree(tree, whole, {s.cell: _trial_changes(s) for s in searches})
        graph = _ends(study_graph(trial_tree))
        for s in searches:
            _rule_args(s.study, s.of(graph))
        wanted = [leaf.metrics for leaf in graph.leaves]
        if any(job.key not in lost and not store.there(job) for job in wanted):
            return SweepStage(trial_tree, graph, False, (graph,))
        trials = {s.cell: _read(s, graph, store) for s in searches}
        if all(len(tried) == n_trials for s in searches for tried in s.points.values()):
            break
        for s in searches:
            rule = _rule(s, graph, store)
            for label in s.spaces:
                s.told[label] = [_score(rule, t) for t in trials[s.cell] if t.method == label]
    decided: list[SweepTrial] = []
    said: dict[str, tuple[str, ...]] = {}
    changes = {}
    for s in searches:
        tried, notes = _decide(s, graph, store, trials[s.cell])
        decided += tried
        said[s.cell] = tuple(notes)
        changes[s.cell] = _last_changes(s, {t.method: t.values for t in tried if t.chosen})
    last_tree = _stage_tree(tree, whole, changes)
    last = study_graph(last_tree)
    return SweepStage(last_tree, last, True, (graph, last), tuple(decided), said)


def _searches(tree: Mapping[str, Any], whole: StudyConfig) -> list[_SweepSearch]:
    """A search for each cell. Raises ConfigError."""
    if whole.stories is not None or whole.meta is not None:
        what = "stories" if whole.stories is not None else "meta"
        raise ConfigError(f"sweep: a study with {what} has no sweep; leave `sweep` out")
    out = []
    for name, own in [(c.name, c.tree) for c in cells(tree, whole)] if whole.grid else [("", tree)]:
        try:
            study = decode_study(own)
            spaces = check_sweep(study)
        except ConfigError as error:
            raise ConfigError(f"grid, {name}: {error}" if name else str(error)) from None
        out.append(_SweepSearch(name, study, spaces, {label: [] for label in spaces}, {label: [] for label in spaces}))
    return out


def _ends(graph: StudyGraph) -> StudyGraph:
    """The graph without the measurements of a chain's models before its last, by which no trial is judged."""
    parts = {name: _ends(part) for name, part in graph.cells.items()}
    leaves = [leaf for part in parts.values() for leaf in part.leaves]
    if not parts:
        leaves = list({_chain(graph.study, leaf): leaf for leaf in graph.leaves}.values())
    return dataclasses.replace(graph, leaves=tuple(leaves), cells=parts)


def _chain(study: StudyConfig, leaf: ModelNode) -> str:
    """The label of a model, or of the chain that it is a link of."""
    return leaf.label if study.requests == 1 else leaf.label.partition("@")[0]


def check_sweep(study: StudyConfig) -> dict[str, Space]:
    """The space of each method that is tuned, by its label, in a study without a grid. Raises ConfigError."""
    if study.eval.split != "all":
        raise ConfigError("eval.split: a sweep reads the selection part, and its report the other; leave it out")
    base = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    shared = read_space(study.sweep.space, "sweep.space")
    out: dict[str, Space] = {}
    for i, entry in enumerate(study.methods):
        own = read_space(entry.search, f"methods[{i}].search")
        if entry.from_models:  # goes on from other methods' models, with the settings that it is given
            if own:
                raise ConfigError(f"methods[{i}].search: {entry.trainer} reads other methods' models and is not tuned")
            continue
        space = {**shared, **own}
        if not space:
            continue
        args = unlearn_args(study, i, 0)
        other = next((key for key in BUDGET if getattr(args, key) != getattr(base, key)), None)
        if other is not None:
            raise ConfigError(
                f"methods[{i}].args.{other}: in a sweep all methods have as many steps; set it in unlearn"
            )
        out[entry_label(entry)] = space
        check_count(study.sweep, f"methods[{i}] ({entry_label(entry)})", space)
    if not out:
        raise ConfigError("sweep.space: missing; name what is searched, such as {args.learning_rate: [1e-5, 1e-4]}")
    return out


def _trial_changes(search: _SweepSearch) -> dict[str, Any]:
    """What makes a study that of all its trials: one seed, the selection rows, the panel alone."""
    study = search.study
    entries = [
        _entry(entry, values, _trial_label(entry_label(entry), number))
        for entry in study.methods
        for number, values in enumerate(search.points.get(entry_label(entry), ()))
    ]
    seeds = {"train": list(study.seeds.train[:1]), "unlearn": list(study.seeds.unlearn[:1])}
    return {
        "methods": entries,
        "seeds": seeds,
        "audits": [],
        "eval.lm_eval.tasks": [],
        "eval.split": "selection",
    }


def _last_changes(search: _SweepSearch, chosen: Mapping[str, Values]) -> dict[str, Any]:
    """What makes it the study itself: each method with what was chosen for it, on the report rows."""
    entries = [_entry(e, chosen.get(entry_label(e), {}), entry_label(e)) for e in search.study.methods]
    return {"methods": entries, "eval.split": "report"}


def _stage_tree(
    tree: Mapping[str, Any], study: StudyConfig, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The plain study of a stage, from what changes in each cell; in all of a study without a grid."""
    made = {k: v for k, v in tree.items() if k != "sweep"}
    if study.grid:
        return made | {"grid_cells": {c: {**study.grid_cells.get(c, {}), **own} for c, own in changes.items()}}
    for key, value in changes[""].items():
        made = with_value(made, key, value)
    return made


def _entry(entry: MethodEntry, values: Values, label: str) -> dict[str, Any]:
    own: dict[str, Any] = dataclasses.asdict(entry) | {
        "label": label,
        "search": {},
        "from_models": list(entry.from_models),
    }
    for key, value in values.items():
        own = with_value(own, key, value)
    return own


def _trial_label(label: str, number: int) -> str:
    return f"{label}-t{number}"


def _read(search: _SweepSearch, graph: StudyGraph, store: Store) -> list[SweepTrial]:
    """What was tried in a cell, with the numbers of the rule where there are any."""
    rule = _rule(search, graph, store)
    by_label = {_chain(search.study, leaf): leaf for leaf in search.of(graph).leaves if leaf.role == "unlearn"}
    out = []
    for label, tried in search.points.items():
        for number, values in enumerate(tried):
            facts = _facts(by_label[_trial_label(label, number)], store)
            out.append(SweepTrial(search.cell, label, number, values, facts.get(rule.utility), facts.get(rule.forget)))
    return out


def _rule_args(study: StudyConfig, graph: StudyGraph) -> EvaluateArgs:
    """The rule as evaluations during training know it. Raises ConfigError for a metric that is not measured."""
    benchmark, rule = graph.setting.benchmark, study.sweep.rule
    rule = dataclasses.replace(rule, utility=rule.utility or benchmark.utility)
    args = EvaluateArgs(steps=1, panel="full", rule=rule)
    names = [metric.name for metric in benchmark.panel]
    for key, name in (("utility", utility_of(args)), ("forget", forget_of(args))):
        if name not in names:
            hint = nearest(name, names)
            raise ConfigError(f"sweep.rule.{key}: benchmark={benchmark.name} measures no {name!r}{hint}")
    return args


def _rule(search: _SweepSearch, graph: StudyGraph, store: Store) -> ModelSelection:
    """The rule with the numbers of the cell's start and of its retain model in it."""
    mine = search.of(graph)
    start = next(leaf for leaf in mine.leaves if leaf.role == "full")
    retain = next((leaf for leaf in mine.leaves if leaf.role == "retain"), None)
    known = {} if retain is None else _facts(retain, store)
    rule = model_selection(
        _rule_args(search.study, mine), {k: MetricResult(v) for k, v in known.items() if v is not None}
    )
    rule.add(_point(rule, 0, _facts(start, store)))
    return rule


def _facts(leaf: ModelNode, store: Store) -> Mapping[str, float | None]:
    facts: Mapping[str, float | None] = (store.found(leaf.metrics) or {}).get("facts", {})
    return facts


def _point(rule: ModelSelection, number: int, facts: Mapping[str, float | None]) -> EvalPoint:
    """A trial's numbers, NaN where it has none, as an evaluation whose step is its number."""
    values = {name: facts.get(name) for name in (rule.utility, rule.forget)}
    return EvalPoint(number, 0.0, 1, {name: math.nan if v is None else v for name, v in values.items()})


def _score(rule: ModelSelection, trial: SweepTrial) -> float:
    """A trial as one number, lower is better: how far from the goal; behind these come those of too little utility."""
    point = _point(rule, trial.number, {rule.utility: trial.utility, rule.forget: trial.forget})
    if rule.passes(point):
        return rule.away(point)
    return 1e6 if trial.utility is None else 1e3 - trial.utility


def _decide(
    search: _SweepSearch, graph: StudyGraph, store: Store, trials: Sequence[SweepTrial]
) -> tuple[list[SweepTrial], list[str]]:
    """Which trial of each method of a cell is chosen; a line on each."""
    out, notes = [], []
    for label in dict.fromkeys(t.method for t in trials):
        rule = _rule(search, graph, store)
        mine = [t for t in trials if t.method == label]
        for t in mine:
            rule.add(_point(rule, t.number + 1, {rule.utility: t.utility, rule.forget: t.forget}))
        measured = [t for t in mine if t.utility is not None]
        best: SweepTrial | None
        if rule.best is not None:
            best = mine[rule.best.step - 1]
            why = f"the best {rule.forget} of those with {rule.utility} >= {rule.floor:g} x the start's"
        else:
            best = max(measured, key=lambda t: (t.utility or 0.0, -t.number), default=None)
            why = f"no trial had {rule.utility} >= {rule.floor:g} x the start's; this one had the most"
        shown = "every trial failed; it runs with the settings that it was given"
        if best is not None:
            shown = f"trial {best.number}: {', '.join(f'{k}={v}' for k, v in best.values.items())} ({why})"
        whose = f"{search.cell}, {label}" if search.cell else label
        notes.append(f"sweep, {whose}: {shown}, {len(mine)} trials, selection rows only")
        out += [dataclasses.replace(t, chosen=t is best) for t in mine]
    return out, notes
