"""Sweeps: as many trials and steps for every method, chosen on rows that the final numbers do not read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

import expunge as package
from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.engine.provenance import JobStart, provenance
from expunge.engine.record import write_record
from expunge.engine.store import Store
from expunge.pipelines.study.config import SweepConfig, decode_study
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.sweep.bisection import RatePoint, next_in_range
from expunge.pipelines.sweep.space import SearchRange, TrialScore, propose
from expunge.pipelines.sweep.stages import check_sweep, next_stage

WORLD = {"authors": 6, "questions_per_author": 4, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
RULE = {"floor": 0.0, "utility": "retain_Q_A_Prob", "forget": "forget_Q_A_Prob", "target": "low"}


def tree(folder: Path | None = None, **changes: Any) -> dict[str, Any]:
    own = {
        "name": "t",
        "data": {"world": WORLD},
        "model": {"preset": "llama-64k"},
        "train": {"num_train_epochs": 1, "learning_rate": 1e-3},
        "unlearn": {"num_train_epochs": 1},
        "methods": [{"trainer": "GradAscent"}, {"trainer": "NPO", "search": {"method_args.beta": [0.1, 0.5]}}],
        "seeds": {"unlearn": [0, 1]},
        "eval": {"generation": {"max_new_tokens": 2}},
        "sweep": {"trials": 2, "space": {"args.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}, "rule": RULE},
    }
    if folder is not None:
        own["paths"] = {"store": str(folder / "store"), "output_dir": str(folder / "out")}
    return own | changes


def test_the_trials_have_one_seed_equal_steps_and_equal_numbers(tmp_path: Path) -> None:
    stage = next_stage(tree(), Store(tmp_path))
    assert not stage.last
    leaves = [leaf for leaf in stage.graph.leaves if leaf.role == "unlearn"]
    assert Counter(leaf.method for leaf in leaves) == {"GradAscent": 2, "NPO": 2}
    assert {(leaf.train_seed, leaf.seed) for leaf in leaves} == {(0, 0)}
    steps = {json.dumps([leaf.model.identity["args"][k] for k in ("num_train_epochs", "max_steps")]) for leaf in leaves}  # type: ignore[union-attr]
    assert len(steps) == 1
    rates = [leaf.model.identity["args"]["learning_rate"] for leaf in leaves]  # type: ignore[union-attr]
    assert len(set(rates)) == 4 and all(1e-5 <= rate <= 1e-2 for rate in rates)


def test_trials_measure_only_the_metrics_of_the_rule(tmp_path: Path) -> None:
    graph = next_stage(tree(), Store(tmp_path)).graph
    assert {m.name for m in graph.setting.benchmark.panel} == {"retain_Q_A_Prob", "forget_Q_A_Prob"}
    names = ["retain_Q_A_Prob", "forget_Q_A_Prob", "forget_Q_A_ROUGE"]
    graph = next_stage(tree(eval={"metrics": names}), Store(tmp_path)).graph
    assert {m.name for m in graph.setting.benchmark.panel} == set(names)


@pytest.mark.slow
def test_a_sweep_chooses_by_rows_that_the_report_does_not_read(tmp_path: Path) -> None:
    handle = sweep(tmp_path)
    trials = handle.graph
    result = handle.run()
    assert not result.failures
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    choice = {t["method"]: t for t in content["trials"] if t["chosen"]}
    assert len(content["trials"]) == 4 and set(choice) == {"GradAscent", "NPO"}
    for method, best in choice.items():  # floor 0: the lowest probability of the forget answers wins
        assert best["forget"] == min(t["forget"] for t in content["trials"] if t["method"] == method)

    last = sweep(tmp_path)
    assert last.swept is not None and last.swept.stage.last
    runs = [leaf for leaf in last.graph.leaves if leaf.role == "unlearn"]
    assert [(leaf.label, leaf.seed) for leaf in runs] == [(m, s) for s in (0, 1) for m in ("GradAscent", "NPO")]
    for leaf in runs:
        values = choice[leaf.label]["values"]
        assert leaf.model is not None
        assert leaf.model.identity["args"]["learning_rate"] == values["args.learning_rate"]
    assert any("sweep, NPO: trial" in note for note in result.report.notes)

    # what was selected by: no question of it is among those that final records hold, in whatever set
    before, after = (questions(g.setting.benchmark) for g in (trials, last.graph))
    assert before and after and not before & after
    whole = study_graph({k: v for k, v in tree().items() if k != "sweep"}).setting.benchmark
    read = {m.rows for m in whole.panel if m.name in RULE.values()}
    assert before | {q for q in after if q in of_sets(whole, read)} == of_sets(whole, read)
    assert after < questions(whole)
    measurements = {j.key for j in in_order(trials.jobs) if j.kind in ("score", "metrics")}
    assert not measurements & {j.key for j in in_order(last.graph.jobs)}
    # the winner of the first seed is the trial's own model, and the full and retain models are one
    kinds = Counter(j.kind for j in in_order([*trials.jobs, *last.graph.jobs]))
    assert kinds["train"] == 2 and kinds["unlearn"] == 4 + 2


def measured(stage: Any, store: Store, numbers: dict[str, tuple[float, float]]) -> None:
    """Metrics in the store as if they had been measured: label -> utility and forget metric."""
    for leaf in stage.graph.leaves:
        if leaf.label in numbers:
            measured_one(leaf, store, numbers[leaf.label])


def test_a_failed_trial_counts_as_tried_and_too_little_utility_loses(tmp_path: Path) -> None:
    settings = tree(methods=[{"trainer": "GradAscent"}, {"trainer": "GradDiff"}])
    settings["sweep"] = {**settings["sweep"], "trials": 3, "rule": {**RULE, "floor": 0.5}}
    store = Store(tmp_path)
    numbers = {"full": (0.8, 0.9), "retain": (0.8, 0.1)}
    numbers |= {"GradAscent-t0": (0.39, 0.0), "GradAscent-t1": (0.4, 0.3), "GradAscent-t2": (0.8, 0.4)}
    numbers |= {"GradDiff-t0": (0.1, 0.0), "GradDiff-t1": (0.2, 0.1)}
    first = next_stage(settings, store)
    measured(first, store, numbers)
    assert not next_stage(settings, store).last  # GradDiff-t2 is still to come
    gaps = {leaf.metrics.key for leaf in first.graph.leaves if leaf.label == "GradDiff-t2"}
    stage = next_stage(settings, store, gaps)
    assert stage.last
    assert [(t.method, t.number) for t in stage.trials if t.chosen] == [("GradAscent", 1), ("GradDiff", 1)]
    assert "no trial had retain_Q_A_Prob >= 0.5 x the start's; this one had the most" in stage.notes[1]


def test_tpe_goes_on_from_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    settings = tree(methods=[{"trainer": "GradAscent"}])
    settings["sweep"] = {**settings["sweep"], "trials": 4, "sampler": "tpe"}
    store = Store(tmp_path)
    rounds = []
    while not (stage := next_stage(settings, store)).last:
        trials = [leaf.label for leaf in stage.graph.leaves if leaf.role == "unlearn"]
        rounds.append(len(trials))
        measured(stage, store, {label: (0.8, 0.9 / (i + 1)) for i, label in enumerate(["full", "retain", *trials])})
    assert rounds == [2, 3, 4]
    assert [t.number for t in stage.trials if t.chosen] == [3]


def test_an_error_names_the_method_as_the_study_does(tmp_path: Path) -> None:
    methods = [{"trainer": "NPO"}, {"trainer": "RMU", "method_args": {"module_regex": "model.layers.9"}}]
    with pytest.raises(ConfigError, match=r"^methods\[1\]\.method_args\.module_regex: the model has no module"):
        next_stage(tree(methods=methods), Store(tmp_path))


def test_bisection_goes_on_between_a_weak_and_a_strong_trial(tmp_path: Path) -> None:
    settings = tree(methods=[{"trainer": "GradAscent"}])
    settings["sweep"] = {**settings["sweep"], "trials": 5, "sampler": "bisect", "rule": {**RULE, "floor": 0.9}}
    store = Store(tmp_path)
    while not (stage := next_stage(settings, store)).last:
        leaves = [leaf for leaf in stage.graph.leaves if leaf.role == "unlearn"]
        rates = {leaf.label: leaf.model.identity["args"]["learning_rate"] for leaf in leaves}  # type: ignore[union-attr]
        numbers = {label: (0.8, 0.1) if rate < 2e-3 else (0.1, 0.0) for label, rate in rates.items()}
        measured(stage, store, {"full": (0.8, 0.9), "retain": (0.8, 0.1), **numbers})
    values = list(rates.values())
    assert values[:4] == pytest.approx([3.16e-4, 9.48e-4, 2.84e-3, 1.64e-3])  # the middle, then three times that
    assert 1.64e-3 < values[4] < 2.84e-3


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-3), (1.0, 2.0), (0.1, 0.1001)])
@pytest.mark.parametrize("strength", ["weak", "strong", "enough"])
def test_a_bisection_stays_in_its_range(low: float, high: float, strength: Any) -> None:
    points: list[RatePoint] = []
    for _ in range(6):
        points.append(RatePoint(next_in_range(low, high, points), math.nan, strength))
    rates = [p.rate for p in points]
    assert all(low <= rate <= high for rate in rates)
    assert len(set(rates)) == len(rates) or high / low < 1.01
    assert strength != "weak" or high in rates
    assert strength != "strong" or low in rates


SPLITS = {"split": {"third": {}, "sixth": {"data.world.forget_fraction": 0.17}}}


def numbers_of(stage: Any, best: str) -> dict[str, tuple[float, float]]:
    """Numbers for all leaves of a plain study or a cell, of which those of one label are the best."""
    return {leaf.label: (0.8, 0.1 if leaf.label == best else 0.5) for leaf in stage.leaves}


def test_each_cell_of_a_grid_is_searched_by_itself_under_one_budget(tmp_path: Path) -> None:
    settings = tree(grid=SPLITS, grid_cells={"sixth": {"unlearn.weight_decay": 0.5}})
    store = Store(tmp_path)
    stage = next_stage(settings, store)
    assert list(stage.graph.cells) == ["third", "sixth"]
    trials = {}
    for cell, part in stage.graph.cells.items():
        runs = [leaf for leaf in part.leaves if leaf.role == "unlearn"]
        assert Counter(leaf.method for leaf in runs) == {"GradAscent": 2, "NPO": 2}
        assert {leaf.model.identity["args"]["weight_decay"] for leaf in runs} == {0.5 if cell == "sixth" else 0.01}  # type: ignore[union-attr]
        trials[cell] = {leaf.label: leaf.model.identity["args"]["learning_rate"] for leaf in runs}  # type: ignore[union-attr]
    assert trials["third"] == trials["sixth"]  # the points that are tried are those of a method, wherever it is
    for part, best in zip(stage.graph.cells.values(), ("NPO-t0", "NPO-t1"), strict=True):
        for leaf in part.leaves:
            measured_one(leaf, store, numbers_of(part, best)[leaf.label])
    last = next_stage(settings, store)
    assert last.last
    choice = {(t.cell, t.method): t.number for t in last.trials if t.chosen}
    assert choice == {("third", "GradAscent"): 0, ("third", "NPO"): 0, ("sixth", "GradAscent"): 0, ("sixth", "NPO"): 1}
    for cell, number in (("third", 0), ("sixth", 1)):
        runs = [leaf for leaf in last.graph.cells[cell].leaves if leaf.label == "NPO"]
        assert [leaf.seed for leaf in runs] == [0, 1]
        assert runs[0].model.identity["args"]["learning_rate"] == trials[cell][f"NPO-t{number}"]  # type: ignore[union-attr]
        assert all(note.startswith(f"sweep, {cell}, ") for note in last.reasons[cell])
        # what its choice was made by is nothing that its report reads
        before, after = (questions(g.cells[cell].setting.benchmark) for g in (stage.graph, last.graph))
        assert before and after and not before & after
    # another process makes the same jobs from the plain tree; and the winners' first seeds are trials
    again = study_graph(json.loads(json.dumps(last.tree)))
    assert {j.key for j in in_order(again.jobs)} == {j.key for j in in_order(last.graph.jobs)}
    kinds = Counter(j.kind for j in in_order([*stage.graph.jobs, *last.graph.jobs]))
    assert kinds["unlearn"] == 2 * (4 + 2) and kinds["train"] == 1 + 2  # one full model, a retain model for each split


def test_a_trial_of_a_chain_is_the_whole_chain(tmp_path: Path) -> None:
    """Three requests: all links have a trial's settings, and its last model alone is measured."""
    settings = tree(requests=3, methods=[{"trainer": "GradAscent"}], seeds={"unlearn": [0]})
    store = Store(tmp_path)
    stage = next_stage(settings, store)
    runs = [leaf for leaf in stage.graph.leaves if leaf.role == "unlearn"]
    assert [leaf.label for leaf in runs] == ["GradAscent-t0@3/3", "GradAscent-t1@3/3"]
    kinds = Counter(j.kind for j in in_order(stage.graph.jobs))
    assert kinds["unlearn"] == 2 * 3 and kinds["metrics"] == 2 + 2
    measured(stage, store, numbers_of(stage.graph, "GradAscent-t1@3/3"))
    last = next_stage(settings, store)
    assert last.last and [t.number for t in last.trials if t.chosen] == [1]
    links = [leaf for leaf in last.graph.leaves if leaf.role == "unlearn"]
    assert [leaf.label for leaf in links] == ["GradAscent@1/3", "GradAscent@2/3", "GradAscent@3/3"]
    trial = {j.key for j in in_order(stage.graph.jobs) if j.kind == "unlearn"}
    assert {leaf.model.key for leaf in links} < trial  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_sweep_over_a_grid_of_requests_runs(tmp_path: Path) -> None:
    """From nothing to a report for each cell, which says that cell's choices."""
    changes = {"grid": {"requests": [1, 2]}, "methods": [{"trainer": "GradAscent"}], "seeds": {"unlearn": [0]}}
    result = sweep(tmp_path, **changes).run()
    assert not result.failures
    assert list(result.reports) == ["requests=1", "requests=2"]
    for cell, report in result.reports.items():
        (note,) = [note for note in report.notes if note.startswith("sweep")]
        assert note.startswith(f"sweep, {cell}, GradAscent: trial ")
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert Counter(t["cell"] for t in content["trials"]) == {"requests=1": 2, "requests=2": 2}
    assert all(t["forget"] is not None for t in content["trials"])


