"""The states of goals: only an interval on one side of the limit makes a goal achieved or not achieved."""

from __future__ import annotations

import math
import re
from unittest.mock import Mock

import numpy as np
import pytest

from expunge.core.records import Floats
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import UNDECIDED, interval_alone
from expunge.metrics.verdict import KEPT, share_text
from expunge.pipelines.erase.attacks import _bounded
from expunge.pipelines.erase.general import AbilityChange
from expunge.pipelines.erase.goal_values import STATES, GoalValue, exit_code, goal_line, residual
from expunge.pipelines.erase.goals import BeforeAfter, ability_goal, forgetting_goal, why_broken
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.request import UTILITY
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.erase.verdict import _kept_word
from expunge.report.model import AuditLine

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "low", "high", "at_most", "state"),
    [
        (0.07, 0.05, 0.09, True, "achieved"),
        (0.07, 0.01, 0.25, True, "achieved by the point value"),
        (0.23, 0.10, 0.36, True, "not achieved by the point value"),
        (0.40, 0.30, 0.50, True, "not achieved"),
        (0.99, 0.95, 1.01, False, "achieved"),
        (0.10, 0.00, 0.20, True, "achieved by the point value"),  # an end at the limit includes it
        (0.07, NAN, NAN, True, "achieved by the point value"),  # one row
        (0.40, NAN, NAN, True, "not achieved by the point value"),
        (0.07, 0.05, 0.09, False, "not achieved"),
    ],
)
def test_only_an_interval_on_one_side_of_the_limit_decides(
    value: float, low: float, high: float, at_most: bool, state: str
) -> None:
    goal = GoalValue(value, low, high, 0.2, 5, at_most)
    line = goal_line(goal, "text")
    assert goal.state == line.state == state
    assert ("interval" in line.text) == ("point value" in state)
    assert exit_code([line]) == (3 if state.startswith("not achieved") else 0)


def results(values_R: Floats, name: str = KNOWN) -> dict[str, MetricResult]:
    rows = {i: {"prob": float(p)} for i, p in enumerate(values_R)}
    return {name: MetricResult(float(values_R.mean()), per_row=rows)}


def simulated(rng: np.random.Generator) -> tuple[BeforeAfter, float]:
    """Return a simulated erasure, and the share that is left in the population of its rows."""
    n, left = int(rng.integers(1, 40)), float(rng.choice([0.0, 0.02, 0.1, 0.19, 0.2, 0.21, 0.3, 0.6, 1.0]))
    before = rng.beta(8, 2, n)
    after = np.clip(before * left * rng.lognormal(-0.125, 0.5, n), 0, 1)
    control = results(rng.beta(1, 30, n)) if rng.random() < 0.3 else None
    unseen = results(rng.beta(1, 30, 8), UNSEEN) if control is None and rng.random() < 0.5 else {}
    return BeforeAfter(results(before) | unseen, results(after), control), left


def test_the_state_never_contradicts_the_shown_numbers() -> None:
    rng, states = np.random.default_rng(0), set()
    for _ in range(400):
        measured, _ = simulated(rng)
        goal = forgetting_goal(measured, 0.2)
        if goal is None:
            continue
        states.add(goal.state)
        value, *ends = (float(x) / 100 for x in re.findall(r"([\d.]+)%", goal.shown))
        assert (value <= 0.2) == (not goal.state.startswith("not")), goal
        is_outside = bool(ends) and not ends[0] <= 0.2 <= ends[1]
        assert is_outside == (goal.state in ("achieved", "not achieved")), goal
    assert states == set(STATES) - {"not known"}


def test_a_goal_that_is_achieved_is_rarely_missed_in_the_population() -> None:
    rng = np.random.default_rng(1)
    wrong = decided = 0
    for _ in range(1000):
        n, left = int(rng.integers(5, 40)), 0.24  # the share of many such rows: above the limit of .2
        before = rng.beta(8, 2, n)
        after = before * left * rng.lognormal(-0.125, 0.5, n)
        goal = forgetting_goal(BeforeAfter(results(before), results(after), None), 0.2)
        assert goal is not None
        wrong, decided = wrong + (goal.state == "achieved"), decided + (goal.state in ("achieved", "not achieved"))
    assert wrong / 1000 < 0.025 and decided > 100


