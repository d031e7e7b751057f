"""The share of utility that is left: rows of both models are paired, and the word follows from the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.api import MetricResult, Parts
from expunge.metrics.utility import share_of_utility, utility_answer

N = 200
HARD = np.random.default_rng(0).random((2, N)) * 0.8 + 0.1  # the same rows are hard for every model


def results(factor: float, noise: float = 0.0, seed: int = 1, rows: int = N) -> dict[str, MetricResult]:
    """A model whose two parts are `factor` of the rows' numbers, with noise of its own."""
    values = HARD[:, :rows] * factor + noise * np.random.default_rng(seed).standard_normal((2, rows))
    parts = {
        name: MetricResult(float(of.mean()), per_row={i: {"prob": float(v)} for i, v in enumerate(of)})
        for name, of in zip(("p", "q"), values, strict=True)
    }
    value = 2 / sum(1 / one.value for one in parts.values())
    sets = Parts({"p": "retain", "q": "facts"})
    return {**parts, "model_utility": MetricResult(value, parts=sets)}


@pytest.mark.parametrize(
    ("factor", "noise", "word"),
    [
        (0.97, 0.01, "kept"),
        (0.9, 0.01, "damaged"),
        (0.96, 0.3, "undecided"),
        (0.4, 0.01, "broken"),
        (1.2, 0.01, "kept"),
    ],
)
def test_the_word_follows_from_the_paired_interval(factor: float, noise: float, word: str) -> None:
    answer = utility_answer([results(factor, noise)], [results(1.0)], "model_utility", 0.5)
    assert answer.word == word and answer.low <= answer.number <= answer.high
    assert f"{answer.number:.3g} [{answer.low:.3g}, {answer.high:.3g}] of the target model's" in answer.sentence


def test_rows_that_are_hard_for_both_models_do_not_widen_the_interval() -> None:
    share, low, high = share_of_utility([results(0.9)], [results(1.0)], "model_utility")
    assert (share, low, high) == pytest.approx((0.9, 0.9, 0.9))
    single = {k: v for k, v in results(0.9).items() if k == "p"}
    assert share_of_utility([single], [results(1.0)], "p") == pytest.approx((0.9, 0.9, 0.9))


def test_seeds_share_their_draws_and_each_of_them_counts() -> None:
    seeds = [results(0.99, 0.01, 1), results(0.90, 0.01, 2)]
    answer = utility_answer(seeds, [results(1.0)], "model_utility", 0.5)
    assert answer.word == "undecided" and answer.number == pytest.approx(0.945, abs=0.01)
    assert answer.high < 0.97 and "single seeds" in answer.sentence


def test_only_shared_rows_are_compared() -> None:
    answer = utility_answer([results(0.9)], [results(1.0, rows=N - 50)], "model_utility", 0.5)
    assert answer.number == pytest.approx(0.9) and answer.word == "damaged"


def test_two_intervals_without_rows_give_a_wider_one() -> None:
    def alone(value: float) -> dict[str, MetricResult]:
        return {"u": MetricResult(value, extra={"ci_low": value - 0.01, "ci_high": value + 0.01})}

    _, low, high = share_of_utility([alone(0.8)], [alone(0.8)], "u")
    assert (low, high) == pytest.approx((0.79 / 0.81, 0.81 / 0.79))


def test_a_target_model_that_may_have_no_utility_gives_no_interval() -> None:
    few = {0: {"prob": 1.0}} | {i: {"prob": 0.0} for i in range(1, 4)}
    both = {"u": MetricResult(0.25, per_row=few)}
    share, low, high = share_of_utility([both], [both], "u")
    assert share == 1 and math.isnan(low + high)
    assert utility_answer([both], [both], "u", 0.5).word == "undecided"


def test_the_side_without_a_number_is_named() -> None:
    known = [results(0.9)]
    assert utility_answer(known, [], "model_utility", 0.5).sentence.endswith("is not known of the target model.")
    assert utility_answer([], known, "model_utility", 0.5).sentence.endswith("is not known of the model.")
    assert utility_answer([], [], "model_utility", 0.5).sentence.endswith("of the model and of the target model.")
