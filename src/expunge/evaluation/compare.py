"""Compare two evaluations example by example: paired differences, their intervals and permutation p-values."""

from __future__ import annotations

import functools
import html
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.core.errors import ConfigError, as_list, kind_of, nearest
from expunge.core.records import Floats
from expunge.evaluation.result import EvalResult, check_examples, other_measurement
from expunge.metrics.aggregate import (
    PairedRows,
    bootstrap_interval,
    interval_around,
    paired_rows,
)
from expunge.metrics.api import MetricResult, Parts, shared_statistic
from expunge.metrics.equivalence import holm

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 10_000  # random sign flips of the differences
EXACT = 13  # maximum number of examples for which all 2^n sign flips are computed
CELLS = 4_000_000  # signs drawn at once: bounds the memory
KEPT = 8_000_000  # signs that are kept for the next test of as many rows: 64 MB


@dataclass(frozen=True)
class PairedDifference:
    """The difference of one metric between two models."""

    metric: str
    """The name of the metric."""
    a: float
    """The value of the first model."""
    b: float
    """The value of the second model."""
    difference: float
    """b - a; over the examples that both models have, if the metric is a mean over examples, or of such means."""
    ci_low: float
    """The 2.5th percentile of the difference over bootstrap draws of examples; NaN if it is no such mean."""
    ci_high: float
    """The 97.5th percentile."""
    p: float
    """The two-sided p-value of the paired permutation test (examples change sides); NaN if it is no such mean."""
    n: int
    """The number of examples that both models have a number for."""
    note: str = ""
    """The reason if there is no paired comparison."""
    p_holm: float = math.nan
    """The p-value after Holm's correction for all metrics that are compared; NaN without one."""


