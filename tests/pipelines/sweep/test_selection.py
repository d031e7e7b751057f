"""The two parts of the evaluation rows: they share no question, and what is trained on stays whole."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.engine.job import in_order
from expunge.metrics.api import Metric
from expunge.models.config import ModelConfig
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.study.task_config import EvalSplit
from expunge.pipelines.study.task_context import TaskContext, changed
from expunge.pipelines.sweep.selection import with_part


def rows(name: str, *questions: str) -> ExampleSet:
    return ExampleSet(name, tuple(Example(i, q, {"answer": f"{q}!"}) for i, q in enumerate(questions)))


def setting(**sets: ExampleSet) -> TaskContext:
    panel = tuple(Metric(f"m_{name}", "probability", rows=name, reads={"tokens": ("answer",)}) for name in sets)
    all_sets = {**sets, "retain": rows("retain", "x", "y"), "full": rows("full", "z")}
    result = Benchmark("b", "s", all_sets, panel, full_sets=("full",), retain_sets=("retain",), forget_set="forget")
    return TaskContext(result, ModelConfig(preset="llama-64k"), Template())


def questions_of(context: TaskContext, name: str) -> list[str]:
    metric = next(m for m in context.benchmark.panel if m.name == f"m_{name}")
    return [row.question for row in context.benchmark.sets[metric.rows]]  # type: ignore[index]


LARGE = rows("large", *(f"q{i}" for i in range(20)))
SMALL = rows("small", *(f"q{i}" for i in range(4, 14)))


def test_parts_share_no_question_across_sets_and_make_up_the_whole() -> None:
    whole = setting(large=LARGE, small=SMALL)
    sides = [with_part(whole, EvalSplit(part=part, share=0.3)) for part in ("selection", "report")]
    for name, n in (("large", 6), ("small", 3)):
        choice, rest = questions_of(sides[0], name), questions_of(sides[1], name)
        assert len(choice) == n and sorted(choice + rest) == sorted(questions_of(whole, name))
        for other in ("large", "small"):
            assert not set(choice) & set(questions_of(sides[1], other))
    assert [r.row_id for r in sides[0].benchmark.sets["large"]] == list(range(6))
    assert questions_of(with_part(whole, EvalSplit(part="selection", share=0.3)), "large") == questions_of(
        sides[0], "large"
    )
    assert questions_of(with_part(whole, EvalSplit(part="selection", share=0.3, seed=1)), "large") != questions_of(
        sides[0], "large"
    )
    assert with_part(whole, EvalSplit()) is whole


def test_a_part_does_not_depend_on_the_metrics_that_are_measured() -> None:
    whole = setting(large=LARGE, small=SMALL)
    suite = whole.benchmark.panel
    one = changed(whole, panel=suite[:1])  # as `eval.metrics` leaves it
    splits = [EvalSplit(part="selection", share=0.3, seed=seed) for seed in range(8)]
    parts = [questions_of(with_part(whole, how, suite), "large") for how in splits]
    assert [questions_of(with_part(one, how, suite), "large") for how in splits] == parts
    assert [questions_of(with_part(one, how), "large") for how in splits] != parts


def test_a_set_that_is_trained_on_stays_whole() -> None:
    result = with_part(setting(forget=LARGE), EvalSplit(part="report"))
    assert result.benchmark.sets["forget"] is LARGE
    assert [m.rows for m in result.benchmark.panel] == ["forget-report"]
    assert len(questions_of(result, "forget")) == 10


def test_a_set_of_one_question_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"eval.split_share: of the 1 questions of one, all are in the report part"):
        with_part(setting(one=rows("one", "q")), EvalSplit(part="report"))
    with pytest.raises(ConfigError, match=r"eval.split_share: must be a number between 0 and 1"):
        decode_study({"name": "t", "eval": {"split_share": 1.0}})


WORLD = {"authors": 6, "questions_per_author": 4, "forget_fraction": 0.34, "facts": 8, "holdout_authors": 0}


def test_the_best_checkpoint_is_chosen_by_selection_rows_and_not_by_those_of_the_report() -> None:
    def unlearned(part: str) -> Any:
        tree = {
            "name": "t",
            "data": {"world": WORLD},
            "model": {"preset": "llama-64k"},
            "methods": [{"trainer": "NPO", "args": {"evaluate": {"every": 1, "keep": "best"}}}],
            "eval": {"split": part},
        }
        return study_graph(tree)

    selection, report = unlearned("selection"), unlearned("report")
    (one, two) = (next(j for j in in_order(g.jobs) if j.kind == "unlearn") for g in (selection, report))
    assert one.key == two.key  # the same rows are evaluated, the same retain records are read
    finals = {part.key for leaf in report.leaves for part in leaf.records.parents.values()}
    watched = {j.key for j in two.parents["retain_records"].parents.values()}
    assert watched and not watched & finals