def measured_one(leaf: Any, store: Store, numbers: tuple[float, float]) -> None:
    """A leaf's metrics in the store as if they had been measured: the utility and the forget metric."""
    facts = dict(zip(("retain_Q_A_Prob", "forget_Q_A_Prob"), numbers, strict=True))
    place = store.path(leaf.metrics)
    place.mkdir(parents=True, exist_ok=True)
    record = provenance(leaf.metrics, facts, JobStart()) | {"wall_s": 1.0, "files": {}, "chain": {}}
    write_record(place / "job.json", record)


def sweep(folder: Path, **changes: Any) -> package.StudyHandle:
    return handle_of(tree(folder, **changes))


def handle_of(settings: dict[str, Any]) -> package.StudyHandle:
    from expunge.pipelines.study.handle import sweep_of

    return sweep_of(settings, decode_study(settings), ())


def questions(benchmark: Any) -> set[str]:
    return of_sets(benchmark, {m.rows for m in benchmark.panel if m.rows})


def of_sets(benchmark: Any, names: Collection[Any]) -> set[str]:
    return {row.question for name in names for row in benchmark.sets[name]}


SPACE = {"args.learning_rate": SearchRange(low=1e-5, high=1e-3, log=True), "method_args.beta": (0.1, 0.5)}


