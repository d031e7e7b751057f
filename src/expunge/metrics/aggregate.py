"""From per-example values to one number: means without missing values, bootstrap intervals, losses of several answers.

A row that has no score (no scored token, or a loss that is not a number) is NaN. It never enters a mean;
`extra["n_missing"]` counts it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from expunge.core.errors import ConfigError
from expunge.core.records import AnswerTokens, Floats, TokenRecords
from expunge.metrics.api import MetricInputs, MetricResult, Score, missing

Ids = npt.NDArray[np.int64]

RESAMPLES = 1000
SEED = 0
UNSCORED = "a record is missing for them, or the model's logits were not numbers"
CELLS = 4_000_000  # random numbers per batch: bounds the memory of one step of a bootstrap to about 100 MB


def mean_over_rows(
    row_ids: Ids, values_R: Floats, per_row: Mapping[str, list[Score]], extra: Mapping[str, float] | None = None
) -> MetricResult:
    """Return the mean of one value per row, with its interval.

    `extra` of the result contains n_missing (rows without a value), and ci_low and ci_high: the 95 % percentile
    bootstrap interval over rows (1000 resamples, fixed seed), if at least two rows have a value and both ends are
    finite. The order of the rows does not matter. If no row has a value the result is missing, with its rows.

    Args:
        row_ids: Shape (R,).
        values_R: Shape (R,), NaN for a row without a value.
        per_row: Statistic -> R entries, stored with the rows.
        extra: Further numbers of the result.
    """
    order = np.argsort(row_ids, kind="stable")
    rows = {int(row_ids[i]): {name: column[i] for name, column in per_row.items()} for i in order}
    scores = values_R[order][~np.isnan(values_R[order])]
    numbers = dict(extra or {}) | {"n_missing": float(len(values_R) - len(scores))}
    if not len(scores):
        reason = f"none of the {len(values_R)} rows could be scored: {UNSCORED}"
        return MetricResult(math.nan, reason=reason, per_row=rows, extra=numbers)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values, or an infinite sum
        value = float(scores.mean())
        low, high = bootstrap_interval(scores) if len(scores) > 1 else (math.nan, math.nan)
    if math.isfinite(low) and math.isfinite(high):
        numbers |= {"ci_low": low, "ci_high": high}
    undefined = "some rows are inf and some -inf: they have no mean" if math.isnan(value) else None
    return MetricResult(value=value, reason=undefined, per_row=rows, extra=numbers)


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

    If the model's output is not a number for one of these answers, all under that name are NaN, because the others
    alone would be another quantity.

    Returns:
        The R row ids of all answers, ascending, and for each name in `metric.tokens` an array of shape (R, K), with K
        the number of answers under that name; NaN for a row without such an answer or without a scored token.

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
