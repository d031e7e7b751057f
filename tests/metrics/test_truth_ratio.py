"""Truth ratio and probabilities where plain numbers overflow, and their arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.core.errors import ConfigError
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute

FORGET = {"aggregate": "closer_to_1_better"}


def run(records, right: float, wrong: list[float], family: str = "truth_ratio", **args):
    by_variant = {"answer": {0: [right]}} | {f"perturbed_{k}": {0: [x]} for k, x in enumerate(wrong)}
    metric = Metric("m", family, rows="r", reads={"tokens": ("answer", "perturbed")}, args=args)
    return compute([metric], {"tokens": {"r": records(by_variant)}})["m"]


@pytest.mark.parametrize("aggregator", ["geometric", "arithmetic"])
def test_no_underflow(records, aggregator: str) -> None:
    result = run(records, -5000.0, [-5001.0, -5001.0], **FORGET, aggregator=aggregator)
    assert result.value == pytest.approx(math.exp(-1.0), rel=1e-9)
    assert result.per_row[0]["score"] == pytest.approx(math.exp(-1.0), rel=1e-9)


def test_no_overflow(records) -> None:
    result = run(records, -5000.0, [-1.0], **FORGET)
    assert result.value == 0.0
    assert result.per_row[0]["log_score"] == 4999.0
    assert np.isfinite(result.per_row[0]["score"])
    assert np.isfinite(run(records, -5000.0, [-1.0], aggregate="raw").value)
    assert run(records, -5000.0, [-1.0], aggregate="true_better").value == 0.0
    assert run(records, -1.0, [-5000.0], aggregate="true_better").value == 1.0


def test_floor_of_a_collapsed_model(records) -> None:
    """All answers at e^-50: the formula says R = 1, 1e-10 in the denominator says about 2e-12."""
    assert run(records, -50.0, [-50.0], **FORGET).value == pytest.approx(1.0)
    floored = run(records, -50.0, [-50.0], **FORGET, floor=1e-10)
    assert floored.value == pytest.approx(math.exp(-50.0) / (math.exp(-50.0) + 1e-10), rel=1e-9)
    assert run(records, -50.0, [-50.0], "probability_w_options").value == pytest.approx(0.5)
    share = run(records, -50.0, [-50.0], "probability_w_options", floor=1e-10)
    assert share.value == pytest.approx(math.exp(-50.0) / (2 * math.exp(-50.0) + 1e-10), rel=1e-9)


def test_impossible_answers_have_no_ratio(records) -> None:
    result = run(records, -math.inf, [-math.inf], **FORGET)
    assert math.isnan(result.value)
    assert (
        result.reason
        == "none of the 1 rows could be scored: a record is missing for them, or the model's logits were not numbers"
    )
    assert run(records, -math.inf, [-1.0], **FORGET).value == 0.0


def test_arithmetic_is_never_smaller(records) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        wrong = (-rng.uniform(0, 9, size=5)).tolist()
        scores = [
            run(records, -3.0, wrong, **FORGET, aggregator=a).per_row[0]["score"] for a in ("geometric", "arithmetic")
        ]
        assert scores[0] < scores[1]


def test_small_differences_keep_their_digits(records) -> None:
    result = run(records, -1.0, [-1.0 - 1e-12], aggregate="true_better")
    assert result.value == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, r"metric m: args\.aggregate: missing, truth_ratio needs it"),
        (
            {"aggregate": "closer_to_one"},
            r"args\.aggregate: 'closer_to_one': no such choice; did you mean 'closer_to_1_better'",
        ),
        (FORGET | {"aggregator": "harmonic"}, r"args\.aggregator: 'harmonic': .*\(allowed: arithmetic, geometric\)"),
        (FORGET | {"flor": 0.0}, r"args\.flor: truth_ratio has no such argument; did you mean 'floor'"),
        (FORGET | {"floor": -1e-10}, r"metric m: args\.floor: -1e-10: should be greater than or equal to 0"),
        (FORGET | {"floor": 1.0}, r"args\.floor: 1\.0: should be less than 1"),
        (FORGET | {"floor": math.nan}, r"args\.floor: nan: should be a finite number"),
        (FORGET | {"floor": "small"}, r"args\.floor: 'small': should be a valid number"),
    ],
)
def test_wrong_arguments(records, args: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(records, -1.0, [-1.0], **args)


def test_needs_two_kinds_of_answers(records) -> None:
    metric = Metric("m", "truth_ratio", rows="r", reads={"tokens": ("answer",)}, args=FORGET)
    with pytest.raises(ConfigError, match=r"reads tokens \(correct, wrong\), got \['answer'\]"):
        compute([metric], {"tokens": {"r": records({"answer": {0: [-1.0]}})}})


@pytest.mark.parametrize("family, tokens", [("probability", ("perturbed",)), ("answer_loss", ("perturbed",))])
def test_a_row_with_an_answer_that_is_no_number_has_no_mean_over_the_others(records, family, tokens) -> None:
    result = records({"perturbed_0": {0: [-1.0], 1: [-1.0]}, "perturbed_1": {0: [-2.0], 1: [math.nan]}})
    outcome = compute([Metric("m", family, rows="r", reads={"tokens": tokens})], {"tokens": {"r": result}})["m"]
    assert outcome.extra["n_missing"] == 1
    assert outcome.value == pytest.approx(1.5 if family == "answer_loss" else (math.exp(-1) + math.exp(-2)) / 2)


def test_a_wrong_answer_that_is_no_number_neither_raises_nor_lowers_the_row(records) -> None:
    result = records(
        {
            "answer": {0: [-1.0], 1: [-1.0]},
            "perturbed_0": {0: [-1.0], 1: [-1.0]},
            "perturbed_1": {0: [-1.0], 1: [math.nan]},
        }
    )
    for family, args in (("truth_ratio", {"aggregate": "raw"}), ("probability_w_options", {})):
        metric = Metric("m", family, rows="r", reads={"tokens": ("answer", "perturbed")}, args=args)
        outcome = compute([metric], {"tokens": {"r": result}})["m"]
        assert outcome.extra["n_missing"] == 1
        assert outcome.value == pytest.approx(1.0 if family == "truth_ratio" else 1 / 3)
