"""From per-example values to one number: means without missing values, bootstrap intervals, losses of several answers.

A row that has no score (no scored token, or a loss that is not a number) is NaN. It never enters a mean;
`extra["n_missing"]` counts it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from expunge.core.errors import ConfigError
from expunge.core.records import AnswerTokens, Floats, TokenRecords
from expunge.metrics.api import MetricInputs, MetricResult, Parts, Score, mean_score, missing, shared_statistic

Ids = npt.NDArray[np.int64]

RESAMPLES = 1000
SEED = 0
VALUE = "value"  # the statistic of a row's part in the mean
UNSCORED = "a record is missing for them, or the model's logits were not numbers"
CACHED = 4_000  # largest set whose draws are kept: 8 MB
CELLS = 4_000_000  # random numbers per batch: bounds the memory of one step of a bootstrap to about 100 MB


def mean_over_rows(
    row_ids: Ids,
    values_R: Floats,
    per_row: Mapping[str, list[Score]],
    extra: Mapping[str, float] | None = None,
    *,
    unscored: str = UNSCORED,
) -> MetricResult:
    """Return the mean of one value per row, with its interval.

    If no statistic contains the values, the result has them as the statistic `value`, so that they can be compared with
    another model's. `extra` of the result contains n_missing (rows without a value). Its ci_low and ci_high are the 95
    % percentile bootstrap interval over rows (1000 resamples, fixed seed). They need at least two rows with a value,
    and finite ends. The order of the rows does not matter. If no row has a value the result is missing, with its rows.

    Args:
        row_ids: Shape (R,).
        values_R: Shape (R,), NaN for a row without a value.
        per_row: Statistic -> R entries, stored with the rows.
        extra: Further numbers of the result.
        unscored: Reason for rows without a value.

    Raises:
        ConfigError: If the columns have other numbers of entries than the rows.
    """
    sizes = {"values_R": len(values_R)} | {name: len(column) for name, column in per_row.items()}
    if wrong := [name for name, n in sizes.items() if n != len(row_ids)]:
        raise ConfigError(
            f"mean_over_rows: {wrong[0]} has {sizes[wrong[0]]} entries for {len(row_ids)} rows; give one for each row"
        )
    order = np.argsort(row_ids, kind="stable")
    if not any(_contains(column, values_R) for column in per_row.values()):
        per_row = {**per_row, VALUE: values_R.tolist()}
    rows = {int(row_ids[i]): {name: column[i] for name, column in per_row.items()} for i in order}
    scores = values_R[order][~np.isnan(values_R[order])]
    numbers = dict(extra or {}) | {"n_missing": float(len(values_R) - len(scores))}
    if not len(scores):
        reason = f"none of the {len(values_R)} rows could be scored: {unscored}"
        return MetricResult(math.nan, reason=reason, per_row=rows, extra=numbers)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values, or an infinite sum
        value = float(scores.mean())
        low, high = bootstrap_interval(scores) if len(scores) > 1 else (math.nan, math.nan)
    if math.isfinite(low) and math.isfinite(high):
        numbers |= {"ci_low": low, "ci_high": high}
    undefined = "some rows are inf and some -inf: they have no mean" if math.isnan(value) else None
    return MetricResult(value=value, reason=undefined, per_row=rows, extra=numbers)


def _contains(column: Sequence[Score], values_R: Floats) -> bool:
    """Return whether a column of statistics, or the mean over each row's answers, are these values."""
    means = np.array([mean_score(v) if isinstance(v, list) else v for v in column], dtype=float)
    return means.shape == values_R.shape and np.allclose(means, values_R, rtol=1e-12, atol=0, equal_nan=True)


