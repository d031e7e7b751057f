"""The time limit of a run, by a clock that is moved by hand."""

from __future__ import annotations

import math

import pytest

from expunge.pipelines.budget import Budget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_kept_back_is_two_saves_the_next_step_and_a_margin() -> None:
    clock = Clock()
    budget = Budget(100.0, clock=clock)
    clock.now += 4
    budget.saved(4.0)
    budget.begin()
    clock.now += 30  # the first step holds what is done once
    budget.stepped()
    assert (budget.reserve_s, budget.over) == (2 * 4 + 30 + 5, False)  # 66 s are left of 100
    for seconds in (3.0, 1.0):  # the longest of the later ones counts
        clock.now += seconds
        budget.stepped()
    assert budget.reserve_s == 2 * 4 + 2 * 3 + 5
    assert (budget.used_s, budget.left_s, budget.over) == (38.0, 62.0, False)
    clock.now += 62 - 19
    assert budget.over


def test_a_save_is_no_part_of_a_step() -> None:
    clock = Clock()
    budget = Budget(1000.0, clock=clock)
    budget.begin()
    clock.now += 1
    budget.stepped()
    clock.now += 7
    budget.saved(7.0)
    clock.now += 2
    budget.stepped()
    assert budget.reserve_s == 2 * 7 + 2 * 2 + 50


def test_without_a_limit_nothing_is_ever_over() -> None:
    budget = Budget(None)
    budget.begin()
    budget.stepped()
    assert (budget.left_s, budget.margin_s, budget.over) == (math.inf, 0.0, False)
    assert budget.part(2, 5.0).limit_s == math.inf


def test_the_margin_is_a_minute_at_most() -> None:
    assert Budget(3600.0).margin_s == 60.0
    assert Budget(20.0).margin_s == 1.0


def test_parts_share_what_is_left() -> None:
    clock = Clock()
    whole = Budget(100.0, clock=clock)
    clock.now += 5
    first = whole.part(2, keep_s=10.0)
    assert first.limit_s == pytest.approx((95 - 5 - 10) / 2)
    clock.now += first.limit_s
    assert whole.part(1, keep_s=10.0).limit_s == pytest.approx(40.0)
    clock.now += 100
    assert whole.part(1).limit_s == 0.0


def test_the_time_of_earlier_calls_counts() -> None:
    clock = Clock()
    budget = Budget(100.0, before_s=40.0, clock=clock)
    clock.now += 10
    assert (budget.used_s, budget.left_s) == (50.0, 50.0)
    clock.now += 60
    assert budget.left_s == -10.0
