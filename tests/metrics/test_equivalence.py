"""Two-sided verdicts: the words by hand, and over simulated models the rates of errors and no contradictions."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from expunge.core.records import Floats
from expunge.metrics import equivalence
from expunge.metrics.equivalence import (
    KNOWN,
    LEAST_ROWS,
    NO_TRACE,
    NOT_MEASURABLE,
    OVER,
    TRACE,
    UNDECIDED,
    WORDS,
    AuditFinding,
    combined_word,
    compare_interval,
    compare_to_controls,
    differ,
    holm,
    share_interval,
    without_comparison,
)


def simulated(rows: int, shift: float, noise: float, seed: int) -> tuple[Floats, Floats, Floats]:
    """A retain model near .15, a target model near .85, and a model `shift` of the gap above the retain model."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.05, rows)
    model, retain = (0.15 + hard + rng.normal(0, noise, rows) for _ in range(2))
    return model + 0.7 * shift, retain, 0.85 + hard


def words(count: int, rows: int, shift: float, noise: float = 0.1) -> Counter[str]:
    return Counter(compare_to_controls("x", simulated(rows, shift, noise, k)).verdict for k in range(count))


@pytest.mark.parametrize(
    ("at", "ends", "rows", "word"),
    [
        (0.0, (-0.05, 0.05), 20, NO_TRACE),
        (0.05, (-0.02, 0.12), 20, UNDECIDED),  # contains 0, but is not within the margin: no proof of equality
        (0.05, (0.01, 0.09), 20, TRACE),  # within the margin, but not 0
        (0.3, (0.1, 0.5), 20, TRACE),
        (0.9, (0.7, 1.1), 20, KNOWN),
        (0.5, (-0.1, 1.1), 20, UNDECIDED),
        (-0.3, (-0.5, -0.1), 20, OVER),
        (-0.05, (-0.15, 0.05), 20, UNDECIDED),
        (0.9, (0.7, 1.1), LEAST_ROWS - 1, UNDECIDED),
    ],
)
def test_the_word_follows_from_the_interval(at: float, ends: tuple[float, float], rows: int, word: str) -> None:
    result = compare_interval("x", (0.2 + 0.5 * at, 0.2, 0.7), (0.5 * ends[0], 0.5 * ends[1]), gap=0.5, rows=rows)
    assert result.verdict == word
    assert (result.position, result.position_low, result.position_high) == pytest.approx((at, *ends))
    assert (result.low, result.high, result.margin) == pytest.approx((0.2 + 0.5 * ends[0], 0.2 + 0.5 * ends[1], 0.05))


