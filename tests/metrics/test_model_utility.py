"""Model utility names what it lacks; its numbers are in the golden cases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from expunge.core.errors import ConfigError
from expunge.core.records import TokenRecords
from expunge.metrics.aggregate import RESAMPLES, bootstrap_interval, own_interval, paired_rows
from expunge.metrics.api import Metric, MetricResult, Parts
from expunge.metrics.compute import compute

PART = Metric("retain_Q_A_Prob", "probability", rows="retain", reads={"tokens": ("answer",)})


def test_missing_part_is_named_with_its_reason() -> None:
    result = compute([Metric("mu", "model_utility", parents={"prob": PART.name}), PART], {})["mu"]
    assert result.reason == "needs retain_Q_A_Prob, which is missing: no tokens records of the rows 'retain' were made"


def test_needs_parents() -> None:
    with pytest.raises(ConfigError, match="family model_utility needs parents"):
        compute([Metric("mu", "model_utility")], {})


def part(values: list[float] | np.ndarray, statistic: str = "prob") -> MetricResult:
    rows = {i: {"other": 7.0, statistic: float(v)} for i, v in enumerate(values)}
    return MetricResult(float(np.nanmean(values)), per_row=rows)


def utility_of(parts: dict[str, MetricResult], sets: dict[str, str], mean: str = "harmonic") -> dict[str, MetricResult]:
    values = [one.value for one in parts.values()]
    value = float(np.mean(values)) if mean == "arithmetic" else 1 / float(np.mean([1 / v for v in values]))
    return {**parts, "mu": MetricResult(value, parts=Parts(sets, mean))}  # type: ignore[arg-type]


def test_parts_of_one_set_are_resampled_together_and_others_apart() -> None:
    rng = np.random.default_rng(3)
    prob, rouge, facts = rng.random(30), rng.random(30), rng.random(20)
    rouge[4] = math.nan
    results = utility_of({"p": part(prob), "r": part(rouge, "rougeL"), "f": part(facts)},
                         {"p": "retain", "r": "retain", "f": "facts"})  # fmt: skip
    ends = own_interval(results, "mu")
    first, second = (np.random.default_rng([0, k]) for k in (0, 1))
    draws_retain = first.integers(0, 30, size=(RESAMPLES, 30), dtype=np.int32)
    draws_facts = second.integers(0, 20, size=(RESAMPLES, 20), dtype=np.int32)
    means = [prob[draws_retain].mean(axis=1), np.nanmean(rouge[draws_retain], axis=1), facts[draws_facts].mean(axis=1)]
    by_hand = 3 / sum(1 / mean for mean in means)
    assert (ends["ci_low"], ends["ci_high"]) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), rel=1e-12)
    assert ends["ci_low"] < results["mu"].value < ends["ci_high"]


def test_one_part_has_the_interval_of_its_mean() -> None:
    values = np.random.default_rng(1).random(50)
    ends = own_interval(utility_of({"p": part(values)}, {"p": "retain"}), "mu")
    assert tuple(ends.values()) == pytest.approx(bootstrap_interval(values), rel=1e-12)


def test_opposite_parts_of_the_same_rows_cancel_and_those_of_other_rows_do_not() -> None:
    values = np.random.default_rng(2).random(40)
    parts = {"p": part(values), "q": part(1 - values)}
    same = own_interval(utility_of(parts, {"p": "a", "q": "a"}, "arithmetic"), "mu")
    other = own_interval(utility_of(parts, {"p": "a", "q": "b"}, "arithmetic"), "mu")
    assert same["ci_high"] - same["ci_low"] < 1e-9 < 0.05 < other["ci_high"] - other["ci_low"]


def test_a_part_without_rows_or_with_one_row_gives_no_interval() -> None:
    sets = {"p": "a", "q": "b"}
    assert own_interval(utility_of({"p": part([0.1, 0.2]), "q": MetricResult(0.4)}, sets), "mu") == {}
    assert own_interval(utility_of({"p": part([0.1, 0.2]), "q": part([0.4])}, sets), "mu") == {}
    rare = utility_of({"p": part([0.1, 0.2]), "q": part([0.4, math.nan])}, sets)
    assert own_interval(rare, "mu") == {}  # a single row with a number


def test_models_with_other_parts_or_without_shared_rows_are_not_paired() -> None:
    one = utility_of({"p": part([0.1, 0.2])}, {"p": "a"})
    assert paired_rows([one, {**one, "mu": dataclasses.replace(one["mu"], parts=None)}], "mu") is None
    far = {**one, "p": MetricResult(0.2, per_row={9: {"prob": 0.2}})}
    assert paired_rows([one, far], "mu") is None and paired_rows([one, {"p": one["p"]}], "mu") is None


def test_compute_gives_the_interval_and_the_sets(records: Callable[..., TokenRecords]) -> None:
    rows = {i: [-0.1 * i, -0.3] for i in range(8)}
    other = Metric("facts_Prob", "probability", rows="facts", reads={"tokens": ("answer",)})
    listed = [Metric("mu", "model_utility", parents={"a": PART.name, "b": other.name}), PART, other]
    done = compute(listed, {"tokens": {"retain": records({"answer": rows}), "facts": records({"answer": rows})}})
    result = done["mu"]
    assert result.parts == Parts({PART.name: "retain", other.name: "facts"})
    assert result.extra["ci_low"] < result.value < result.extra["ci_high"]
    assert result.value == pytest.approx(2 / (1 / done[PART.name].value + 1 / done[other.name].value))


def test_the_truth_ratio_has_its_part_in_the_mean_by_row(records: Callable[..., TokenRecords]) -> None:
    both = records({"paraphrase": {0: [-1.0], 1: [-2.0]}, "perturbed_0": {0: [-3.0], 1: [-1.0]}})
    reads = {"tokens": ("paraphrase", "perturbed")}
    metric = Metric("t", "truth_ratio", rows="retain", reads=reads, args={"aggregate": "true_better"})
    result = compute([metric], {"tokens": {"retain": both}})["t"]
    assert result.column("value") == pytest.approx([1 - math.exp(-2.0), 0.0])
    assert result.value == pytest.approx(sum(result.column("value")) / 2)
