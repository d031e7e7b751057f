"""The page of a comparison: paired differences with interval and test, and each example's difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.core.errors import ConfigError
from expunge.evaluation.compare import Comparison, PairedDifference, corrected
from expunge.metrics.api import MetricResult, shared_statistic
from expunge.report.differences import cells_of, signed
from expunge.report.page import environment
from expunge.report.table import head_of

Results = Mapping[str, MetricResult]
ABOUT = (
    "Each difference is the second model minus the first one, example by example. The interval is a 95 % bootstrap "
    "interval over examples; p is from a two-sided permutation test that flips the signs of the differences. Number "
    "of tests: {tests}. Without any difference, about {chance} of them would be below 0.05; p (Holm) is corrected for "
    "all tests of this page."
)
WIDTH, HEIGHT = 640, 120  # of the figure of all examples, in its own units
MOST_BARS = 320
N_LISTED = 5  # examples with the largest differences, on each side


@dataclass(frozen=True)
class ComparedPair:
    """Two models, their results and their differences."""

    name: str
    a: str
    b: str
    results_a: Results
    results_b: Results
    comparison: Comparison


@dataclass(frozen=True)
class Bar:
    """A bar of the figure, in its units."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class ExampleDifferences:
    """The differences of single examples in one metric: bars from the lowest to the highest, and the extremes."""

    metric: str
    title: str
    n: int
    lower: int
    higher: int
    bars: tuple[Bar, ...]
    zero: float
    extremes: tuple[tuple[int, str, str, str], ...]


def paired(first: Mapping[str, Results], second: Mapping[str, Results], a: str, b: str) -> list[tuple[str, str, str]]:
    """Return the pairs to compare: a name, and the name of each model.

    first, second: results by the name of a model. a, b: the words of a user for the two.

    Raises:
        ConfigError: No models of the two fit.
    """
    if len(first) == len(second) == 1:
        (one,), (other,) = first, second
        return [(one if one == other else f"{one} and {other}", one, other)]
    for models, others, text in ((first, second, a), (second, first, b)):
        if len(others) == 1:
            raise ConfigError(
                f"compare: {text!r} has several models; name one: {text}:LABEL (labels: {', '.join(models)})"
            )
    shared = [name for name in first if name in second]
    if not shared:
        raise ConfigError(f"compare: {a!r} and {b!r} have no model of the same label; name one of each: NAME:LABEL")
    return [(name, name, name) for name in shared]


def compare_page(
    pairs: Sequence[ComparedPair],
    directions: Mapping[str, str],
    command: str = "",
    workspace: tuple[str, str] | None = None,
) -> str:
    """Return the page. directions: metric -> meaning of a larger value.

    workspace: the names of both sides, on a page of the workspace, which has a link back.
    """
    tests = sum(math.isfinite(d.p) for pair in pairs for d in pair.comparison.values())
    all_lines = iter(corrected([d for pair in pairs for d in pair.comparison.values()]))
    lines = [[next(all_lines) for _ in pair.comparison] for pair in pairs]
    sections = [
        (pair, [(d.metric, directions.get(d.metric, ""), cells_of(d), d.note) for d in mine],
         [rows for d in pair.comparison.values() if (rows := differences(pair, d)) is not None])
        for pair, mine in zip(pairs, lines, strict=True)
    ]  # fmt: skip
    about = ABOUT.format(tests=tests, chance=f"{tests * 0.05:.2g}")
    page = environment().get_template("compare.html")
    directed = any(direction for _, mine, _ in sections for _, direction, _, _ in mine)
    return page.render(
        sections=sections,
        about=about,
        command=command,
        workspace=workspace,
        directed=directed,
        width=WIDTH,
        height=HEIGHT,
    )


def differences(pair: ComparedPair, d: PairedDifference) -> ExampleDifferences | None:
    """Return the differences of single examples, or None if the metric is not a mean over examples."""
    a, b = pair.results_a[d.metric], pair.results_b[d.metric]
    statistic = shared_statistic((a, b)) if d.n > 1 else None
    if statistic is None:
        return None
    mine, theirs = a.by_row[statistic], b.by_row[statistic]
    both = [(theirs[row] - mine[row], row) for row in mine if row in theirs]
    ordered = sorted(pair for pair in both if math.isfinite(pair[0]))
    lower, higher = sum(v < 0 for v, _ in ordered), sum(v > 0 for v, _ in ordered)
    ends = [*ordered[:N_LISTED], *ordered[max(N_LISTED, len(ordered) - N_LISTED) :]]
    extremes = [(row, signed(mine[row]), signed(theirs[row]), signed(v, "+")) for v, row in ends]
    bars, zero = _bars([v for v, _ in ordered])
    return ExampleDifferences(
        d.metric, head_of(d.metric), len(ordered), lower, higher, bars, zero, tuple(extremes)
    )  # fmt: skip


def _bars(values: Sequence[float]) -> tuple[tuple[Bar, ...], float]:
    """Return a bar for each value (evenly spaced values if there are many), and the height of zero."""
    n = min(len(values), MOST_BARS)
    shown = [values[k * len(values) // n] for k in range(n)]
    low, high = min(0.0, *values), max(0.0, *values)
    scale = HEIGHT / (high - low) if high > low else 0.0
    zero, step = high * scale, WIDTH / max(n, 1)
    bars = [
        Bar(round(k * step, 2), round(min(zero, zero - v * scale), 2), round(step * 0.9, 2), round(abs(v) * scale, 2))
        for k, v in enumerate(shown)
    ]
    return tuple(bars), round(zero, 2)