def test_the_interval_widens_by_that_of_the_rows_never_seen() -> None:
    ends = (0.25, 0.35)
    fixed = residual(0.8, 0.3, ends, limit=0.2, rows=9, reference=0.2)
    wider = residual(0.8, 0.3, ends, limit=0.2, rows=9, reference=0.2, unseen_R=np.array([0.1, 0.3, 0.1, 0.3]))
    assert fixed is not None and wider is not None
    assert (fixed.low, fixed.high) == pytest.approx((1 / 12, 1 / 4), rel=1e-12)
    assert wider.low < fixed.low < fixed.value == wider.value < fixed.high < wider.high
    assert residual(0.24, 0.2, ends, limit=0.2, rows=9, reference=0.2) is None  # .04 above the reference


def test_one_row_has_no_interval_and_rows_without_a_number_do_not_count() -> None:
    one = forgetting_goal(BeforeAfter(results(np.array([0.9])), results(np.array([0.01])), None), 0.2)
    assert one is not None and one.state == "achieved by the point value" and "1 row has no interval" in one.remark
    before, after = np.array([0.9, 0.8, 0.9]), np.array([0.1, NAN, 0.12])
    goal = forgetting_goal(BeforeAfter(results(before), results(after), None, (0, 1, 2)), 0.2)
    assert goal is not None and goal.rows == 2
    assert (goal.low * np.mean(before), goal.high * np.mean(before)) == pytest.approx(
        interval_alone(np.array([0.1, 0.12])), rel=1e-9
    )


def test_kept_needs_the_interval_of_general_ability_too() -> None:
    def ability(after: int, low: float, high: float) -> GoalValue:
        return ability_goal(AbilityChange("all items", 123, 100, after, low, high))

    assert _kept_word(KEPT, ability(99, 0.96, 1.01)) == KEPT
    assert _kept_word(KEPT, ability(97, 0.93, 1.00)) == UNDECIDED
    assert _kept_word(KEPT, ability(90, 0.84, 0.96)) == UNDECIDED
    assert _kept_word(UNDECIDED, ability(80, 0.75, 0.85)) == "damaged"
    assert _kept_word("broken", ability(99, 0.96, 1.01)) == "broken"
    assert ability(97, 0.93, 1.00).remark == "; the 95 % interval of 123 items includes the limit"


def test_a_share_near_a_limit_is_shown_on_its_side() -> None:
    assert [share_text(x, 0.2) for x in (0.196, 0.2, 0.2001, 0.25)] == ["19.6%", "20%", "20.01%", "25%"]
    assert share_text(0.899, 0.9) == "89.9%"
    assert "(97% [94.7%, 100%])" in str(AbilityChange("all items", 123, 100, 97, 0.947, 1.0))


@pytest.mark.parametrize(
    ("utility", "passes", "repeated", "reason"),
    [
        (0.95, True, 0, ""),
        (0.89, True, 0, "its utility is under the minimum of 90%"),
        (NAN, True, 0, "its utility is no number"),
        (0.95, False, 0, "no checkpoint of the search meets the minimum utility"),
        (0.95, True, 9, "gibberish: 90% of its texts are empty or repeat themselves (0% before)"),
    ],
)
def test_the_reason_of_a_model_that_is_not_written(utility: float, passes: bool, repeated: int, reason: str) -> None:
    def side(value: float, bad: int) -> dict[str, MetricResult]:
        texts = {i: {"empty": 0.0, "repetition_4": float(i < bad)} for i in range(10)}
        return {UTILITY: MetricResult(value), "general_fluency": MetricResult(0.0, per_row=texts)}

    erasing, winner = Mock(), Mock(passes=passes)
    erasing.request.floor = 0.9
    assert why_broken(erasing, BeforeAfter(side(1.0, 0), side(utility, repeated), None), winner) == reason


def test_the_interval_of_a_probability_ends_at_0_and_1() -> None:
    line = AuditLine("same_rows", 0.653, -0.019, 1.29, audit="relearn", label="after", seed=0)
    assert (_bounded(line).low, _bounded(line).value, _bounded(line).high) == (0.0, 0.653, 1.0)
    assert math.isnan(_bounded(AuditLine("same_rows", 0.6, audit="relearn", label="after", seed=0)).low)
