"""leak@k against all subsets; worst cases; the arguments they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText, GeneratedTexts
from expunge.metrics.api import Metric, MetricInputs, MetricResult, find_family
from expunge.metrics.compute import compute
from expunge.metrics.leakage import best_of


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_mean_of_the_best_over_all_subsets(k: int) -> None:
    scores = np.array([0.3, 0.9, 0.1, 0.9, 0.5])
    subsets = [max(c) for c in itertools.combinations(scores, k)]
    assert best_of(scores, k) == pytest.approx(sum(subsets) / len(subsets), rel=1e-12)


def test_it_is_unbiased_for_the_best_of_fresh_samples() -> None:
    rng = np.random.default_rng(3)
    estimates = [best_of(rng.uniform(size=6), 3) for _ in range(4000)]
    assert np.mean(estimates) == pytest.approx(3 / 4, abs=4 * np.std(estimates) / math.sqrt(4000))


def test_many_samples_do_not_overflow() -> None:
    assert best_of(np.linspace(0, 1, 500), 250) == pytest.approx(250 / 251, abs=2e-3)


def run(k: int, kind: str = "samples"):
    texts = [GeneratedText(i, s, "", "red", "red blue", 1, True) for i in range(3) for s in range(4)]
    metric = Metric("m", "leak_at_k", rows="r", reads={kind: ("answer",)}, args={"k": k})
    return compute([metric], {kind: {"r": GeneratedTexts(texts)}})["m"]


def test_samples_are_read_and_greedy_texts_are_not() -> None:
    assert run(4).value == 0.5
    assert (run(4).extra["ci_low"], run(4).extra["ci_high"]) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="metric m: family leak_at_k reads samples"):
        run(4, "texts")
    with pytest.raises(ConfigError, match=r"metric m: args\.k: 0"):
        run(0)


def worst(parents: dict[str, MetricResult], **args) -> MetricResult:
    metric = Metric("w", "worst_case", parents={role: f"p_{role}" for role in parents}, args=args)
    return find_family("worst_case").compute(MetricInputs(metric, {}, parents), **args)


def test_a_worst_case_is_at_least_each_parent_by_row() -> None:
    rng = np.random.default_rng(1)
    table = rng.uniform(size=(3, 8))
    parents = {
        str(k): MetricResult(0.5, per_row={i: {"prob": x} for i, x in enumerate(row)}) for k, row in enumerate(table)
    }
    result = worst(parents)
    assert result.column("score") == table.max(axis=0).tolist()
    assert result.extra["over_best_parent"] == pytest.approx(table.max(axis=0).mean() - table.mean(axis=1).max())


def test_parents_that_share_no_value() -> None:
    one, other = MetricResult(0.5, per_row={0: {"prob": 0.5}}), MetricResult(0.5, per_row={0: {"rougeL_recall": 0.5}})
    with pytest.raises(ConfigError, match="metric w: its parents do not all share a value by row"):
        worst({"a": one, "b": other})
    with pytest.raises(ConfigError, match="metric w: its parents do not all have 'score'"):
        worst({"a": one, "b": one}, statistic="score")
    with pytest.raises(ConfigError, match="needs at least two parents"):
        worst({"a": one})
