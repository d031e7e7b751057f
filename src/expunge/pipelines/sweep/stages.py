"""A sweep: try several settings of each method, select the best, and run the study with them.

Trials and winners are two plain studies. The first has every trial, with one seed, measured on the selection part of
the evaluation rows. The second has each method with its best settings and all seeds, measured on the report part. The
second study reuses results of the first (full and retain models, the winners' first seed). The selection depends only
on stored numbers, so the same command reaches the same studies after any interrupt.

Each cell of a grid has its own search, with the same number of trials and its own rows. With `requests` a trial is a
chain of models with the same settings, and only its last model is measured.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.benchmarks import Benchmark
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, UserError, nearest
from expunge.core.fingerprints import fingerprint
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.pipelines.study.config import MethodEntry, StudyConfig, decode_study, entry_label, unlearn_args, with_value
from expunge.pipelines.study.graph import ModelNode, StudyGraph, task_fields
from expunge.pipelines.study.grid import cells, study_graph
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_context import check_model
from expunge.pipelines.sweep.space import BUDGET, Space, TrialScore, Values, check_count, propose, read_space
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.model_selection import EvalPoint, ModelSelection, forget_of, model_selection, utility_of


@dataclass(frozen=True)
class SweepTrial:
    """A method (of a grid, in a cell) with the values of a trial, and its selection numbers; None if it failed."""

    cell: str
    method: str
    number: int
    values: Values
    utility: float | None = None
    forget: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class SweepStage:
    """The present stage of a sweep: the study to run now as tree and graph, all graphs so far, and decided trials.

    reasons: the selected settings and the reasons, by cell, a line for each method.
    """

    tree: Mapping[str, Any]
    graph: StudyGraph
    last: bool
    graphs: tuple[StudyGraph, ...]
    trials: tuple[SweepTrial, ...] = ()
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """The selected settings in all cells."""
        return tuple(note for notes in self.reasons.values() for note in notes)


@dataclass(frozen=True)
class _SweepSearch:
    """The search in one cell (of a study without a grid: the whole, without a name): points, and their scores."""

    cell: str
    study: StudyConfig
    spaces: Mapping[str, Space]
    points: dict[str, list[Values]]
    told: dict[str, list[TrialScore]]
    rule: EvaluateArgs

    def of(self, graph: StudyGraph) -> StudyGraph:
        """Return its part of a graph."""
        return graph.cells[self.cell] if graph.cells else graph


def next_stage(tree: Mapping[str, Any], store: Store, failed: Collection[str] = ()) -> SweepStage:
    """Return the study that a sweep needs next. failed: keys of failed jobs; their trials count as done.

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
        try:
            graph = _ends(study_graph(trial_tree))
        except ConfigError as error:
            raise ConfigError(_own_places(str(error), searches[0])) from None
        targets = [leaf.metrics for leaf in graph.leaves]
        if any(job.key not in failed and not store.there(job) for job in targets):
            return SweepStage(trial_tree, graph, False, (graph,))
        trials = {s.cell: _read(s, graph, store) for s in searches}
        if all(len(points) == n_trials for s in searches for points in s.points.values()):
            break
        for s in searches:
            rule = _rule(s, graph, store)
            for label in s.spaces:
                s.told[label] = [_score(rule, t) for t in trials[s.cell] if t.method == label]
    decided: list[SweepTrial] = []
    reasons: dict[str, tuple[str, ...]] = {}
    changes = {}
    for s in searches:
        decisions, notes = _decide(s, graph, store, trials[s.cell])
        decided += decisions
        reasons[s.cell] = tuple(notes)
        changes[s.cell] = _last_changes(s, {t.method: t.values for t in decisions if t.chosen})
    last_tree = _stage_tree(tree, whole, changes)
    last = study_graph(last_tree)
    return SweepStage(last_tree, last, True, (graph, last), tuple(decided), reasons)


def _own_places(message: str, search: _SweepSearch) -> str:
    """Return a message about the study of all trials with the numbers of the methods in the user's study."""
    own = [i for i, entry in enumerate(search.study.methods) for _ in search.points.get(entry_label(entry), ())]
    numbers = dict(enumerate(own))
    return re.sub(r"methods\[(\d+)\]", lambda m: f"methods[{numbers.get(int(m[1]), m[1])}]", message)


