"""A sweep: each method tried with several settings, the best chosen, and the study run with these.

Trials and winners are two plain studies, one after the other: first every trial, with one seed, measured on the
selection part of the evaluation rows; then each method with what was chosen, with all seeds, measured on the report
part. What the first has made (full and retain models, the winners' first seed) the second finds done. The choice is
computed from stored numbers alone, so the same command comes to the same studies wherever it was interrupted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.metrics.api import Result
from expunge.study.config import MethodEntry, Study, decode_study, entry_label, unlearn_args, with_value
from expunge.study.graph import Graph, Leaf
from expunge.study.grid import study_graph
from expunge.study.store import Store
from expunge.study.sweep.space import BUDGET, Space, Values, check_count, propose, read_space
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluate import Point, Selection, forget_of, selection, utility_of


@dataclass(frozen=True)
class Trial:
    """A method with the values that were tried, and what the selection rows said: None where the trial failed."""

    method: str
    number: int
    values: Values
    utility: float | None = None
    forget: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Stage:
    """How far a sweep is: the study to run now, as a plain tree and as a graph, whether it is the last, all graphs so
    far, and every trial that is decided. notes: what was chosen and why, a line for each method."""

    tree: Mapping[str, Any]
    graph: Graph
    last: bool
    graphs: tuple[Graph, ...]
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


def next_stage(tree: Mapping[str, Any], store: Store, lost: Collection[str] = ()) -> Stage:
    """The study that a sweep needs next. lost: keys of jobs that have failed; their trials count as tried.

    Raises ConfigError or DataError.
    """
    study = decode_study(tree)
    spaces = check_sweep(study)
    points: dict[str, list[Values]] = {label: [] for label in spaces}
    told: dict[str, list[float]] = {label: [] for label in spaces}
    while True:
        for label, space in spaces.items():
            points[label] += propose(study.sweep, label, space, told[label])
        trial_tree = _trial_tree(tree, study, points)
        graph = study_graph(trial_tree)
        _rule_args(study, graph)
        wanted = [leaf.metrics for leaf in graph.leaves]
        if any(job.key not in lost and not store.there(job) for job in wanted):
            return Stage(trial_tree, graph, False, (graph,))
        trials = _read(study, graph, store, points)
        if all(len(tried) == study.sweep.trials for tried in points.values()):
            break
        told = {label: [_score(study, graph, store, t) for t in trials if t.method == label] for label in spaces}
    decided, notes = _decide(study, graph, store, trials)
    last_tree = _last_tree(tree, study, {t.method: t.values for t in decided if t.chosen})
    last = study_graph(last_tree)
    return Stage(last_tree, last, True, (graph, last), tuple(decided), tuple(notes))


def check_sweep(study: Study) -> dict[str, Space]:
    """The space of each method that is tuned, by its label. Raises ConfigError."""
    if study.grid or study.requests != 1:
        what = "grid" if study.grid else "requests"
        raise ConfigError(f"sweep: a study with {what} has no sweep; choose the settings in a study without")
    if study.eval.rows.part != "all":
        raise ConfigError("eval.rows.part: a sweep reads the selection part, and its report the other; leave it out")
    base = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    shared = read_space(study.sweep.space, "sweep.space")
    out: dict[str, Space] = {}
    for i, entry in enumerate(study.methods):
        own = read_space(entry.search, f"methods[{i}].search")
        if entry.of:  # goes on from other methods' models, with the settings that it is given
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


def _trial_tree(tree: Mapping[str, Any], study: Study, points: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    """The study of all trials: one seed, the selection rows, the panel alone."""
    entries = [
        _entry(entry, values, _trial_label(entry_label(entry), number))
        for entry in study.methods
        for number, values in enumerate(points.get(entry_label(entry), ()))
    ]
    seeds = {"train": list(study.seeds.train[:1]), "unlearn": list(study.seeds.unlearn[:1])}
    own = with_value(_plain(tree, "selection"), "eval.lm_eval.tasks", [])
    return {**own, "methods": entries, "seeds": seeds, "audits": []}


def _last_tree(tree: Mapping[str, Any], study: Study, chosen: Mapping[str, Values]) -> dict[str, Any]:
    """The study itself, each method with what was chosen for it, on the report rows."""
    entries = [_entry(entry, chosen.get(entry_label(entry), {}), entry_label(entry)) for entry in study.methods]
    return {**_plain(tree, "report"), "methods": entries}


def _plain(tree: Mapping[str, Any], part: str) -> dict[str, Any]:
    return with_value({k: v for k, v in tree.items() if k != "sweep"}, "eval.rows.part", part)


def _entry(entry: MethodEntry, values: Values, label: str) -> dict[str, Any]:
    own: dict[str, Any] = dataclasses.asdict(entry) | {"label": label, "search": {}, "of": list(entry.of)}
    for key, value in values.items():
        own = with_value(own, key, value)
    return own


def _trial_label(label: str, number: int) -> str:
    return f"{label}-t{number}"


def _read(study: Study, graph: Graph, store: Store, points: Mapping[str, Sequence[Values]]) -> list[Trial]:
    """What was tried, with the numbers of the rule where there are any."""
    rule = _rule(study, graph, store)
    by_label = {leaf.label: leaf for leaf in graph.leaves if leaf.role == "unlearn"}
    out = []
    for label, tried in points.items():
        for number, values in enumerate(tried):
            facts = _facts(by_label[_trial_label(label, number)], store)
            out.append(Trial(label, number, values, facts.get(rule.utility), facts.get(rule.forget)))
    return out


def _rule_args(study: Study, graph: Graph) -> EvaluateArgs:
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


def _rule(study: Study, graph: Graph, store: Store) -> Selection:
    """The rule with the numbers of the start and of the retain model in it."""
    start = next(leaf for leaf in graph.leaves if leaf.role == "full")
    retain = next((leaf for leaf in graph.leaves if leaf.role == "retain"), None)
    known = {} if retain is None else _facts(retain, store)
    rule = selection(_rule_args(study, graph), {k: Result(v) for k, v in known.items() if v is not None})
    rule.add(_point(rule, 0, _facts(start, store)))
    return rule


def _facts(leaf: Leaf, store: Store) -> Mapping[str, float | None]:
    facts: Mapping[str, float | None] = (store.found(leaf.metrics) or {}).get("facts", {})
    return facts


def _point(rule: Selection, number: int, facts: Mapping[str, float | None]) -> Point:
    """A trial's numbers, NaN where it has none, as an evaluation whose step is its number."""
    values = {name: facts.get(name) for name in (rule.utility, rule.forget)}
    return Point(number, 0.0, 1, {name: math.nan if v is None else v for name, v in values.items()})


