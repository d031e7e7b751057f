"""Positions, verdicts and recovery against numbers derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.audits.verdict import (
    FORGOTTEN,
    KNOWN,
    MISSING,
    OPEN,
    TRACES,
    ControlPosition,
    Recovery,
    area,
    auc,
    auc_difference,
    percentiles,
    position,
    recovery,
    steps_to,
    two_sided,
    verdict,
)


def test_the_controls_are_at_0_and_1_exactly() -> None:
    retain, full = np.array([0.1, 0.3, 0.2]), np.array([0.9, 0.6, 0.7])
    assert position(retain, retain, full) == ControlPosition(0.0, 0.0, 0.0)
    assert position(full, retain, full) == ControlPosition(1.0, 1.0, 1.0)


def test_a_model_halfway_in_every_row_has_an_interval_of_no_width() -> None:
    retain, full = np.array([0.0, 0.2]), np.array([1.0, 0.6])
    made = position((retain + full) / 2, retain, full)
    assert (made.value, made.low, made.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)


def test_the_position_is_a_ratio_of_means_and_its_interval_spans_the_rows() -> None:
    # two rows, controls 0 and 1, model 0 and 1: the mean is 1/2; a draw of two rows gives 0, 1/2 or 1
    made = position(np.array([0.0, 1.0]), np.zeros(2), np.ones(2))
    assert (made.value, made.low, made.high) == (0.5, 0.0, 1.0)


def test_rows_that_one_of_the_three_lacks_leave() -> None:
    nan = math.nan
    made = position(np.array([0.5, nan, 0.5, 9.0]), np.array([0.0, 0.0, 0.0, nan]), np.ones(4))
    assert made.value == 0.5
    assert "only 1 rows" in str(position(np.array([0.5, nan]), np.zeros(2), np.ones(2)).reason)


def test_controls_that_do_not_differ_give_no_position_but_a_reason() -> None:
    same = position(np.array([0.4, 0.6]), np.array([0.1, 0.9]), np.array([0.9, 0.1]))
    assert math.isnan(same.value) and "do not differ" in str(same.reason)
    wrong = position(np.ones(3), np.ones(3), np.zeros(3))
    assert math.isnan(wrong.value) and "below the retain model" in str(wrong.reason)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.2, 0.05, FORGOTTEN),
        (0.1, 0.4, FORGOTTEN),  # within the margin
        (-0.9, -0.5, FORGOTTEN),
        (0.11, 0.4, TRACES),
        (0.3, 0.9, TRACES),
        (0.5, 0.9, KNOWN),
        (-0.1, 0.5, OPEN),  # a wide interval proves nothing
    ],
)
def test_the_verdict_is_read_off_the_ends_of_the_interval(low: float, high: float, said: str) -> None:
    assert verdict(ControlPosition((low + high) / 2, low, high), margin=0.1, known=0.5)[0] == said


def test_what_has_no_position_is_missing_and_a_model_far_below_is_remarked() -> None:
    assert verdict(ControlPosition(reason="why"), margin=0.1, known=0.5) == (MISSING, "why")
    assert verdict(ControlPosition(-0.5, -0.9, -0.2), margin=0.1, known=0.5) == (
        FORGOTTEN,
        "suppressed below the retain model",
    )


def test_the_area_is_the_mean_height_of_the_trapezoids() -> None:
    # heights 0, 1, 1 at steps 0, 1, 3: (1/2 + 2) / 3
    assert area(np.array([[0.0], [1.0], [1.0]]), (0, 1, 3)) == pytest.approx([2.5 / 3], rel=1e-15)


def test_a_level_is_reached_between_points() -> None:
    curve = np.array([0.2, 0.2, 0.6, 0.8])
    assert steps_to(curve, (0, 1, 2, 4), 0.4) == pytest.approx(1.5)
    assert steps_to(curve, (0, 1, 2, 4), 0.7) == pytest.approx(3.0)
    assert steps_to(curve, (0, 1, 2, 4), 0.1) == 0.0
    assert steps_to(curve, (0, 1, 2, 4), 0.9) == math.inf


def test_recovery_of_half_of_what_was_lost() -> None:
    # it starts at 0.2, the full model at 1: half back is 0.6, at step 2; the retain model is at 0.4 by step 4
    model = np.repeat([[0.2], [0.3], [0.6], [0.8]], 2, axis=1)
    retain = np.repeat([[0.0], [0.1], [0.2], [0.4]], 2, axis=1)
    made = recovery(model, retain, np.ones((4, 2)), (0, 1, 2, 4), 0.5)
    assert isinstance(made, Recovery)
    assert (made.steps, made.low, made.high) == pytest.approx((2.0, 2.0, 2.0))
    assert made.retain_steps == math.inf
    assert isinstance(recovery(np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2)), (0, 1), 0.5), str)


def test_auc_counts_pairs_and_ties_half() -> None:
    # pairs: 2>1, 2=2, 0<1, 0<2 -> (1 + 1/2) / 4
    assert auc(np.array([2.0, 0.0]), np.array([1.0, 2.0])) == 0.375


def test_rows_pushed_too_far_stand_out_on_either_side() -> None:
    far, others = np.array([-5.0, 5.0]), np.array([-1.0, 0.0, 1.0])
    assert auc(far, others) == 0.5
    assert auc(two_sided(far, 0.0), two_sided(others, 0.0)) == 1.0
    mine, gap = auc_difference((far, others), (far, others))
    assert mine == (0.5, 0.5) or mine[0] < 0.5 < mine[1]
    assert gap == (0.0, 0.0)  # the same rows are drawn for both models


def test_percentiles_count_ties_half() -> None:
    made = percentiles(np.array([0.0, 2.0, 9.0, math.nan]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert made[:3].tolist() == [0.0, 0.375, 1.0]
    assert math.isnan(made[3])