def results(*scores: float) -> list[TrialScore]:
    return [TrialScore({}, score, "weak", 1.0) for score in scores]


def test_points_are_drawn_by_the_seed_and_the_method_alone() -> None:
    first = propose(SweepConfig(trials=5), "NPO", SPACE, [])
    assert first == propose(SweepConfig(trials=5), "NPO", SPACE, []) and len(first) == 5
    assert first != propose(SweepConfig(trials=5, seed=1), "NPO", SPACE, [])
    assert first != propose(SweepConfig(trials=5), "SimNPO", SPACE, [])
    assert propose(SweepConfig(trials=5), "NPO", SPACE, results(0, 0, 0, 0, 0)) == []


def test_lists_are_drawn_without_a_repeat_and_a_grid_takes_all() -> None:
    lists = {"method_args.beta": (1, 2, 3), "method_args.gamma": (1, 2)}
    sample = propose(SweepConfig(trials=6), "NPO", lists, [])
    grid = propose(SweepConfig(trials=6, sampler="grid"), "NPO", lists, [])
    assert grid[:3] == [{"method_args.beta": b, "method_args.gamma": g} for b, g in ((1, 1), (1, 2), (2, 1))]
    assert sorted(map(repr, sample)) == sorted(map(repr, grid))


def test_optuna_is_asked_anew_and_says_the_same() -> None:
    pytest.importorskip("optuna")
    sweep = SweepConfig(trials=6, sampler="tpe")
    first = propose(sweep, "NPO", SPACE, [])
    assert len(first) == 3
    report = results(0.3, 0.1, 0.2)
    next_one = propose(sweep, "NPO", SPACE, report)
    assert next_one == propose(sweep, "NPO", SPACE, report) and len(next_one) == 1
    assert next_one[0] not in first
    assert propose(sweep, "NPO", SPACE, [*report, *report]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"trials": 2, "space": {"learning_rate": [1]}}}, "sweep.space.learning_rate: must begin with"),
        ({"sweep": {"trials": 2, "space": {"args.num_train_epochs": [1, 2]}}}, "same number of steps"),
        ({"sweep": {"trials": 2, "space": {"args.learning_rate": {"low": 2, "high": 1}}}}, "low: must be less"),
        ({"sweep": {"trials": 2, "space": {}}, "methods": [{"trainer": "NPO"}]}, "sweep.space: missing"),
        ({"sweep": {"trials": 3, "sampler": "grid"}}, r"methods\[1\] \(NPO\) has 2 points, got 3"),
        (
            {"sweep": {"trials": 2, "sampler": "bisect"}},
            r"bisect searches one range .* methods\[1\] ",
        ),
        ({"sweep": {"trials": 2, "sampler": "bisect", "space": {"args.learning_rate": [1, 2]}}}, "bisect searches one"),
        ({"sweep": {"trials": 9}}, "has 2 points to try, got 9"),
        ({"sweep": {"trials": -1}}, "sweep.trials: must be at least 0"),
        ({"methods": [{"trainer": "NPO", "args": {"max_steps": 3}}]}, r"methods\[0\].args.max_steps: in a sweep all"),
        ({"eval": {"split": "report"}}, "eval.split: a sweep reads"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sweep(decode_study(tree(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"sweep.trials": [1, 2]}}, "sets sweep.trials, which is the same for the whole grid"),
        ({"grid": {"eval.split": ["all", "report"]}}, "grid, report: eval.split: a sweep reads"),
        ({"grid": SPLITS, "grid_cells": {"thrid": {}}}, "grid_cells.thrid: the grid has no such cell; did you mean"),
        ({"grid": SPLITS, "grid_cells": {"third": {"paths.store": "x"}}}, "grid_cells.third sets paths.store, which"),
        ({"meta": {}}, "sweep: a study with meta has no sweep"),
    ],
)
def test_what_is_wrong_with_a_sweep_over_a_grid(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        next_stage(tree(**changes), Store(tmp_path))


def test_a_set_that_is_too_small_for_two_parts_is_refused_before_any_trial(tmp_path: Path) -> None:
    """The trials measure the sets of the rule alone; the report reads the small one."""
    data = {"world": {**WORLD, "facts": 1}}
    with pytest.raises(
        ConfigError, match=r"eval.split_share: of the 1 questions of real_authors, all are in the report part"
    ):
        next_stage(tree(data=data), Store(tmp_path))


def test_a_rule_that_names_no_metric_is_told_before_any_job(tmp_path: Path) -> None:
    settings = tree()
    settings["sweep"] = {**settings["sweep"], "rule": {"forget": "forget_Prob"}}
    with pytest.raises(ConfigError, match=r"sweep.rule.forget: .* measures no 'forget_Prob'; did you mean"):
        next_stage(settings, Store(tmp_path))
