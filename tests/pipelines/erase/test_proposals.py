"""The next trial of a search: bisection of the learning rate, checked on simulated models and by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.pipelines.erase.proposals import (
    GOOD,
    METHODS,
    MOST_OF_METHOD,
    Outcome,
    Proposal,
    method_settings,
    propose,
)
from expunge.pipelines.sweep.bisection import next_rate, rounded

ONE = {"NPO": 1.0}


def outcome(rate: float, left: float, rest: float, last: float | None = None, method: str = "NPO") -> Outcome:
    return Outcome(method, rate, left, rest, rest if last is None else last, left <= 0.05, 0.9)


def simulated(method: str, rate: float, ideal: float, width: float = 4.0) -> Outcome:
    """A model that forgets from a rate of `ideal` on, and falls under the floor at `width` times that."""
    if rate >= width * ideal:
        return outcome(rate, math.nan, math.nan, 0.3, method)
    return outcome(rate, 0.01 if rate >= ideal else 0.6, 1.0 - 0.1 * rate / (width * ideal), method=method)


@pytest.mark.parametrize("ideal", [3e-6, 3e-5, 3e-4, 3e-3, 0.03])
def test_a_rate_that_forgets_is_found_from_far_away(ideal: float) -> None:
    outcomes: list[Outcome] = []
    while (proposal := propose(ONE, 3e-4, outcomes)) is not None:
        outcomes.append(simulated(proposal.method, proposal.rate, ideal))
    best = min(outcomes, key=lambda o: o.rank)
    assert best.enough and len(outcomes) <= 6
    assert ideal <= best.rate < 4 * ideal


def test_the_rates_by_hand() -> None:
    assert next_rate([outcome(3e-4, 0.9, 1.0)]) == 1.2e-3  # too weak, by far
    assert next_rate([outcome(3e-4, 0.5, 1.0)]) == 9e-4  # too weak
    assert next_rate([outcome(3e-4, 0.5, 0.91, last=0.4)]) == 1e-4  # it forgot while utility fell
    assert next_rate([outcome(3e-4, math.nan, math.nan, last=0.4)]) == 1e-4
    assert next_rate([outcome(1e-4, 0.5, 1.0), outcome(4e-4, 0.9, 0.9, last=0.1)]) == 2e-4
    assert next_rate([outcome(1e-4, 0.5, 1.0), outcome(1.3e-4, 0.9, 0.9, last=0.1)]) is None  # too near
    assert next_rate([outcome(1e-4, 0.01, 0.93)]) == rounded(1e-4 / 3)  # it may keep more utility
    assert next_rate([outcome(1e-4, 0.01, 0.93), outcome(2.5e-5, 0.4, 1.0)]) == 5e-5
    assert next_rate([outcome(4e-4, 0.5, 1.0), outcome(1e-4, math.nan, math.nan, last=0.1)]) is None  # no order


def test_the_settings_of_npo_follow_from_the_length_of_answers() -> None:
    assert method_settings("NPO", 8.0) == {"alpha": 32.0, "beta": 0.31, "retain_loss_type": "KL"}
    assert method_settings("NPO", 40.0) == {"alpha": 160.0, "beta": 0.062, "retain_loss_type": "KL"}
    assert method_settings("NPO", 1.0) == {"alpha": 5.0, "beta": 2.5, "retain_loss_type": "KL"}
    assert method_settings("SimNPO", 8.0) == {"alpha": 5.0, "retain_loss_type": "KL"}


def test_a_good_model_ends_the_search() -> None:
    assert propose(METHODS, 1e-4, [outcome(1e-4, 0.01, GOOD)]) is None
    assert propose(METHODS, 1e-4, [outcome(1e-4, 0.01, GOOD - 0.01)]) is not None


def test_later_methods_start_at_the_best_rate_of_the_first() -> None:
    first = [outcome(3e-4, math.nan, math.nan, last=0.1), outcome(1e-4, 0.5, 0.95, last=0.6)]
    first += [outcome(3.33e-5, 0.7, 1.0), outcome(5.77e-5, 0.6, 1.0)]
    assert len(first) == MOST_OF_METHOD
    assert propose(METHODS, 3e-4, first) == Proposal("SimNPO", 4e-4)
    trials = [*first, *(outcome(r, 0.7, 1.0, method="SimNPO") for r in (4e-4, 1.2e-3, 3.6e-3, 1.08e-2))]
    assert propose(METHODS, 3e-4, trials) == Proposal("GradDiff", 5e-5)


def test_a_fixed_rate_is_tried_once_for_each_method() -> None:
    outcomes: list[Outcome] = []
    while (proposal := propose(METHODS, 3e-4, outcomes, fixed=True)) is not None:
        assert proposal.rate == 3e-4
        outcomes.append(outcome(proposal.rate, 0.5, 1.0, method=proposal.method))
    assert [o.method for o in outcomes] == list(METHODS)


def test_both_sides_of_a_rate_that_forgot_enough_are_tried() -> None:
    early, lower = outcome(3e-4, 0.04, 0.92), outcome(1e-4, 0.09, 0.88)
    late = dataclasses.replace(early, late=True)
    assert propose(ONE, 3e-4, [early]) == Proposal("NPO", 1e-4)
    assert propose(ONE, 3e-4, [early, lower]) == Proposal("NPO", 6e-4)  # a smaller rate kept less
    assert propose(ONE, 3e-4, [late]) == Proposal("NPO", 6e-4)  # utility was still returning
    higher = outcome(6e-4, 0.05, 0.96)
    assert propose(ONE, 3e-4, [late, higher]) == Proposal("NPO", 1.2e-3)
    assert propose(ONE, 3e-4, [late, outcome(6e-4, 0.05, 0.90)]) == Proposal("NPO", 1e-4)
    both = [late, lower, outcome(6e-4, 0.05, 0.90)]
    assert propose(ONE, 3e-4, both) == Proposal("NPO", 4.24e-4)
    near = [outcome(2.5e-4, 0.2, 0.9), late, outcome(4e-4, 0.05, 0.90)]
    assert propose(ONE, 3e-4, near) is None  # both are too near


def test_a_smaller_rate_whose_utility_does_not_return_is_not_tried_twice() -> None:
    enough = outcome(3e-4, 0.04, 0.92)
    slow = outcome(1e-4, math.nan, math.nan, 0.8)  # it has forgotten, and its utility needs more steps
    assert next_rate([enough]) == 1e-4
    assert next_rate([enough, slow]) == 1.73e-4
    assert next_rate([enough, slow, outcome(1.73e-4, math.nan, math.nan, 0.85)]) == 2.28e-4