def _searches(tree: Mapping[str, Any], whole: StudyConfig) -> list[_SweepSearch]:
    """Return a search for each cell. Raises ConfigError."""
    if whole.stories is not None or whole.meta is not None:
        key = "stories" if whole.stories is not None else "meta"
        raise ConfigError(f"sweep: a study with {key} has no sweep; remove `sweep`")
    out = []
    benchmarks: dict[str, Benchmark] = {}
    for name, own in [(c.name, c.tree) for c in cells(tree, whole)] if whole.grid else [("", tree)]:
        try:
            study = decode_study(own)
            spaces = check_sweep(study)
            rule = _rule_args(study, benchmarks)
        except UserError as error:
            raise type(error)(f"grid, {name}: {error}" if name else str(error)) from None
        points: dict[str, list[Values]] = {label: [] for label in spaces}
        out.append(_SweepSearch(name, study, spaces, points, {label: [] for label in spaces}, rule))
    return out


def _ends(graph: StudyGraph) -> StudyGraph:
    """Return the graph without measurements of a chain's earlier models, which the selection does not read."""
    parts = {name: _ends(part) for name, part in graph.cells.items()}
    leaves = [leaf for part in parts.values() for leaf in part.leaves]
    if not parts:
        leaves = list({_chain(graph.study, leaf): leaf for leaf in graph.leaves}.values())
    return dataclasses.replace(graph, leaves=tuple(leaves), cells=parts)


def _chain(study: StudyConfig, leaf: ModelNode) -> str:
    """Return the label of a model, or of its chain."""
    return leaf.label if study.requests == 1 else leaf.label.partition("@")[0]


def check_sweep(study: StudyConfig) -> dict[str, Space]:
    """Return the space of each method that is tuned, by its label, in a study without a grid. Raises ConfigError."""
    if study.eval.split != "all":
        raise ConfigError("eval.split: a sweep reads the selection part, and its report the other; remove it")
    base = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    shared = read_space(study.sweep.space, "sweep.space")
    out: dict[str, Space] = {}
    for i, entry in enumerate(study.methods):
        own = read_space(entry.search, f"methods[{i}].search")
        if entry.from_models:  # starts from other methods' models, with its own settings
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
                f"methods[{i}].args.{other}: in a sweep all methods have the same number of steps; set it in unlearn"
            )
        out[entry_label(entry)] = space
        check_count(study.sweep, f"methods[{i}] ({entry_label(entry)})", space)
    if not out:
        raise ConfigError(
            "sweep.space: missing; list the keys of the search, such as {args.learning_rate: [1e-5, 1e-4]}"
        )
    return out


def _trial_changes(search: _SweepSearch) -> dict[str, Any]:
    """Return the changes for the study of all trials: one seed, the selection rows, only the metrics of the rule."""
    study = search.study
    rule_metrics = [utility_of(search.rule), forget_of(search.rule)]
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
        "eval.metrics": list(study.eval.metrics) or rule_metrics,
        "eval.split": "selection",
    }


def _last_changes(search: _SweepSearch, selection: Mapping[str, Values]) -> dict[str, Any]:
    """Return the changes for the last study: each method with its selected settings, on the report rows."""
    entries = [_entry(e, selection.get(entry_label(e), {}), entry_label(e)) for e in search.study.methods]
    return {"methods": entries, "eval.split": "report"}


