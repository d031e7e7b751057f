"""Compare two evaluations example by example: paired differences, their intervals and permutation p-values."""

from __future__ import annotations

import functools
import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.core.errors import ConfigError, as_list, kind_of, nearest
from expunge.core.records import Floats
from expunge.evaluation.result import EvalResult
from expunge.metrics.aggregate import bootstrap_interval
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import holm

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 10_000  # random sign flips of the differences
EXACT = 13  # maximum number of examples for which all 2^n sign flips are computed
CELLS = 4_000_000  # signs drawn at once: bounds the memory


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
    """b - a; the mean over the examples that both models have, if the metric is a mean over examples."""
    ci_low: float
    """The 2.5th percentile of the mean difference over bootstrap draws of examples; NaN if it is not a mean."""
    ci_high: float
    """The 97.5th percentile."""
    p: float
    """The two-sided p-value of the paired permutation test (sign flips); NaN if the metric is not a mean."""
    n: int
    """The number of examples that both models have a number for."""
    note: str = ""
    """The reason if there is no paired comparison."""
    p_holm: float = math.nan
    """The p-value after Holm's correction for all metrics that are compared; NaN without one."""


class Comparison(Mapping[str, PairedDifference]):
    """The paired differences of two models by metric name."""

    def __init__(self, differences: Sequence[PairedDifference]) -> None:
        self._differences = {d.metric: d for d in differences}

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
        return "\n".join(["Comparison(b - a)", *lines])

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
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def compare(
    a: EvalResult | Mapping[str, MetricResult],
    b: EvalResult | Mapping[str, MetricResult],
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same examples.

    Each metric that is a mean over examples is compared pairwise: the mean of b - a over the examples that have a
    number in both, its 95 % percentile bootstrap interval over examples, and the p-value of a two-sided permutation
    test that flips the signs of the differences (all sign flips up to 13 examples, else 10,000 random ones). Other
    metrics (an AUC, a harmonic mean) have the difference alone, and a `note`.

    Args:
        a: The first evaluation, an EvalResult or results by metric name.
        b: The second one.
        metrics: The names to compare. None: all that both have.
        seed: The seed of the random sign flips.

    Returns:
        The differences by metric name. `.to_pandas()` gives a table; `p_holm` is corrected for the number of metrics.

    Raises:
        ConfigError: If a metric is not in both, if they share none, or if the two measured other examples.
    """
    for name, of in (("a", a), ("b", b)):
        if not isinstance(of, Mapping):
            raise ConfigError(f"compare: {name}: expected an EvalResult, got {kind_of(of)}")
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"compare: seed: must be a whole number of at least 0, got {seed!r}")
    mine, theirs = (of.results if isinstance(of, EvalResult) else dict(of) for of in (a, b))
    _check_examples(a, b)
    shared = [name for name in mine if name in theirs]
    for name in as_list(metrics, "compare: metrics") if metrics is not None else ():
        if name not in shared:
            raise ConfigError(f"compare: metrics: {name!r} is not in both results{nearest(name, shared)}")
    if not shared:
        raise ConfigError("compare: the two results have no metric in common")
    return Comparison(corrected([_paired(name, mine[name], theirs[name], seed) for name in metrics or shared]))


def corrected(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return the differences with p-values corrected for all of them together (Holm 1979)."""
    tested = [d.p for d in differences if math.isfinite(d.p)]
    values = iter(holm(tested))
    return [replace(d, p_holm=next(values)) if math.isfinite(d.p) else d for d in differences]


def _check_examples(a: Any, b: Any) -> None:
    """Raise ConfigError if both results name their examples, and these differ."""
    if not isinstance(a, EvalResult) or not isinstance(b, EvalResult):
        return
    theirs = b.meta.get("rows") or {}
    for name, mark in (a.meta.get("rows") or {}).items():
        if theirs.get(name, mark) != mark:
            raise ConfigError(f"compare: the {name} examples of the two results are not the same")


def _paired(name: str, a: MetricResult, b: MetricResult, seed: int) -> PairedDifference:
    """Return the comparison of one metric."""
    plain = b.value - a.value if math.isfinite(a.value) and math.isfinite(b.value) else math.nan
    statistic = next((s for s in averaged(a) if s in averaged(b)), None)
    if statistic is None:
        reason = a.reason or b.reason
        note = f"missing: {reason}" if reason else "not a mean over examples: no paired comparison"
        return PairedDifference(name, a.value, b.value, plain, math.nan, math.nan, math.nan, 0, note)
    mine, theirs = example_values(a, statistic), example_values(b, statistic)
    differences = np.array([theirs[row] - mine[row] for row in mine if row in theirs])
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n == 0:
        note = "no example has a number in both"
        return PairedDifference(name, a.value, b.value, plain, math.nan, math.nan, math.nan, 0, note)
    low, high = bootstrap_interval(differences) if n > 1 else (math.nan, math.nan)
    p = permutation_p(differences, seed)
    return PairedDifference(name, a.value, b.value, float(differences.mean()), low, high, p, n)


def averaged(result: MetricResult) -> list[str]:
    """Return the statistics whose mean over examples is the metric's value, in order."""
    names = dict.fromkeys(name for row in result.per_row.values() for name in row)
    out = []
    for name in names:
        numbers = np.array([v for v in example_values(result, name).values() if not math.isnan(v)])
        with np.errstate(invalid="ignore", over="ignore"):
            if len(numbers) and math.isclose(float(numbers.mean()), result.value, rel_tol=1e-9, abs_tol=1e-12):
                out.append(name)
    return out


def example_values(result: MetricResult, statistic: str) -> dict[int, float]:
    """Return a statistic by example; of an example with several answers their mean, skipping NaN."""
    out = {}
    for row, statistics in result.per_row.items():
        value = statistics.get(statistic, math.nan)
        numbers = [v for v in value if not math.isnan(v)] if isinstance(value, list) else [value]
        out[row] = float(np.mean(numbers)) if numbers else math.nan
    return out


def permutation_p(differences_R: Floats, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences under random signs, shape (R,).

    Exact for R <= 13: the share of all 2^R sign flips whose mean is at least as far from 0. Else (1 + hits) / (1 + N)
    over N random flips, so it is never 0.
    """
    return _permutation_p(np.ascontiguousarray(differences_R, dtype=np.float64).tobytes(), seed)


@functools.lru_cache(maxsize=4096)  # a report is written again after each job of its study
def _permutation_p(values: bytes, seed: int) -> float:
    differences_R = np.frombuffer(values)
    n = len(differences_R)
    observed = abs(float(differences_R.sum()))
    slack = 1e-12 * float(np.abs(differences_R).sum())  # sums in another order differ by rounding
    if n <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float(np.mean(np.abs(signs @ differences_R) >= observed - slack))
    rng = np.random.default_rng(seed)
    step = max(1, CELLS // n)
    hits = 0
    for start in range(0, PERMUTATIONS, step):
        size = (min(step, PERMUTATIONS - start), n)
        signs = rng.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ differences_R) >= observed - slack))
    return (1 + hits) / (1 + PERMUTATIONS)


def _shown(value: float) -> str:
    """Return a number with four significant digits."""
    return "missing" if math.isnan(value) else f"{value:.4g}"


def _evidence(d: PairedDifference) -> str:
    """Return the difference with its evidence, for `repr`."""
    if math.isnan(d.p):
        return "" if math.isnan(d.difference) else f"  ({d.difference:+.4g})"
    interval = "" if math.isnan(d.ci_low) else f", 95 % [{d.ci_low:.4g}, {d.ci_high:.4g}]"
    return f"  ({d.difference:+.4g}{interval}, p = {d.p:.3g}, n = {d.n})"
