"""Two-sided comparison of a model with its retain model: difference, interval, tests and word of one finding.

Every verdict and every figure reads the same `AuditFinding`, so they cannot contradict each other. The unit of
observation is the row: the same rows are read by the model and both controls, and the differences are paired.

Tests:
    difference   two-sided paired t test, by the 95 % interval of the mean difference
    equivalence  two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15): the interval lies within the
                 margin on both sides. It uses the 95 % interval, so each one-sided test has the level 2.5 %.
    single rows  sign test of the rows that differ by more than half of the gap between the controls (Dixon and Mood
                 1946). A mean hides a few known rows among many suppressed ones; this test does not.
    several      Holm's step-down correction (Holm 1979, Scand. J. Statist. 6)
Numbers without rows in pairs (an AUC) have a percentile bootstrap interval (Efron 1979, Ann. Statist. 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.aggregate import RESAMPLES, SEED

NO_TRACE, TRACE, KNOWN, OVER = "no trace", "trace", "known", "over-forgotten"
UNDECIDED, NOT_MEASURABLE = "undecided", "not measurable"
WORDS = (NO_TRACE, UNDECIDED, OVER, TRACE, KNOWN, NOT_MEASURABLE)
SEVERITY: Mapping[str, int] = {NOT_MEASURABLE: -1, NO_TRACE: 0, UNDECIDED: 1, OVER: 2, TRACE: 3, KNOWN: 4}
MEANINGS: Mapping[str, str] = {
    NO_TRACE: "the interval contains the retain model's value and lies within the margin",
    TRACE: "more is left than in the retain model",
    KNOWN: "as a trace, and most of the target model's knowledge is left",
    OVER: "below the retain model, so it is distinguishable on the other side; this is no better",
    UNDECIDED: "the interval is too wide; more rows are needed",
    NOT_MEASURABLE: "a control is missing or does not fit; the note gives the reason",
}
LEVEL = 0.05
MARGIN = 0.1  # largest distance from the retain model that counts as equal, as a share of the controls' gap
NEAR_FULL = 0.8  # position from which the model knows the rows
LEAST_ROWS = 6  # with fewer rows even a sign test without exception has p > 0.05
ROW_LEVEL = LEVEL / 4  # of the sign test of single rows, one-sided
MANY = 1_000_000  # more rows than this are not worth a number
SAME_CONTROLS = "the controls do not differ: this cannot separate the target model from the retain model"
LEAST_GAP = 0.01  # of the controls; all rows may share the direction of a smaller one, and it still means nothing
SMALL_GAP = "the target model is only {gap:.1g} above the retain model: it hardly knows the rows, so nothing is judged"
WRONG_ORDER = "the target model scores below the retain model: this does not measure knowledge here"
NOT_FINITE = "the numbers are not finite, so they cannot be compared"


@dataclass(frozen=True)
class AuditFinding:
    """One number of a model compared with its controls.

    value, retain, full: the means of the model and its controls over the same rows. low, high: the retain model's mean
    plus the 95 % interval of the difference, so the interval contains `retain` exactly if the difference may be 0.
    position: 0 is the retain model, 1 the target model, with the same interval. margin: largest difference that counts
    as equal. p_value: of the two-sided test of the verdict; p_equal: of equivalence. effect: mean difference in
    standard deviations of the rows' differences. above, below: shares of single rows that differ by more than half of
    the gap. rows_needed: rows that would decide, if undecided. details: further numbers. NaN: there is none, see
    `note`.
    """

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    retain: float = math.nan
    full: float = math.nan
    position: float = math.nan
    position_low: float = math.nan
    position_high: float = math.nan
    verdict: str = NOT_MEASURABLE
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    margin: float = math.nan
    p_value: float = math.nan
    p_equal: float = math.nan
    effect: float = math.nan
    above: float = math.nan
    below: float = math.nan
    rows_needed: float = math.nan


def draws(n_rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the rows of each bootstrap draw, shape (RESAMPLES, n_rows)."""
    return np.random.default_rng(SEED).integers(0, n_rows, size=(RESAMPLES, n_rows))