def _stage_tree(
    tree: Mapping[str, Any], study: StudyConfig, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the plain study of a stage, with the changes of each cell."""
    stage_tree = {k: v for k, v in tree.items() if k != "sweep"}
    if study.grid:
        return stage_tree | {"grid_cells": {c: {**study.grid_cells.get(c, {}), **own} for c, own in changes.items()}}
    for key, value in changes[""].items():
        stage_tree = with_value(stage_tree, key, value)
    return stage_tree


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
    """Return the trials of a cell, with the numbers of the rule if there are any."""
    rule = _rule(search, graph, store)
    by_label = {_chain(search.study, leaf): leaf for leaf in search.of(graph).leaves if leaf.role == "unlearn"}
    out = []
    for label, points in search.points.items():
        for number, values in enumerate(points):
            facts = _facts(by_label[_trial_label(label, number)], store)
            out.append(SweepTrial(search.cell, label, number, values, facts.get(rule.utility), facts.get(rule.forget)))
    return out


def _rule_args(study: StudyConfig, benchmarks: dict[str, Benchmark]) -> EvaluateArgs:
    """Return the rule as settings of evaluations during training. Raises ConfigError for an unknown metric.

    benchmarks: those of other cells by the settings that decide them, so that equal ones are read once.
    """
    key = fingerprint(task_fields(study))
    if key not in benchmarks:
        check_model(study.model, runs_here=study.launch.kind == "local")
        last = dataclasses.replace(study, eval=dataclasses.replace(study.eval, split="report"))
        benchmarks[key] = resolve_task(last).benchmark  # the trials may read fewer sets: refuse a small one before them
    benchmark, rule = benchmarks[key], study.sweep.rule
    rule = dataclasses.replace(rule, utility=rule.utility or benchmark.utility)
    args = EvaluateArgs(steps=1, panel="full", rule=rule)
    names = [metric.name for metric in benchmark.panel]
    for key, name in (("utility", utility_of(args)), ("forget", forget_of(args))):
        if name not in names:
            hint = nearest(name, names)
            raise ConfigError(f"sweep.rule.{key}: benchmark={benchmark.name} measures no {name!r}{hint}")
    return args


def _rule(search: _SweepSearch, graph: StudyGraph, store: Store) -> ModelSelection:
    """Return the rule with the numbers of the cell's start model and retain model."""
    mine = search.of(graph)
    start = next(leaf for leaf in mine.leaves if leaf.role == "full")
    retain = next((leaf for leaf in mine.leaves if leaf.role == "retain"), None)
    known = {} if retain is None else _facts(retain, store)
    rule = model_selection(search.rule, {k: MetricResult(v) for k, v in known.items() if v is not None})
    rule.add(_point(rule, 0, _facts(start, store)))
    return rule


def _facts(leaf: ModelNode, store: Store) -> Mapping[str, float | None]:
    facts: Mapping[str, float | None] = (store.readable_record(leaf.metrics) or {}).get("facts", {})
    return facts


def _point(rule: ModelSelection, number: int, facts: Mapping[str, float | None]) -> EvalPoint:
    """Return a trial's numbers (NaN if missing) as an evaluation whose step is the trial's number."""
    values = {name: facts.get(name) for name in (rule.utility, rule.forget)}
    return EvalPoint(number, 0.0, 1, {name: math.nan if v is None else v for name, v in values.items()})


def _score(rule: ModelSelection, trial: SweepTrial) -> TrialScore:
    """Return a trial's score: the distance from the goal, or more if utility is too low.

    A trial is too strong if utility is under the floor or the forget metric beyond the goal, and else too weak.
    """
    point = _point(rule, trial.number, {rule.utility: trial.utility, rule.forget: trial.forget})
    if not rule.passes(point):
        return TrialScore(trial.values, 1e6 if trial.utility is None else 1e3 - trial.utility, "strong", math.nan)
    beyond = point.values[rule.forget] < rule.goal < math.inf
    gap = math.nan if rule.start is None else rule.away(rule.start)
    left = rule.away(point) / gap if gap > 0 else math.nan
    return TrialScore(trial.values, rule.away(point), "strong" if beyond else "weak", left)


def _decide(
    search: _SweepSearch, graph: StudyGraph, store: Store, trials: Sequence[SweepTrial]
) -> tuple[list[SweepTrial], list[str]]:
    """Return the trials of a cell with the selected one of each method, and a line for each method."""
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
            why = f"the best {rule.forget} of trials with {rule.utility} >= {rule.floor:g} x the start's"
        else:
            best = max(measured, key=lambda t: (t.utility or 0.0, -t.number), default=None)
            why = f"no trial had {rule.utility} >= {rule.floor:g} x the start's; this one had the most"
        shown = "every trial failed; the method runs with its own settings"
        if best is not None:
            shown = f"trial {best.number}: {', '.join(f'{k}={v}' for k, v in best.values.items())} ({why})"
        whose = f"{search.cell}, {label}" if search.cell else label
        notes.append(f"sweep, {whose}: {shown}, {len(mine)} trials, selection rows only")
        out += [dataclasses.replace(t, chosen=t is best) for t in mine]
    return out, notes
