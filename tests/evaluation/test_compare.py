"""Two evaluations example by example: differences, intervals and p-values against plain arithmetic and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from expunge.core.errors import ConfigError
from expunge.evaluation.compare import compare, permutation_p
from expunge.evaluation.result import EvalResult
from expunge.metrics.aggregate import interval_around, mean_over_rows
from expunge.metrics.api import MetricResult, Parts, missing


def result(values: list[float], **meta: object) -> EvalResult:
    column = np.array(values)
    outcome = mean_over_rows(np.arange(len(values)), column, {"other": [0.5] * len(values), "score": values})
    results = {"score": outcome, "auc": MetricResult(float(np.nanmean(column)) / 2), "none": missing("no records")}
    return EvalResult(results, meta=meta)


def test_the_difference_is_the_mean_over_shared_examples() -> None:
    comparison = compare(result([0.1, 0.2, 0.9, math.nan]), result([0.2, 0.4, 0.8, 0.7]))["score"]
    assert comparison.difference == pytest.approx(np.mean([0.1, 0.2, -0.1]))
    assert comparison.n == 3
    assert comparison.ci_low <= comparison.difference <= comparison.ci_high


def test_an_exact_p_against_scipy() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1, size=10)
    peer = scipy.stats.permutation_test(
        (differences, np.zeros(10)), lambda x, y, axis: np.mean(x - y, axis=axis), vectorized=True,
        permutation_type="samples", n_resamples=np.inf,
    )  # fmt: skip
    assert permutation_p(differences) == pytest.approx(peer.pvalue)


def test_a_random_p_is_near_the_exact_one_and_never_0() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.25, 1, size=60)
    assert permutation_p(differences) == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert 0 < permutation_p(np.ones(200)) < 1e-3
    assert permutation_p(differences, 3) == permutation_p(differences, 3)


def test_equal_models_have_p_1() -> None:
    comparison = compare(result([0.1, 0.5]), result([0.1, 0.5]))["score"]
    assert (comparison.difference, comparison.p) == (0.0, 1.0)


def test_no_claim_where_the_metric_is_not_a_mean() -> None:
    comparison = compare(result([0.1, 0.5]), result([0.3, 0.5]))
    assert math.isnan(comparison["auc"].p) and comparison["auc"].difference == pytest.approx(0.05)
    assert "not a mean over examples" in comparison["auc"].note
    assert comparison["none"].note == "missing: no records"


def test_another_template_or_tokenizer_is_named() -> None:
    a, b = result([0.1, 0.5], template="x", tokenizer="t"), result([0.3, 0.5], template="y", tokenizer="t")
    (note,) = compare(a, b).notes
    assert note.startswith("a and b were measured with other templates: a difference may come from the form")
    assert repr(compare(a, b)).endswith(f"\n  note: {note}") and note in compare(a, b)._repr_html_()
    (note,) = compare(a, result([0.3], template="x", tokenizer="u")).notes
    assert "other tokenizers: numbers per token" in note
    (note,) = a.with_controls(retain=result([0.3, 0.5], template="x", tokenizer="u"), full=a).notes
    assert note.startswith("the model and the retain model were measured with other tokenizers")
    assert compare(a, a).notes == compare(a, result([0.3])).notes == compare(a.results, b.results).notes == ()


def utility(retain_2N: np.ndarray, facts_N: np.ndarray) -> dict[str, MetricResult]:
    """A harmonic mean of two parts of the retain rows and one of other rows."""
    columns = {"p": retain_2N[0], "r": retain_2N[1], "f": facts_N}
    parts = {
        n: MetricResult(float(v.mean()), per_row={i: {"s": float(x)} for i, x in enumerate(v)})
        for n, v in columns.items()
    }
    sets = Parts({"p": "retain", "r": "retain", "f": "facts"})
    return {**parts, "mu": MetricResult(harmonic(*(v.mean() for v in columns.values())), parts=sets)}


def harmonic(*values: float) -> float:
    return len(values) / sum(1 / v for v in values)


def test_the_difference_of_a_harmonic_mean_against_all_exchanges_of_rows() -> None:
    rng = np.random.default_rng(4)
    a, b = ((rng.random((2, 5)) + k / 4, rng.random(4) + k / 4) for k in (0, 1))
    d = compare(utility(*a), utility(*b))["mu"]
    assert d.difference == pytest.approx(d.b - d.a) and d.n == 9

    def exchanged(signs: tuple[bool, ...]) -> float:
        retain, facts = np.array(signs[:5]), np.array(signs[5:])
        one = (np.where(retain, a[0], b[0]), np.where(facts, a[1], b[1]))
        other = (np.where(retain, b[0], a[0]), np.where(facts, b[1], a[1]))
        values = [harmonic(*of[0].mean(axis=1), of[1].mean()) for of in (one, other)]
        return values[1] - values[0]

    everything = [exchanged(signs) for signs in itertools.product((True, False), repeat=9)]
    assert d.p == pytest.approx(np.mean(np.abs(everything) >= abs(d.difference) - 1e-12))
    draws = [np.random.default_rng([0, k]).integers(0, n, size=(1000, n), dtype=np.int32) for k, n in ((0, 5), (1, 4))]
    sides = [[*retain[:, draws[0]].mean(axis=-1), facts[draws[1]].mean(axis=-1)] for retain, facts in (a, b)]
    by_hand = harmonic(*sides[1]) - harmonic(*sides[0])  # type: ignore[arg-type]
    assert (d.ci_low, d.ci_high) == pytest.approx(interval_around(d.difference, by_hand), rel=1e-9)
    assert compare(utility(*a), utility(*a))["mu"].p == 1.0


def test_a_random_p_of_a_harmonic_mean_is_near_the_exact_one_of_its_only_part() -> None:
    rng = np.random.default_rng(5)
    values = rng.random(40)
    sides = [values, values + rng.normal(0.02, 0.1, 40)]
    single = [{"p": result(v.tolist()).results["score"]} for v in sides]
    both = [{**of, "mu": MetricResult(of["p"].value, parts=Parts({"p": "rows"}))} for of in single]
    mean, utility_p = compare(*both)["p"], compare(*both)["mu"]
    assert (mean.difference, mean.ci_low, mean.p) == pytest.approx(
        (utility_p.difference, utility_p.ci_low, utility_p.p), abs=1e-12
    )


def test_false_positives_are_at_their_rate() -> None:
    """Two draws of the same model: p is below .05 in about one of twenty pairs."""
    rng = np.random.default_rng(2)
    ps = [permutation_p(rng.normal(size=10)) for _ in range(400)]
    assert 0.02 < np.mean([p <= 0.05 for p in ps]) < 0.08


def test_the_averaged_statistic_is_found_with_several_answers_per_example() -> None:
    per_row = {
        0: {"avg_loss": [1.0, 2.0], "prob": [0.2, 0.4]},
        1: {"avg_loss": [1.0, math.nan], "prob": [0.5, math.nan]},
    }
    assert MetricResult(0.4, per_row=per_row).averaged == ("prob",)


def test_tables_and_text() -> None:
    comparison = compare(result([0.1, 0.5, 0.4]), result([0.3, 0.5, 0.9]))
    table = comparison.to_pandas()
    assert table.loc["score", "difference"] == comparison["score"].difference
    assert repr(comparison).startswith("Comparison(b - a)\n  score: 0.3333 -> 0.5667")
    assert "<td>score</td>" in comparison._repr_html_()


def test_p_values_are_corrected_for_the_number_of_metrics() -> None:
    def of(shift: float) -> dict[str, MetricResult]:
        sets = {
            "far": [0.1 * i + shift for i in range(6)],
            "near": [0.1 * i + shift * (-1) ** (i > 4) for i in range(6)],
        }
        out = {k: MetricResult(sum(v) / 6, per_row={i: {"score": x} for i, x in enumerate(v)}) for k, v in sets.items()}
        return out | {"auc": MetricResult(0.5)}

    comparison = compare(of(0.0), of(0.5))
    # all six signs equal: 2 of 64 flips; five of six equal: 14 of 64
    assert (comparison["far"].p, comparison["near"].p) == (2 / 64, 14 / 64)
    assert (comparison["far"].p_holm, comparison["near"].p_holm) == (4 / 64, 14 / 64)
    assert math.isnan(comparison["auc"].p_holm)
    assert comparison.to_pandas().loc["far", "p_holm"] == 4 / 64 and "p (Holm)" in comparison._repr_html_()


def test_wrong_words() -> None:
    a = result([0.1])
    with pytest.raises(ConfigError, match=r"compare: metrics: 'scor' is not in both results; did you mean 'score'"):
        compare(a, a, metrics=["scor"])
    with pytest.raises(ConfigError, match="no metric in common"):
        compare(a, {"x": MetricResult(1.0)})
    with pytest.raises(ConfigError, match="the forget_eval examples of the two results are not the same"):
        compare(result([0.1], rows={"forget_eval": "a"}), result([0.1], rows={"forget_eval": "b"}))
    with pytest.raises(ConfigError, match="compare: metrics: expected a list, got a str; write"):
        compare(a, a, metrics="score")
    with pytest.raises(ConfigError, match="compare: b: expected an EvalResult, got None"):
        compare(a, None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="did you mean 'score'"):
        compare(a, a)["scor"]