def percentile_interval(values_D: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a number over the draws."""
    low, high = np.quantile(values_D, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def mean_interval(values_R: Floats) -> tuple[float, float]:
    """Return the 95 % t interval of a mean over rows, shape (R,); infinite for a single row."""
    from scipy.special import stdtrit

    n = len(values_R)
    if n < 2:
        return -math.inf, math.inf
    mean = float(values_R.mean())
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * float(values_R.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def differ(retain_R: Floats, full_R: Floats) -> bool:
    """Return whether the target model's mean is above the retain model's: the interval of the difference is above 0."""
    gaps = (full_R - retain_R)[~np.isnan(full_R - retain_R)]
    return len(gaps) > 1 and mean_interval(gaps)[0] > 0


def compare_to_controls(
    name: str,
    sides: tuple[Floats, Floats, Floats],
    *,
    margin: float = MARGIN,
    known: float = NEAR_FULL,
    note: str = "",
    details: Mapping[str, float] | None = None,
) -> AuditFinding:
    """Compare a number per row of the model with those of its controls. Larger numbers mean more knowledge.

    Args:
        name: Name of the finding.
        sides: The numbers of the model, the retain and the target model, each of shape (R,). A row without a finite
            number on one side is left out; the note counts such rows.
        margin: Largest distance from the retain model that counts as equal, as a share of the controls' gap.
        known: Position from which the model knows the rows.
        note: Further remark.
        details: Further numbers.
    """
    there = np.isfinite(np.stack(sides)).all(axis=0)
    model, retain, full = (side[there] for side in sides)
    n, more = len(model), dict(details or {})
    if n >= 2:
        note = _joined(note, _left_out(len(sides[0]) - n))
    means = [float(side.mean()) if n else math.nan for side in (model, retain, full)]
    if n < 2:
        why = f"only {n} {'row has' if n == 1 else 'rows have'} a value in the model and both controls"
        return AuditFinding(name, *_value(means), note=_joined(why, note), details=more, rows=n)
    gaps = full - retain
    low, high = mean_interval(gaps)
    if gaps.mean() <= 0 or (low <= 0 and n >= LEAST_ROWS):  # with fewer rows the verdict is undecided anyway
        why = WRONG_ORDER if high < 0 else SAME_CONTROLS
        return AuditFinding(name, *_value(means), note=_joined(why, note), details=more, rows=n)
    differences, gap = model - retain, float(gaps.mean())
    if gap < LEAST_GAP:
        why = SMALL_GAP.format(gap=gap)
        return AuditFinding(name, *_value(means), note=_joined(why, note), details=more, rows=n)
    above, below = (int((sign * differences > gap / 2).sum()) for sign in (1, -1))
    spread = float(differences.std(ddof=1))
    finding = compare_interval(
        name, means, mean_interval(differences), gap=gap, rows=n, margin=margin, known=known,
        signs=(above, below), note=note, details=more,
    )  # fmt: skip
    difference = float(differences.mean())
    effect = difference / spread if spread > 0 else math.copysign(math.inf, difference) if difference else 0.0
    p_value, p_equal = _p_values(difference, spread / math.sqrt(n), finding.margin, n - 1)
    if finding.verdict in (TRACE, OVER) and finding.low <= finding.retain <= finding.high:  # by the test of single rows
        p_value = min(1.0, 2 * _sign_test(above if finding.verdict == TRACE else below, above + below))
    return replace(finding, effect=effect, above=above / n, below=below / n, p_value=p_value, p_equal=p_equal)


def share_interval(k: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of k in n rows (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    from scipy.special import ndtri

    z = float(ndtri(1 - LEVEL / 2))
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return (middle - half if k else 0.0), (middle + half if k < n else 1.0)


def interval_alone(values_R: Floats) -> tuple[float, float]:
    """Return the interval of a mean: Wilson's if each row has 0 or 1, else a t interval.

    If all rows are in [0, 1], as probabilities are, the interval is too. Use `mean_interval` for differences.
    """
    n = len(values_R)
    if n and np.isin(values_R, (0.0, 1.0)).all():
        return share_interval(int(values_R.sum()), n)
    if n < 2:
        return math.nan, math.nan
    low, high = mean_interval(values_R)
    if values_R.min() >= 0 and values_R.max() <= 1:
        return max(low, 0.0), min(high, 1.0)
    return low, high


def without_comparison(
    name: str, sides: Sequence[Floats | None], note: str, *, details: Mapping[str, float] | None = None
) -> AuditFinding:
    """Return the finding of a number per row that cannot be compared: the model's mean with its 95 % interval.

    Args:
        name: Name of the finding.
        sides: The numbers of the model, the retain and the target model, each of shape (R,); None for a missing model.
        note: The reason why there is no comparison.
        details: Further numbers.
    """
    present = [np.empty(0) if side is None else side[~np.isnan(side)] for side in sides]
    value, retain, full = (float(side.mean()) if len(side) else math.nan for side in present)
    low, high = interval_alone(present[0])
    more = dict(details or {})
    return AuditFinding(name, value, low, high, retain, full, note=note, details=more, rows=len(present[0]))


def compare_interval(
    name: str,
    means: Sequence[float],
    ends: tuple[float, float],
    *,
    gap: float,
    rows: int,
    margin: float = MARGIN,
    known: float = NEAR_FULL,
    signs: tuple[int, int] = (0, 0),
    note: str = "",
    details: Mapping[str, float] | None = None,
) -> AuditFinding:
    """Return the finding of a difference with its interval `ends`, whose origin is the retain model's value.

    Args:
        name: Name of the finding.
        means: The values of the model, the retain and the target model (NaN: none).
        ends: The 95 % interval of the difference from the retain model.
        gap: The difference that has the position 1.
        rows: Number of rows.
        margin: Largest distance that counts as equal, as a share of the gap.
        known: Position from which the model knows the rows.
        signs: Numbers of rows far above and far below the retain model.
        note: Further remark.
        details: Further numbers.
    """
    model, retain, full = means
    low, high = ends
    difference, limit = model - retain, margin * gap
    if math.isnan(difference + gap + (high - low)):  # as of infinite values: no word follows from them
        return AuditFinding(
            name, *_value(means), note=_joined(NOT_FINITE, note), details=dict(details or {}), rows=rows
        )
    word, remark, needed = _decide(difference / gap, (low / gap, high / gap), rows, margin, known, signs)
    # Without a distribution of rows, the standard error follows from the width of the interval.
    p_value, p_equal = _p_values(difference, (high - low) / 3.92, limit, math.inf)
    return AuditFinding(
        name, model, retain + low, retain + high, retain, full, difference / gap, low / gap, high / gap, word,
        _joined(remark, note), dict(details or {}), rows, limit, p_value, p_equal, rows_needed=needed,
    )  # fmt: skip


def _value(means: Sequence[float]) -> tuple[float, float, float, float, float]:
    return means[0], math.nan, math.nan, means[1], means[2]


def _left_out(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''} without a finite number left out" if count else ""


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _decide(
    at: float, ends: tuple[float, float], rows: int, margin: float, known: float, signs: tuple[int, int]
) -> tuple[str, str, float]:
    """Return the word, a remark and the rows that would decide, from a position and its interval."""
    low, high = ends
    if rows < LEAST_ROWS:
        return UNDECIDED, f"{rows} rows; a verdict needs at least {LEAST_ROWS}", float(LEAST_ROWS)
    many_above, many_below = (_sign_test(k, sum(signs)) <= ROW_LEVEL for k in signs)
    if low > 0 or many_above:
        if low > 0 and at >= known:
            return KNOWN, "", math.nan
        remark = "" if low > 0 else f"in single rows: {signs[0]} of {rows} lie far above the retain model"
        return TRACE, remark or ("smaller than the margin" if high <= margin else ""), math.nan
    if high < 0 or many_below:
        remark = "" if high < 0 else f"in single rows: {signs[1]} of {rows} lie far below the retain model"
        return OVER, remark or "suppressed below the retain model", math.nan
    if -margin <= low and high <= margin:
        return NO_TRACE, "", math.nan
    # Fewest rows that would show either a difference or equivalence, if the means stay as they are.
    half, room = (high - low) / 2, max(margin - abs(at), abs(at))
    ratio = half / room if room > 0 else math.inf
    needed = math.ceil(rows * ratio**2) + 1 if ratio <= MANY else math.inf
    words = f"about {needed} rows" if needed <= MANY else "more than a million rows"
    return UNDECIDED, f"the interval is wider than the margin of {margin:.0%}; {words} would decide", float(needed)


def _sign_test(k: int, n: int) -> float:
    """Return P(X >= k) of a binomial with n trials and chance 1/2. Logarithms, because 2^1024 is no float."""
    if k == 0:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    return min(1.0, math.fsum(math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(k, n + 1)))


def _p_values(difference: float, error: float, margin: float, freedom: float) -> tuple[float, float]:
    """Return the p-values of the two-sided test against 0, and of the two one-sided tests against the margin."""
    if not error > 0:
        return (1.0 if difference == 0 else 0.0), (0.0 if abs(difference) < margin else 1.0)
    from scipy.special import ndtr, stdtr

    def below(x: float) -> float:
        return float(ndtr(x) if math.isinf(freedom) else stdtr(freedom, x))

    p_equal = max(below((difference - margin) / error), below(-(difference + margin) / error))
    return 2 * below(-abs(difference) / error), p_equal


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction for several tests, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        out[i] = highest
    return out


def worst(findings: Sequence[AuditFinding]) -> AuditFinding:
    """Return the finding with the most remaining knowledge; the first of equal ones."""
    return max(findings, key=lambda finding: SEVERITY.get(finding.verdict, -1))


def combined_word(findings: Sequence[AuditFinding]) -> str:
    """Return one word for several findings on a model, with Holm's correction.

    A difference counts if its own verdict is one and its corrected p-value is at most 0.05. "No trace" needs every
    measurable finding to be equivalent; an intersection-union test needs no correction (Berger 1982, Technometrics 24).
    """
    there = [f for f in findings if f.verdict != NOT_MEASURABLE]
    if not there:
        return NOT_MEASURABLE
    if len(there) == 1:
        return there[0].verdict
    corrected = holm([f.p_value if math.isfinite(f.p_value) else 1.0 for f in there])
    words = [
        f.verdict for f, p in zip(there, corrected, strict=True) if p <= LEVEL and f.verdict in (OVER, TRACE, KNOWN)
    ]
    if words:
        return max(words, key=lambda word: SEVERITY[word])
    return NO_TRACE if all(f.verdict == NO_TRACE for f in there) else UNDECIDED
