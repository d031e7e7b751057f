"""The AUC's interval and what it is made of; its numbers are in the golden cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.core.errors import ConfigError
from expunge.core.records import TokenRecords
from expunge.metrics.api import Metric, MetricResult, missing
from expunge.metrics.compute import compute
from expunge.metrics.membership import auc_interval

ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference")
LISTED = [
    Metric("members", "loss_score", rows="forget", reads={"tokens": ("answer",)}),
    Metric("others", "loss_score", rows="holdout", reads={"tokens": ("answer",)}),
    Metric("auc", "attack_auc", parents={"members": "members", "others": "others"}, retain="auc"),
    Metric("leak", "privleak", parents={"auc": "auc"}, retain="auc"),
]


def run(
    records, members: list[float], others: list[float], retain: MetricResult | None = None
) -> dict[str, MetricResult]:
    tokens = {
        name: records({"answer": {i: [-x] for i, x in enumerate(losses)}})
        for name, losses in (("forget", members), ("holdout", others))
    }
    return compute(LISTED, {"tokens": tokens}, None if retain is None else {"auc": retain})


def test_it_is_the_area_under_the_curve(records) -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(2.0, 1.0, 60).round(1), rng.normal(2.5, 1.0, 40).round(1)  # rounded: with ties
    result = run(records, members.tolist(), others.tolist())["auc"]
    labels = [0] * 60 + [1] * 40
    assert result.value == pytest.approx(roc_auc_score(labels, np.concatenate([members, others])), abs=1e-12)
    statistic = scipy.stats.mannwhitneyu(others, members).statistic
    assert result.value == pytest.approx(statistic / 2400, abs=1e-12)
    assert result.extra["mean_members"] == pytest.approx(members.mean())
    assert result.extra["mean_others"] == pytest.approx(others.mean())
    caught = max((members <= t).mean() for t in np.unique(members) if (others <= t).mean() <= 0.01)
    assert result.extra["tpr_at_1fpr"] == pytest.approx(caught)


def test_interval_matches_scipy() -> None:
    rng = np.random.default_rng(5)
    members, others = rng.integers(0, 40, 50), rng.integers(10, 60, 30)
    low, high = auc_interval(members, others)

    def auc(a, b):
        return ((a[:, None] < b) + 0.5 * (a[:, None] == b)).mean()

    theirs = scipy.stats.bootstrap(
        (members, others), auc, n_resamples=4000, method="percentile", rng=3, vectorized=False
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.1 * width)
    assert high == pytest.approx(theirs.high, abs=0.1 * width)


def test_infinite_scores_have_their_place(records) -> None:
    assert run(records, [1.0, math.inf], [2.0, math.inf])["auc"].value == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_swapping_the_sides_mirrors_it(records) -> None:
    one, other = (run(records, *sides)["auc"].value for sides in (([1.0, 3.0], [2.0]), ([2.0], [1.0, 3.0])))
    assert one == pytest.approx(1 - other)


@pytest.mark.parametrize(("retain", "distance"), [(0.2, 0.3), (0.8, 0.3), (0.5, 0.0)])
def test_distance_counts_both_sides(records, retain: float, distance: float) -> None:
    results = run(records, [1.0, 3.0], [2.0], MetricResult(retain))
    assert results["auc"].value == 0.5
    assert results["auc"].extra["auc_distance"] == pytest.approx(distance)
    assert np.sign(results["leak"].value) == np.sign(retain - 0.5)


def test_what_is_missing_is_named(records) -> None:
    results = compute(LISTED, {"tokens": {"forget": records({"answer": {0: [-1.0]}})}})
    reason = "needs others, which is missing: no tokens records of the rows 'holdout' were made"
    assert results["auc"].reason == reason
    assert results["leak"].reason == f"needs auc, which is missing: {reason}"
    leak = run(records, [1.0], [2.0], missing("not scored"))["leak"]
    assert math.isnan(leak.value)
    assert leak.reason == "needs the retain model's auc, which is missing: not scored"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Metric("x", "attack_auc", parents={"members": "members"}), "family attack_auc needs the parents members and"),
        (Metric("x", "privleak"), "family privleak needs the parent auc"),
        (Metric("x", "privleak", parents={"auc": "members"}, args={"ref_value": 1.5}), r"args\.ref_value: 1\.5: "),
    ],
)
def test_metrics_that_cannot_be_right(records, metric: Metric, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compute([*LISTED, metric], {"tokens": {"forget": records({"answer": {0: [-1.0]}})}})


def test_attacks_from_a_model_and_its_retain_model(records) -> None:
    """A model that knows the forget rows: every attack says so, and privleak is near -100."""
    panel = [m for m in tofu_panel(holdout=True) if m.name.startswith(("mia", "priv"))]

    def tokens(forget: float) -> dict[str, TokenRecords]:
        result = {}
        for name, shift in (("forget_eval", forget), ("holdout", 4.0)):
            logps = {i: [-shift - 0.1 * ((7 * i) % 10), -shift - 0.5, -0.1] for i in range(20)}
            spread = {"answer": {i: [4.0, 4.0, 4.0] for i in logps}}
            result[name] = records({"answer": logps}, var=spread, zlib={"answer": {i: 40 for i in logps}})
        return result

    retain = compute(panel, {"tokens": tokens(4.0)})
    assert {n for n, r in retain.items() if r.reason} == {
        "privleak",
        *(f"mia_reference{e}" for e in ("", "_forget", "_holdout")),
    }
    assert retain["mia_loss"].value == 0.5
    again = compute(panel, {"tokens": tokens(4.0)}, retain)
    assert again["mia_reference"].value == 0.5
    assert again["privleak"].value == 0.0
    known = compute(panel, {"tokens": tokens(1.0)}, retain)
    assert {name: known[name].value for name in ATTACKS} == dict.fromkeys(ATTACKS, 1.0)
    assert known["privleak"].value == pytest.approx(-100.0)
    assert known["mia_loss"].extra["auc_distance"] == 0.5
    assert known["mia_reference_forget"].value == pytest.approx(-2.0)
