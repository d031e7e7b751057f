"""Areas, recovery and AUCs against numbers derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.audits.distinguishability import stands_out
from expunge.audits.position import (
    Recovery,
    area,
    auc,
    auc_difference,
    auc_draws,
    percentiles,
    recovery,
    steps_to,
    two_sided,
)
from expunge.metrics.aggregate import RESAMPLES, SEED


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


def test_drawn_aucs_are_those_of_the_drawn_rows() -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.integers(0, 9, 7).astype(float), rng.integers(0, 9, 5).astype(float)) for _ in range(2)]
    aucs, same = auc_draws(pairs), np.random.default_rng(SEED)
    for i in range(20):
        rows, others = same.integers(0, 7, 7), same.integers(0, 5, 5)
        assert aucs[i] == pytest.approx([auc(a[rows], b[others]) for a, b in pairs])
    equal, apart = (np.ones(4), np.ones(4)), (np.ones(4), np.zeros(4))
    assert auc_draws([equal, apart]).tolist() == [[0.5, 1.0]] * RESAMPLES


def test_very_many_rows_and_infinite_scores_have_numbers() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(0, 1, 200_000)  # a table of all pairs would have 40 billion cells
    assert auc(many + 1, many) == pytest.approx(0.76, abs=0.005)
    assert percentiles(many[:2], many).shape == (2,)
    infinite = np.array([math.inf, 0.0])
    assert auc(infinite, infinite) == 0.5
    assert auc_difference((infinite, infinite), (infinite, infinite)) == (0.0, 0.0)
    finding = stands_out("x", (np.full(8, math.inf), np.zeros(8)), (np.arange(8.0), np.arange(8.0)), margin=0.1)
    assert finding.verdict == "trace" and finding.value == 1.0
