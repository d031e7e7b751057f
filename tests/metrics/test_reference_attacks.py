"""RMIA and LiRA against their definitions, counted out; rows and parents that are not there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from expunge.core.errors import ConfigError
from expunge.metrics.api import Metric, MetricResult, missing
from expunge.metrics.compute import compute

FORGET = Metric("f", "loss_score", rows="f", reads={"tokens": ("answer",)})
HOLDOUT = Metric("h", "loss_score", rows="h", reads={"tokens": ("answer",)})
RMIA = Metric("rmia", "rmia_score", parents={"losses": "f", "population": "h"}, shadows=True)
LIRA = Metric("lira", "lira_score", parents={"losses": "f"}, shadows=True)


@pytest.fixture(scope="module")
def samples(records):
    """Losses of a measured model and of three retain models, and the results of the loss metrics on the latter."""
    rng = np.random.default_rng(5)
    losses = {rows: rng.uniform(0.1, 3.0, size=(4, n)) for rows, n in (("f", 12), ("h", 9))}
    tokens = [
        {rows: records({"answer": {i: [-x] for i, x in enumerate(of[m])}}) for rows, of in losses.items()}
        for m in range(4)
    ]
    shadows = [compute([FORGET, HOLDOUT], {"tokens": t}) for t in tokens[1:]]
    return losses, tokens[0], shadows


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 1.0), (0.0, 1.5), (1.0, 1.0)])
def test_rmia_counted_pair_by_pair(samples, a: float, gamma: float) -> None:
    losses, mine, shadows = samples
    metric = Metric("rmia", "rmia_score", parents=RMIA.parents, shadows=True, args={"a": a, "gamma": gamma})
    result = compute([FORGET, HOLDOUT, metric], {"tokens": mine}, shadows=shadows)["rmia"]

    def ratio(rows: str, i: int) -> float:
        out = sum(math.exp(-losses[rows][m][i]) for m in (1, 2, 3)) / 3
        return math.exp(-losses[rows][0][i]) / (0.5 * ((1 + a) * out + (1 - a)))

    for i in range(12):
        wins = sum(ratio("f", i) / ratio("h", z) >= gamma for z in range(9))
        assert result.per_row[i]["score"] == pytest.approx(1 - wins / 9)


def test_lira_is_the_tail_of_the_shadow_models(samples) -> None:
    losses, mine, shadows = samples
    result = compute([FORGET, HOLDOUT, LIRA], {"tokens": mine}, shadows=shadows)["lira"]
    p = np.exp(-losses["f"])
    phi = np.log(p / (1 - p))
    sigma = np.sqrt(phi[1:].var(axis=0, ddof=1).mean())
    tail = norm.cdf(phi[0], loc=phi[1:].mean(axis=0), scale=sigma)  # the paper's Pr[Q <= phi], larger for members
    assert norm.cdf(-np.array(result.column("score"))) == pytest.approx(tail)
    assert result.extra["sigma"] == pytest.approx(sigma)


def test_a_learned_row_stands_out(records) -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(1.5, 2.5, size=20)

    def result(shift: float) -> MetricResult:
        return MetricResult(1.0, per_row={i: {"score": x + shift + rng.normal(0, 0.05)} for i, x in enumerate(base)})

    shadows = [{"f": result(0.0)} for _ in range(3)]
    for shift, sign in ((-1.0, -1), (1.0, 1)):
        tokens = {"f": records({"answer": {i: [-(x + shift)] for i, x in enumerate(base)}})}
        value = compute([FORGET, LIRA], {"tokens": tokens}, shadows=shadows)["lira"].value
        assert value * sign > 5


def test_the_retain_log_serves_where_there_are_no_shadow_models(samples) -> None:
    _, mine, shadows = samples
    one = compute([FORGET, HOLDOUT, RMIA], {"tokens": mine}, shadows[0])["rmia"]
    assert repr(one) == repr(compute([FORGET, HOLDOUT, RMIA], {"tokens": mine}, shadows=shadows[:1])["rmia"])


@pytest.mark.parametrize(
    ("shadow", "reason"),
    [
        (missing("not scored"), "needs a retain model's f, which is missing: not scored"),
        (MetricResult(1.0, per_row={0: {"score": 1.0}}), "cover other rows: 1 against 12 here"),
    ],
)
def test_retain_models_that_cannot_serve(samples, shadow: MetricResult, reason: str) -> None:
    _, mine, _ = samples
    result = compute([FORGET, LIRA], {"tokens": mine}, shadows=[{"f": shadow}] * 2)["lira"]
    assert reason in (result.reason or "")


def test_rows_without_a_loss_have_no_score(records) -> None:
    shadows = [{"f": MetricResult(1.0, per_row={0: {"score": 1.0 + m}, 1: {"score": 1.0}})} for m in (0, 1)]
    tokens = {"f": records({"answer": {0: [-1.0], 1: []}})}
    result = compute([FORGET, LIRA], {"tokens": tokens}, shadows=shadows)["lira"]
    assert math.isnan(result.per_row[1]["score"])
    assert result.extra["n_missing"] == 1


def test_wrong_parents_and_arguments() -> None:
    with pytest.raises(ConfigError, match=r"rmia_score needs the parents losses, population, got \['losses'\]"):
        compute([FORGET, Metric("m", "rmia_score", parents={"losses": "f"})], {})
    for args in ({"a": 1.5}, {"gamma": 0.5}):
        with pytest.raises(ConfigError, match=rf"metric m: args\.{next(iter(args))}"):
            compute([FORGET, Metric("m", "rmia_score", parents={"losses": "f"}, args=args)], {})