def band(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return lowest, highest and mean of several retain models' values: the retrain-seed range. None if fewer than two.

    A value within it is indistinguishable from that of another training seed.
    """
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite), math.fsum(finite) / len(finite)) if len(finite) > 1 else None


def bootstrap_interval(values_R: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the mean over RESAMPLES draws of R rows with replacement."""
    n = len(values_R)
    step = max(1, CELLS // n)
    rng = np.random.default_rng(SEED)
    means = [
        values_R[rng.integers(0, n, size=(min(step, RESAMPLES - start), n), dtype=np.int32)].mean(axis=1)
        for start in range(0, RESAMPLES, step)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedRows:
    """The same rows of M models in one metric: a value per row of each of its P parts, by set of examples.

    A metric that is a mean over rows is its own single part. columns: an array of shape (M, R, P) by set, NaN for a row
    of another part, or without a number in one model.
    """

    parts: Parts
    columns: tuple[Floats, ...]

    @property
    def rows(self) -> int:
        """The number of rows of all sets."""
        return sum(int(column.shape[1]) for column in self.columns)

    @property
    def fewest(self) -> int:
        """The number of rows of the smallest set."""
        return min(int(column.shape[1]) for column in self.columns)

    def combine(self, sums: Sequence[Floats], counts: Sequence[Floats]) -> Floats:
        """Return the metric's value, shape (...), from the sum and number of rows of each part, shape (..., P)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.concatenate(sums, axis=-1) / np.concatenate(counts, axis=-1)
            if self.parts.mean == "pooled":
                number = np.concatenate(counts, axis=-1)
                return np.asarray((means * number).sum(axis=-1) / number.sum(axis=-1))
            means = np.maximum(1.0 - means, 0.0) if self.parts.complement else means
            if means.shape[-1] == 1 or self.parts.mean == "arithmetic":
                return np.asarray(means.mean(axis=-1))
            return np.asarray(means.shape[-1] / (1.0 / means).sum(axis=-1))

    @functools.cached_property
    def values_M(self) -> Floats:
        """The metric's value over these rows."""
        there = [~np.isnan(column) for column in self.columns]
        sums = [np.nansum(column, axis=1) for column in self.columns]
        return self.combine(sums, [one.sum(axis=1) for one in there])

    @functools.cached_property
    def draws_MD(self) -> Floats:
        """The metric's value in RESAMPLES draws of rows with replacement, within each set.

        The draws of a set are the same for all models and parts. NaN for a draw in which a part has no row.
        """
        sums, counts = [], []
        for k, column in enumerate(self.columns):
            there = ~np.isnan(column)
            both_RX = np.concatenate([*np.where(there, column, 0.0), *there.astype(float)], axis=1)
            blocks = [times_DR.astype(np.float64) @ both_RX for times_DR in _times(column.shape[1], k)]
            both_MDP = np.stack(np.split(np.concatenate(blocks), 2 * len(column), axis=1))
            sums.append(both_MDP[: len(column)])
            counts.append(both_MDP[len(column) :])
        return self.combine(sums, counts)


def paired_rows(sides: Sequence[Mapping[str, MetricResult]], metric: str) -> PairedRows | None:
    """Return the rows that all models have of a metric; None if it is no mean over rows, or of such means.

    Args:
        sides: The results of each model by metric name.
        metric: The name of the metric.
    """
    results = [side[metric] for side in sides if metric in side]
    parts = results[0].parts if results else None
    if len(results) < len(sides) or not results or any(one.parts != parts for one in results):
        return None
    whole = parts or Parts({metric: metric})
    by_set: dict[str, list[list[dict[int, float]]]] = {}
    for name, examples in whole.examples.items():
        of = [side.get(name) for side in sides]
        there = [one for one in of if one is not None]
        statistic = shared_statistic(there) if there else None
        if len(there) < len(sides) or statistic is None:
            return None
        by_set.setdefault(examples, []).append([one.by_row[statistic] for one in there])
    columns = [_common(listed) for listed in by_set.values()]
    return PairedRows(whole, tuple(columns)) if all(column.shape[1] for column in columns) else None


def own_interval(results: Mapping[str, MetricResult], metric: str) -> dict[str, float]:
    """Return ci_low and ci_high of one model's metric, from its rows or those of its parts; empty without them."""
    paired = paired_rows([results], metric)
    if paired is None or paired.fewest < 2:
        return {}
    low, high = interval_around(results[metric].value, paired.draws_MD[0])
    return {"ci_low": low, "ci_high": high} if math.isfinite(low + high) else {}


def rows_behind(results: Mapping[str, MetricResult], metric: str) -> int:
    """Return the number of rows of a mean of other metrics; 0 if it is no such mean."""
    paired = paired_rows([results], metric) if results[metric].parts is not None else None
    return 0 if paired is None else paired.rows


def _common(parts: Sequence[Sequence[Mapping[int, float]]]) -> Floats:
    """Return the numbers of P parts of M models by row, (M, R, P), of the rows that have one in all models."""
    shared = []
    for sides in parts:
        rows = set.intersection(*(set(side) for side in sides))
        shared.append({row for row in rows if all(math.isfinite(side[row]) for side in sides)})
    ids = sorted(set().union(*shared))
    out = np.full((len(parts[0]), len(ids), len(parts)), math.nan)
    for p, (sides, rows) in enumerate(zip(parts, shared, strict=True)):
        at = [k for k, row in enumerate(ids) if row in rows]
        for m, side in enumerate(sides):
            out[m, at, p] = [side[ids[k]] for k in at]
    return out


def _times(n: int, stream: int) -> Iterable[npt.NDArray[np.uint16]]:
    """Return how often each draw contains each of n rows, shape (RESAMPLES, n), in blocks of draws.

    The draws of the first stream are those of `bootstrap_interval`.
    """
    return _kept_times(n, stream) if n <= CACHED else _new_times(n, stream)


def _new_times(n: int, stream: int) -> Iterator[npt.NDArray[np.uint16]]:
    rng = np.random.default_rng([SEED, stream])
    step = max(1, CELLS // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        rows = rng.integers(0, n, size=(size, n), dtype=np.int32)
        cells = rows + np.arange(size, dtype=np.int64)[:, None] * n
        yield np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.uint16)


@functools.lru_cache(maxsize=8)
def _kept_times(n: int, stream: int) -> tuple[npt.NDArray[np.uint16], ...]:
    return tuple(_new_times(n, stream))


def interval_around(value: float, draws_D: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of draws, widened to the value; NaN without finite ends.

    A draw without a finite number (a part has no row, a ratio to 0) counts as below and above all others.
    """
    there = np.isfinite(draws_D)
    with np.errstate(invalid="ignore"):  # an end between a finite and an infinite draw
        low = float(np.quantile(np.where(there, draws_D, -np.inf), 0.025))
        high = float(np.quantile(np.where(there, draws_D, np.inf), 0.975))
    return (min(low, value), max(high, value)) if math.isfinite(low + high) else (math.nan, math.nan)


def mean_of_answers(values_RK: Floats) -> Floats:
    """Return the mean over each row's answers, shape (R, K) -> (R,), without NaN; NaN for a row that has none."""
    there = ~np.isnan(values_RK)
    counts = np.where(there.any(axis=1), there.sum(axis=1), np.nan)
    means: Floats = np.where(there, values_RK, 0.0).sum(axis=1) / counts
    return means


def log_sum_of_answers(logs_RK: Floats) -> Floats:
    """Return log(sum_k exp(x_k)) over each row's answers, (R, K) -> (R,), without NaN; NaN for a row that has none."""
    there = ~np.isnan(logs_RK)
    sums: Floats = np.logaddexp.reduce(np.where(there, logs_RK, -np.inf), axis=1)
    sums[~there.any(axis=1)] = np.nan
    return sums


def resolve(tokens: TokenRecords, name: str) -> list[AnswerTokens]:
    """Return the answers behind a metric's token name: the variant of that name, else all of `name_0`, `name_1`, ..."""
    return tokens.answers(name)


def answer_losses(inputs: MetricInputs) -> tuple[Ids, list[Floats]]:
    """Return the mean loss, in nats per token, of every answer that the metric reads, aligned by row.

    If the model's output is not a number for one of these answers, all under that name are NaN. The others alone would
    be another quantity.

    Returns:
        The R row ids of all answers, ascending; for each name in `metric.tokens` an array of shape (R, K), with K the
        number of answers under that name; NaN for a row without such an answer or without a scored token.

    Raises:
        ConfigError: If the metric has no token records.
    """
    if inputs.tokens is None:
        raise ConfigError(
            f"metric {inputs.metric.name}: family {inputs.metric.family} reads token records of some rows"
        )
    groups = [resolve(inputs.tokens, name) for name in inputs.metric.tokens]
    empty = np.zeros(0, dtype=np.int64)
    row_ids = functools.reduce(np.union1d, (a.row_ids for group in groups for a in group), empty)
    losses = []
    for group in groups:
        loss_RK = np.full((len(row_ids), len(group)), np.nan)
        broken_R = np.zeros(len(row_ids), dtype=bool)
        for k, answers in enumerate(group):
            at = np.searchsorted(row_ids, answers.row_ids)
            loss_RK[at, k] = answers.avg_loss()
            broken_R[at] |= np.isnan(loss_RK[at, k]) & (answers.n_tokens > 0)
        loss_RK[broken_R] = np.nan
        losses.append(loss_RK)
    return row_ids, losses


def answer_lists(values_RK: Floats, *, single: bool) -> list[Score]:
    """Return a column of per-row statistics: numbers if each row has one answer (`single`), else lists of K."""
    return [float(v) for v in values_RK[:, 0]] if single else values_RK.tolist()


Floor = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


def log_floor(floor: float) -> float:
    """Return ln(floor); -inf for a floor of 0."""
    return math.log(floor) if floor else -math.inf


def needs_tokens(inputs: MetricInputs, n: int, names: str) -> None:
    """Raise ConfigError unless the metric lists n token names."""
    if len(inputs.metric.tokens) != n:
        actual = list(inputs.metric.tokens)
        raise ConfigError(
            f"metric {inputs.metric.name}: family {inputs.metric.family} reads tokens {names}, got {actual}"
        )


def one_answer(inputs: MetricInputs) -> AnswerTokens:
    """Return the tokens of the one answer that a metric reads. Raises ConfigError unless it names exactly one."""
    needs_tokens(inputs, 1, "(answer)")
    answers = [] if inputs.tokens is None else resolve(inputs.tokens, inputs.metric.tokens[0])
    if len(answers) != 1:
        raise ConfigError(
            f"metric {inputs.metric.name}: family {inputs.metric.family} reads token records of one answer to each "
            f"row, {inputs.metric.tokens[0]!r} stands for {len(answers)}"
        )
    return answers[0]


def row_difference(records: str, mine: Collection[int], retain: Collection[int]) -> str | None:
    """Return why records of this model and of the retain model cover different rows, or None if they are equal."""
    odd = sorted(set(mine) ^ set(retain))
    if not odd:
        return None
    return (
        f"the retain model's {records} cover other rows: {len(retain)} against {len(mine)} here, "
        f"{len(odd)} not in both, the first is row {odd[0]}; score both models on the same split"
    )


def not_available(parent: str, result: MetricResult) -> MetricResult:
    """Return the missing result of a metric with a missing parent."""
    return missing(f"needs {parent}, which is missing: {result.reason or 'its value is not a number'}")