class Comparison(Mapping[str, PairedDifference]):
    """The paired differences of two models by metric name.

    Attributes:
        notes: One line for each thing other than the model in which the two measurements differ, such as the template.
    """

    def __init__(self, differences: Sequence[PairedDifference], notes: Sequence[str] = ()) -> None:
        self._differences = {d.metric: d for d in differences}
        self.notes = tuple(notes)

    def __getitem__(self, name: str) -> PairedDifference:
        if name not in self._differences:
            raise KeyError(f"no metric named {name!r}{nearest(name, self._differences)}")
        return self._differences[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._differences)

    def __len__(self) -> int:
        return len(self._differences)

    def to_pandas(self) -> pd.DataFrame:
        """Return one line per metric, with the fields of PairedDifference as columns."""
        import pandas as pd

        columns = list(PairedDifference.__dataclass_fields__)
        return pd.DataFrame([asdict(d) for d in self.values()], columns=columns).set_index("metric")

    def __repr__(self) -> str:
        lines = [f"  {d.metric}: {_shown(d.a)} -> {_shown(d.b)}{_evidence(d)}" for d in self.values()]
        return "\n".join(["Comparison(b - a)", *lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th>{name}</th>" for name in ("metric", "a", "b", "b - a", "95 % interval", "p", "p (Holm)", "n")
        )
        body = []
        for d in self.values():
            interval = "" if math.isnan(d.ci_low) else f"[{_shown(d.ci_low)}, {_shown(d.ci_high)}]"
            p, holm_p = ("" if math.isnan(v) else _shown(v) for v in (d.p, d.p_holm))
            cells = (d.metric, _shown(d.a), _shown(d.b), _shown(d.difference), interval, p, holm_p, str(d.n))
            body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        notes = "".join(f"<p>note: {html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{notes}"


def compare(
    a: EvalResult | Mapping[str, MetricResult],
    b: EvalResult | Mapping[str, MetricResult],
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same examples.

    Each metric that is a mean over examples is compared pairwise, over the examples that have a number in both. The
    comparison has the mean of b - a and its 95 % percentile bootstrap interval over examples. Its p-value is that of a
    two-sided permutation test that flips the signs of the differences. It reads all sign flips up to 13 examples, else
    10,000 random ones. A mean of such means (model utility) is computed again over the same draws of examples, and over
    sides changed at random. All parts of an example stay together. Other metrics (an AUC) have the difference alone,
    and a `note`.

    Args:
        a: The first evaluation, an EvalResult or results by metric name.
        b: The second one.
        metrics: The names to compare. None: all that both have.
        seed: The seed of the random sign flips.

    Returns:
        The differences by metric name. `.to_pandas()` gives a table; `p_holm` is corrected for the number of metrics.
        `.notes` names a template or tokenizer in which the two differ.

    Raises:
        ConfigError: If a metric is not in both, if they share none, or if the two measured other examples.
    """
    for name, of in (("a", a), ("b", b)):
        if not isinstance(of, Mapping):
            raise ConfigError(f"compare: {name}: expected an EvalResult, got {kind_of(of)}")
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"compare: seed: must be a whole number of at least 0, got {seed!r}")
    mine, theirs = (of.results if isinstance(of, EvalResult) else dict(of) for of in (a, b))
    for side, results in (("a", mine), ("b", theirs)):
        for metric, result in results.items():
            if not isinstance(result, MetricResult):
                raise ConfigError(
                    f"compare: {side}[{metric!r}]: expected a MetricResult, got {kind_of(result)}; pass the EvalResult "
                    "itself"
                )
    if isinstance(a, EvalResult) and isinstance(b, EvalResult):
        check_examples(a.meta.get("rows"), b, "compare")
    shared = [name for name in mine if name in theirs]
    for name in as_list(metrics, "compare: metrics") if metrics is not None else ():
        if name not in shared:
            raise ConfigError(f"compare: metrics: {name!r} is not in both results{nearest(name, shared)}")
    if not shared:
        raise ConfigError("compare: the two results have no metric in common")
    differences = corrected([_paired(name, mine, theirs, seed) for name in metrics or shared])
    return Comparison(differences, other_measurement(getattr(a, "meta", {}), b, "a and b"))


def corrected(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return the differences with p-values corrected for all of them together (Holm 1979)."""
    tested = [d.p for d in differences if math.isfinite(d.p)]
    values = iter(holm(tested))
    return [replace(d, p_holm=next(values)) if math.isfinite(d.p) else d for d in differences]


def _paired(
    name: str, results_a: Mapping[str, MetricResult], results_b: Mapping[str, MetricResult], seed: int
) -> PairedDifference:
    """Return the comparison of one metric."""
    a, b = results_a[name], results_b[name]
    plain = b.value - a.value if math.isfinite(a.value) and math.isfinite(b.value) else math.nan
    if a.parts is not None and (paired := paired_rows((results_a, results_b), name)) is not None:
        return _of_parts(name, a, b, paired, seed)
    statistic = shared_statistic((a, b))
    if statistic is None:
        reason = a.reason or b.reason
        note = f"missing: {reason}" if reason else "not a mean over examples: no paired comparison"
        return PairedDifference(name, a.value, b.value, plain, math.nan, math.nan, math.nan, 0, note)
    mine, theirs = a.by_row[statistic], b.by_row[statistic]
    differences = np.array([theirs[row] - mine[row] for row in mine if row in theirs])
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n == 0:
        note = "no example has a number in both"
        return PairedDifference(name, a.value, b.value, plain, math.nan, math.nan, math.nan, 0, note)
    low, high = bootstrap_interval(differences) if n > 1 else (math.nan, math.nan)
    p = permutation_p(differences, seed)
    return PairedDifference(name, a.value, b.value, float(differences.mean()), low, high, p, n)


def _of_parts(name: str, a: MetricResult, b: MetricResult, paired: PairedRows, seed: int) -> PairedDifference:
    """Return the comparison of a mean of other metrics, over the examples of all its parts."""
    difference = float(np.subtract(*paired.values_M[::-1]))
    draws = paired.draws_MD[1] - paired.draws_MD[0]
    low, high = interval_around(difference, draws) if paired.fewest > 1 else (math.nan, math.nan)
    columns = tuple((column.shape, np.ascontiguousarray(column).tobytes()) for column in paired.columns)
    mean = (paired.parts.mean, paired.parts.complement)
    return PairedDifference(name, a.value, b.value, difference, low, high, _parts_p(columns, mean, seed), paired.rows)


@functools.lru_cache(maxsize=4096)
def _parts_p(columns: tuple[tuple[tuple[int, ...], bytes], ...], mean: tuple[Any, bool], seed: int) -> float:
    """Return the two-sided p-value of a difference of means of parts, if examples change sides at random.

    Args:
        columns: The shape and the numbers of each set, as in PairedRows.
        mean: The mean of the parts, and whether it is of their complements.
        seed: The seed of the random changes.
    """
    paired = PairedRows(Parts({}, *mean), tuple(np.frombuffer(values).reshape(shape) for shape, values in columns))
    there = [~np.isnan(column[0]) for column in paired.columns]
    counts = [one.sum(axis=0) for one in there]
    sums, halves = ([np.where(of, sign * column[0] + column[1], 0.0) / 2 for of, column in zip(there, paired.columns,
                    strict=True)] for sign in (1, -1))  # fmt: skip
    ends = np.cumsum([0, *(len(half) for half in halves)])

    def differences(signs_NR: Floats) -> Floats:
        moved = [signs_NR[:, ends[k] : ends[k + 1]] @ half for k, half in enumerate(halves)]
        sides = ([total.sum(axis=0) + sign * one for total, one in zip(sums, moved, strict=True)] for sign in (1, -1))
        return np.subtract(*(paired.combine(side, [np.broadcast_to(n, one.shape) for n, one in zip(counts, side,
                             strict=True)]) for side in sides))  # fmt: skip

    observed = float(np.abs(differences(np.ones((1, paired.rows))))[0])
    return _share_as_large(differences, paired.rows, observed - 1e-12 * max(observed, 1.0), seed)


def _share_as_large(differences: Callable[[Floats], Floats], n: int, least: float, seed: int) -> float:
    """Return the share of sign changes of n rows with a difference of at least `least`, in either direction.

    differences: signs, shape (N, n) -> (N,). least: a little less than the observed difference, because sums in another
    order differ by rounding.
    """
    if n <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float(np.mean(np.abs(differences(signs)) >= least))
    hits = sum(int(np.sum(np.abs(differences(signs)) >= least)) for signs in _random_signs(n, seed))
    return (1 + hits) / (1 + PERMUTATIONS)


def _random_signs(n: int, seed: int) -> Iterable[Floats]:
    """Return PERMUTATIONS rows of n random signs, in blocks. A report tests many metrics with the same signs."""
    return _kept_signs(n, seed) if n * PERMUTATIONS <= KEPT else _new_signs(n, seed)


@functools.lru_cache(maxsize=2)
def _kept_signs(n: int, seed: int) -> tuple[Floats, ...]:
    return tuple(_new_signs(n, seed))


def _new_signs(n: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    step = max(1, CELLS // n)
    for start in range(0, PERMUTATIONS, step):
        size = (min(step, PERMUTATIONS - start), n)
        yield rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64) * 2.0 - 1.0


def permutation_p(differences_R: Floats, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences under random signs, shape (R,).

    Exact for R <= 13: the share of all 2^R sign flips whose mean is at least as far from 0. Else (1 + hits) / (1 + N)
    over N random flips, so it is never 0.
    """
    return _permutation_p(np.ascontiguousarray(differences_R, dtype=np.float64).tobytes(), seed)


@functools.lru_cache(maxsize=4096)  # a report is written again after each job of its study
def _permutation_p(values: bytes, seed: int) -> float:
    differences_R = np.frombuffer(values)
    least = abs(float(differences_R.sum())) - 1e-12 * float(np.abs(differences_R).sum())
    return _share_as_large(lambda signs_NR: signs_NR @ differences_R, len(differences_R), least, seed)


def _shown(value: float) -> str:
    """Return a number with four significant digits."""
    return "missing" if math.isnan(value) else f"{value:.4g}"


def _evidence(d: PairedDifference) -> str:
    """Return the difference with its evidence, for `repr`."""
    if math.isnan(d.p):
        return "" if math.isnan(d.difference) else f"  ({d.difference:+.4g})"
    interval = "" if math.isnan(d.ci_low) else f", 95 % [{d.ci_low:.4g}, {d.ci_high:.4g}]"
    return f"  ({d.difference:+.4g}{interval}, p = {d.p:.3g}, n = {d.n})"
