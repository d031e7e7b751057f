"""General ability in any benchmark: the items, those that forget rows answer, and the share in the verdict."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.benchmarks.api import Benchmark
from expunge.benchmarks.extras import with_extras
from expunge.benchmarks.general import items_apart_from, same_fact
from expunge.data.examples import Example, ExampleSet
from expunge.data.general import general_sets
from expunge.metrics.api import MetricResult, Parts
from expunge.metrics.utility import ABILITY, above_chance, utility_answer

SETS = {"general_facts": 100, "general_reasoning": 60}


def results(right: float, seed: int = 0) -> dict[str, MetricResult]:
    """A model whose utility is whole, and which has this share of the items right: the same ones first."""
    order = np.random.default_rng(7).random(160)
    solved = (order + 0.02 * np.random.default_rng(seed).standard_normal(160) < right).astype(float)
    columns = {"general_facts": solved[:100], "general_reasoning": solved[100:]}
    parts = {
        n: MetricResult(float(v.mean()), per_row={i: {"acc": float(x), "acc_norm": float(x)} for i, x in enumerate(v)})
        for n, v in columns.items()
    }
    whole = MetricResult(float(solved.mean()), parts=Parts({n: n for n in SETS}, "pooled"))
    rows = {i: {"prob": 0.8 + 0.001 * i} for i in range(20)}
    retain = MetricResult(float(np.mean([of["prob"] for of in rows.values()])), per_row=rows)
    return {**parts, ABILITY: whole, "retain_Q_A_Prob": retain}


@pytest.mark.parametrize(("right", "word"), [(0.79, "kept"), (0.73, "undecided"), (0.6, "damaged")])
def test_kept_needs_the_interval_of_the_items_although_the_rows_to_keep_are_kept(right: float, word: str) -> None:
    answer = utility_answer([results(right, 1)], [results(0.8)], "retain_Q_A_Prob", 0.5)
    assert answer.word == word and answer.number == 1.0
    assert "general ability: items solved 0." in answer.sentence and "] of the target model's" in answer.sentence
    assert f"world facts {results(right, 1)['general_facts'].value:.3g} (target model" in answer.sentence


def test_a_target_model_that_guesses_has_no_general_ability_to_lose() -> None:
    answer = utility_answer([results(0.1, 1)], [results(0.25)], "retain_Q_A_Prob", 0.5)
    assert answer.word == "kept" and "no more items than guessing does" in answer.sentence
    assert not above_chance(0.25 * 160, 160)


def test_items_that_a_forget_row_answers_are_left_out() -> None:
    item = general_sets()["general_facts"].rows[3]
    row = Example(0, item.question, {"answer": f"It is {item.answer}."})
    assert same_fact(item, row)
    left = items_apart_from([row])
    assert item.question not in {one.question for one in left["general_facts"]}
    assert len(left["general_facts"]) < len(general_sets()["general_facts"])
    assert [one.row_id for one in left["general_facts"]] == list(range(len(left["general_facts"])))
    assert {name: len(of) for name, of in items_apart_from([]).items()} == {
        name: len(of) for name, of in general_sets().items()
    }


def test_the_group_joins_any_benchmark() -> None:
    benchmark = Benchmark("own", "s", {"forget": ExampleSet("forget", ())}, (), full_sets=(), retain_sets=())
    panel = {metric.name: metric for metric in with_extras(benchmark, ["general"], samples=1, refusals=()).panel}
    assert list(panel[ABILITY].parents) == ["general_facts", "general_reasoning", "general_subjects"]
    assert panel["general_fluency"].family == "fluency" and panel["general_facts"].rows == "general_facts"
