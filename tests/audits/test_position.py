"""Areas, recovery and AUCs against numbers derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.audits.position import (
    Recovery,
    area,
    auc,
    auc_difference,
    percentiles,
    recovery,
    steps_to,
    two_sided,
    wins,
    wins_differences,
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
    curve = recovery(model, retain, np.ones((4, 2)), (0, 1, 2, 4), 0.5)
    assert isinstance(curve, Recovery)
    assert (curve.steps, curve.low, curve.high) == pytest.approx((2.0, 2.0, 2.0))
    assert curve.retain_steps == math.inf
    assert isinstance(recovery(np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2)), (0, 1), 0.5), str)


def test_auc_counts_pairs_and_ties_half() -> None:
    # pairs: 2>1, 2=2, 0<1, 0<2 -> (1 + 1/2) / 4
    assert auc(np.array([2.0, 0.0]), np.array([1.0, 2.0])) == 0.375


def test_rows_pushed_too_far_stand_out_on_either_side() -> None:
    far, others = np.array([-5.0, 5.0]), np.array([-1.0, 0.0, 1.0])
    assert auc(far, others) == 0.5
    assert auc(two_sided(far, 0.0), two_sided(others, 0.0)) == 1.0
    assert auc_difference((far, others), (far, others)) == (0.0, 0.0)  # the same rows are drawn for both models


def test_percentiles_count_ties_half() -> None:
    ranks = percentiles(np.array([0.0, 2.0, 9.0, math.nan]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert ranks[:3].tolist() == [0.0, 0.375, 1.0]
    assert math.isnan(ranks[3])


def test_wins_and_their_differences_by_hand() -> None:
    won = wins(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    assert won.tolist() == [[1.0, 0.5], [1.0, 1.0]] and won.mean() == 0.875
    full, retain = np.ones((4, 4)), np.full((4, 4), 0.5)
    assert wins_differences(np.full((4, 4), 0.75), retain, full) == ((0.25, 0.25), (0.5, 0.5))
