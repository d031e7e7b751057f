"""The test's exact tail, and what it refuses to compare."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from expunge.core.errors import ConfigError
from expunge.metrics.api import FIRST_ROWS, Metric, MetricResult, missing
from expunge.metrics.compute import compute
from expunge.metrics.forget_quality import ks_between, ks_distance, ks_interval, ln_p_one_sided, ln_p_two_sided

RATIO = Metric(
    "tr", "truth_ratio", rows="r", reads={"tokens": ("answer", "perturbed")}, args={"aggregate": "closer_to_1_better"}
)
QUALITY = Metric("fq", "forget_quality", parents={"truth_ratio": "tr"}, retain="tr")


def quality(records, log_ratios, retain: MetricResult | None) -> MetricResult:
    by_variant = {
        "answer": {i: [-5000.0] for i in range(len(log_ratios))},
        "perturbed_0": {i: [-5000.0 + float(x)] for i, x in enumerate(log_ratios)},
    }
    inputs = None if retain is None else {"tr": retain}
    return compute([QUALITY, RATIO], {"tokens": {"r": records(by_variant)}}, inputs)["fq"]


def ratios(records, log_ratios) -> MetricResult:
    by_variant = {
        "answer": {i: [-5000.0] for i in range(len(log_ratios))},
        "perturbed_0": {i: [-5000.0 + float(x)] for i, x in enumerate(log_ratios)},
    }
    return compute([RATIO], {"tokens": {"r": records(by_variant)}})["tr"]


@pytest.mark.parametrize("n", [1, 2, 5, 40, 400])
def test_logs_are_scipys_exact_p(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.3, 1.0, 3.0):
        x, y = rng.normal(size=n), rng.normal(size=n) + shift
        two = scipy.stats.ks_2samp(x, y, method="exact")
        one = scipy.stats.ks_2samp(x, y, alternative="greater", method="exact")
        assert ln_p_two_sided(n, round(two.statistic * n)) == pytest.approx(math.log(two.pvalue), rel=1e-8, abs=1e-9)
        assert ln_p_one_sided(n, round(one.statistic * n)) == pytest.approx(math.log(one.pvalue), rel=1e-8, abs=1e-9)


def test_log_p_where_p_is_zero(records) -> None:
    """n = 700, D = 1: p = 2 / C(1400, 700), about 1e-420, which no float holds."""
    n = 700
    result = quality(records, np.linspace(-9, -8, n), ratios(records, np.linspace(1, 2, n)))
    assert result.value == 0.0
    exact = math.log(2) - math.log(math.comb(2 * n, n))
    assert result.extra["ln_p"] == pytest.approx(exact, rel=1e-9)
    assert result.extra["log10_p"] == pytest.approx(exact / math.log(10), rel=1e-9)
    assert result.extra["ln_p_greater"] == pytest.approx(exact - math.log(2), rel=1e-9)


def test_ratios_beyond_floats_still_rank(records) -> None:
    """Ratios e^800 and e^900 are the same float; their logs are not."""
    low, high = [800.0, 801.0, 802.0], [900.0, 901.0, 902.0]
    assert quality(records, low, ratios(records, high)).extra["ks_distance"] == 1.0


def test_other_projects_scores_are_compared_with_ours(records) -> None:
    retain = MetricResult(0.5, per_row={i: {"score": math.exp(x)} for i, x in enumerate([1.0, 2.0, 3.0])})
    assert quality(records, [1.5, 2.5, 3.5], retain).extra["ks_distance"] == pytest.approx(1 / 3)


def test_order_of_rows_does_not_matter(records) -> None:
    retain = ratios(records, [0.1, 0.4, -0.3, 2.0])
    turned = MetricResult(retain.value, per_row=dict(reversed(retain.per_row.items())))
    assert quality(records, [0.0, 1.0, 2.0, 3.0], retain) == quality(records, [0.0, 1.0, 2.0, 3.0], turned)


@pytest.mark.parametrize(
    ("retain", "reason"),
    [
        (None, "needs a retain model's truth ratios (tr); none was given"),
        (missing("no answers were scored"), "the retain model's tr has no rows: no answers were scored"),
        (MetricResult(0.5), "the retain model's tr has no rows"),
        (
            MetricResult(0.5, per_row={i: {"score": 1.0} for i in (0, 1, 3)}),
            "the retain model's truth ratios cover other rows: 3 against 3 here, 2 not in both, the first is row 2; "
            "score both models on the same split",
        ),
        (MetricResult(0.5, per_row={i: {"prob": 1.0} for i in range(3)}), "no row has a truth ratio in both models"),
    ],
)
def test_missing_says_why(records, retain: MetricResult | None, reason: str) -> None:
    result = quality(records, [0.0, 0.1, 0.2], retain)
    assert math.isnan(result.value)
    assert result.reason == reason
    assert not result.extra


def test_missing_truth_ratio_is_named() -> None:
    result = compute([QUALITY, RATIO], {}, {"tr": MetricResult(0.5, per_row={0: {"score": 1.0}})})["fq"]
    assert result.reason == "needs tr, which is missing: no tokens records of the rows 'r' were made"


def test_needs_its_parent() -> None:
    with pytest.raises(ConfigError, match="needs the parent truth_ratio"):
        compute([Metric("fq", "forget_quality")], {})


def test_the_distance_and_its_interval() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=60), rng.normal(size=60) + 0.5
    assert ks_distance(x, y) == pytest.approx(scipy.stats.ks_2samp(x, y).statistic, rel=1e-12)
    sample = [rng.integers(0, 60, size=60) for _ in range(2000)]
    low, high = np.quantile([scipy.stats.ks_2samp(x[d], y[d]).statistic for d in sample], [0.025, 0.975])
    assert ks_interval(x, y) == pytest.approx((low, high), abs=0.03)
    assert ks_interval(x, x) == (0.0, 0.0)


def test_distance_between_two_retain_models() -> None:
    one, other = (
        MetricResult(1.0, per_row={i: {"score": s} for i, s in enumerate(of)}) for of in ([1, 2, 3], [1, 5, 6])
    )
    assert ks_between(one, other) == pytest.approx(2 / 3)
    assert math.isnan(ks_between(one, MetricResult(1.0, per_row={0: {"score": 1.0}})))


def test_the_value_may_be_a_log(records) -> None:
    x, y = np.linspace(0, 1, 20), np.linspace(0.4, 1.4, 20)
    plain = quality(records, x, ratios(records, y))
    for value in ("ln_p", "ln_p_greater"):
        metric = Metric("fq", "forget_quality", parents={"truth_ratio": "tr"}, retain="tr", args={"value": value})
        by_variant = {
            "answer": {i: [-5000.0] for i in range(20)},
            "perturbed_0": {i: [-5000.0 + float(v)] for i, v in enumerate(x)},
        }
        result = compute([metric, RATIO], {"tokens": {"r": records(by_variant)}}, {"tr": ratios(records, y)})["fq"]
        assert result.value == plain.extra[value] < 0
        assert result.extra == plain.extra


def test_a_published_log_of_the_first_rows_is_compared_on_these(records) -> None:
    both = [0.1 * i for i in range(30)]
    theirs = dataclasses.replace(ratios(records, both), extra={FIRST_ROWS: 30.0})
    result = quality(records, [*both, *([5.0] * 10)], theirs)
    assert result.value == 1.0 and result.extra["n_rows"] == 30