def _score(study: Study, graph: Graph, store: Store, trial: Trial) -> float:
    """A trial as one number, lower is better: how far from the goal; behind these come those of too little utility."""
    rule = _rule(study, graph, store)
    point = _point(rule, trial.number, {rule.utility: trial.utility, rule.forget: trial.forget})
    if rule.passes(point):
        return rule.away(point)
    return 1e6 if trial.utility is None else 1e3 - trial.utility


def _decide(study: Study, graph: Graph, store: Store, trials: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """Which trial of each method is chosen; a line on each."""
    out, notes = [], []
    for label in dict.fromkeys(t.method for t in trials):
        rule = _rule(study, graph, store)
        mine = [t for t in trials if t.method == label]
        for t in mine:
            rule.add(_point(rule, t.number + 1, {rule.utility: t.utility, rule.forget: t.forget}))
        measured = [t for t in mine if t.utility is not None]
        best: Trial | None
        if rule.best is not None:
            best = mine[rule.best.step - 1]
            why = f"the best {rule.forget} of those with {rule.utility} >= {rule.floor:g} x the start's"
        else:
            best = max(measured, key=lambda t: (t.utility or 0.0, -t.number), default=None)
            why = f"no trial had {rule.utility} >= {rule.floor:g} x the start's; this one had the most"
        shown = "every trial failed; it runs with the settings that it was given"
        if best is not None:
            shown = f"trial {best.number}: {', '.join(f'{k}={v}' for k, v in best.values.items())} ({why})"
        notes.append(f"sweep, {label}: {shown}, {len(mine)} trials, selection rows only")
        out += [dataclasses.replace(t, chosen=t is best) for t in mine]
    return out, notes