@pytest.mark.parametrize("shift", [-1.0, -0.3, -0.05, 0.0, 0.03, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("rows", [3, 8, 40, 400])
def test_a_verdict_never_contradicts_the_numbers_of_its_figure(shift: float, rows: int) -> None:
    for seed in range(20):
        f = compare_to_controls("x", simulated(rows, shift, 0.15, seed))
        inside = f.low <= f.retain <= f.high
        if f.verdict == NO_TRACE:
            assert inside and f.retain - f.margin <= f.low and f.high <= f.retain + f.margin and f.rows >= LEAST_ROWS
        elif f.verdict in (TRACE, KNOWN) and "single rows" not in f.note:
            assert f.low > f.retain and f.value > f.retain
        elif f.verdict == OVER and "single rows" not in f.note:
            assert f.high < f.retain and f.value < f.retain
        elif f.verdict == UNDECIDED and rows >= LEAST_ROWS:
            assert inside and f.rows_needed > rows
        assert f.position == pytest.approx((f.value - f.retain) / (f.full - f.retain))
        assert f.verdict in WORDS and f.low <= f.value <= f.high


def test_a_model_like_the_retain_model_rarely_has_a_trace_and_needs_rows_for_no_trace() -> None:
    few, many = words(400, 10, 0.0, 0.3), words(400, 400, 0.0)
    for result in (few, many):
        assert (result[TRACE] + result[KNOWN]) / 400 <= 0.05 and result[OVER] / 400 <= 0.05
    assert few[NO_TRACE] == 0 and few[UNDECIDED] / 400 > 0.9
    assert many[NO_TRACE] / 400 > 0.9


def test_a_model_beyond_the_margin_is_rarely_called_equal() -> None:
    assert words(300, 100, 0.1)[NO_TRACE] / 300 <= 0.05
    assert words(300, 100, -0.1)[NO_TRACE] / 300 <= 0.05
    assert words(100, 100, 0.5)[TRACE] == 100 and words(100, 100, 1.0)[KNOWN] == 100
    assert words(100, 100, -0.5)[OVER] == 100


def test_few_known_rows_among_suppressed_ones_are_a_trace() -> None:
    retain, full = np.full(60, 0.2), np.full(60, 0.9)
    model = np.where(np.arange(60) < 10, 0.9, 0.06)  # ten rows are known; the mean equals the retain model's
    finding = compare_to_controls("x", (model, retain, full))
    assert finding.verdict == TRACE and "in single rows: 10 of 60" in finding.note
    assert finding.value == pytest.approx(finding.retain) and finding.above == pytest.approx(1 / 6)
    assert finding.p_value == pytest.approx(2 / 2**10)  # ten rows above and none below
    equal = AuditFinding("y", verdict=NO_TRACE, p_value=0.6, rows=60)
    assert combined_word([finding, equal]) == TRACE


def test_controls_that_do_not_differ_or_lack_rows_give_a_reason() -> None:
    half = np.array([0.1, 0.9] * 4)
    same = compare_to_controls("x", (half, half, half[::-1]))
    assert same.verdict == NOT_MEASURABLE and "do not differ" in same.note and math.isnan(same.position)
    wrong = compare_to_controls("x", (np.ones(8), np.ones(8), np.zeros(8)))
    assert wrong.verdict == NOT_MEASURABLE and "below the retain model" in wrong.note
    nan = math.nan
    left = compare_to_controls("x", (np.array([0.5, nan]), np.zeros(2), np.ones(2)))
    assert left.verdict == NOT_MEASURABLE and "only 1 row has" in left.note and left.rows == 1
    assert differ(np.zeros(5), np.ones(5)) and not differ(np.ones(5), np.ones(5))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_row_without_a_finite_number_is_left_out_and_counted(value: float, side: int) -> None:
    sides = simulated(20, 0.5, 0.1, 0)
    rest = compare_to_controls("x", tuple(s[1:] for s in sides))  # type: ignore[arg-type]
    sides[side][0] = value
    finding = compare_to_controls("x", sides, note="as given")
    assert finding.note.endswith("as given; 1 row without a finite number left out")
    assert dataclasses.replace(finding, note="") == dataclasses.replace(rest, note="")


def test_numbers_that_are_not_finite_are_not_measurable() -> None:
    for means, ends in (((math.inf, 0.2, 0.7), (0.0, math.inf)), ((0.3, 0.2, 0.7), (math.nan, math.nan))):
        finding = compare_interval("x", means, ends, gap=math.nan, rows=20)
        assert finding.verdict == NOT_MEASURABLE and "not finite" in finding.note
    endless = compare_interval("x", (1e-200, 0.0, 1.0), (-1.0, 1.0), gap=1.0, rows=20, margin=0.0)
    assert endless.verdict == UNDECIDED and "more than a million rows" in endless.note


def test_p_values_and_effect_are_those_of_paired_t_tests() -> None:
    from scipy import stats

    model, retain, full = simulated(30, 0.05, 0.1, 3)
    finding = compare_to_controls("x", (model, retain, full))
    assert finding.p_value == pytest.approx(stats.ttest_rel(model, retain).pvalue)
    d = model - retain
    sides = (
        stats.ttest_1samp(d, finding.margin, alternative="less").pvalue,
        stats.ttest_1samp(d, -finding.margin, alternative="greater").pvalue,
    )
    assert finding.p_equal == pytest.approx(max(sides))
    assert finding.effect == pytest.approx(d.mean() / d.std(ddof=1))


def test_the_interval_of_a_share_is_wilsons() -> None:
    # (k + z^2/2) / (n + z^2) -+ z / (n + z^2) sqrt(k (n - k) / n + z^2/4), with z = 1.959963984540054
    assert share_interval(3, 5) == pytest.approx((0.230724281275957, 0.882379225767393), abs=1e-12)
    assert share_interval(0, 8) == (0.0, pytest.approx(3.8414588206941 / 11.8414588206941, abs=1e-12))
    assert share_interval(8, 8) == (pytest.approx(8 / 11.8414588206941, abs=1e-12), 1.0)


def test_a_number_without_a_comparison_has_its_interval_and_no_verdict() -> None:
    # mean 2, variance 1, t(0.975, 2 degrees) = 0.95 sqrt(2 / (1 - 0.95^2)); NaN rows are left out
    one = without_comparison("x", (np.array([1.0, 2.0, 3.0, np.nan]), None, np.array([4.0, 5.0])), "no control")
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    assert (one.value, one.low, one.high, one.full) == pytest.approx((2.0, 2 - half, 2 + half, 4.5), abs=1e-12)
    assert (one.verdict, one.note, one.rows) == ("not measurable", "no control", 3) and math.isnan(one.retain)
    share = without_comparison("x", (np.array([0.0, 1.0, 1.0, 1.0, 0.0]), None, None), "")
    assert (share.low, share.high) == share_interval(3, 5)
    probabilities = without_comparison("x", (np.array([0.02, 0.97]), None, None), "")
    assert (probabilities.low, probabilities.high) == (0.0, 1.0)  # not -5.5 to 6.5
    empty = without_comparison("x", (np.array([np.nan]), None, None), "")
    assert math.isnan(empty.value) and math.isnan(empty.low) and empty.rows == 0
    assert math.isnan(without_comparison("x", (np.array([0.3]), None, None), "").low)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .5: 4 x .01, 3 x .02, 2 x .03 (not below .06), .5
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []


def test_one_barely_significant_audit_of_many_does_not_decide() -> None:
    weak = AuditFinding("x", verdict=TRACE, p_value=0.03, rows=20)
    equal = AuditFinding("y", verdict=NO_TRACE, p_value=0.6, rows=20)
    assert combined_word([weak]) == TRACE
    assert combined_word([weak, *[equal] * 9]) == UNDECIDED
    assert combined_word([dataclasses.replace(weak, p_value=1e-6), *[equal] * 9]) == TRACE
    assert combined_word([equal, equal]) == NO_TRACE
    assert combined_word([equal, AuditFinding("z", verdict=UNDECIDED, p_value=0.2, rows=20)]) == UNDECIDED
    assert combined_word([equal, AuditFinding("z")]) == NO_TRACE  # what cannot be measured decides nothing
    assert combined_word([AuditFinding("z")]) == NOT_MEASURABLE


@pytest.mark.parametrize("rows", [1100, 5000])
def test_many_rows_have_a_verdict(rows: int) -> None:
    assert compare_to_controls("x", simulated(rows, 0.0, 0.01, 0)).verdict == NO_TRACE
    assert compare_to_controls("x", simulated(rows, 0.5, 0.01, 0)).verdict == TRACE


@pytest.mark.parametrize(
    ("k", "n"), [(0, 0), (0, 9), (9, 9), (6, 10), (40, 64), (520, 1000), (1100, 2100), (5000, 5000)]
)
def test_the_sign_test_is_the_tail_of_a_binomial(k: int, n: int) -> None:
    assert equivalence._sign_test(k, n) == pytest.approx(binom.sf(k - 1, n, 0.5), rel=1e-9, abs=1e-300)


def test_controls_that_hardly_differ_judge_nothing_although_all_rows_agree() -> None:
    retain = np.full(24, 0.00193)
    full = retain + 1e-5 + 1e-8 * np.arange(24)
    finding = compare_to_controls("p", (full, retain, full))
    assert finding.verdict == NOT_MEASURABLE and finding.value == full.mean()
    assert "only 1e-05 above the retain model" in finding.note and math.isnan(finding.position)
    assert compare_to_controls("p", (retain + 0.02, retain, retain + 0.02 + 1e-6 * np.arange(24))).verdict == "known"
