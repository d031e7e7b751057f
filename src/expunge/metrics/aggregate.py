"""From rows to one number: means that skip what is missing, their bootstrap interval, the losses of several answers.

A row that could not be scored (no scored token, or a loss that is not a number) is NaN. It never enters a mean; it is
counted in `extra["n_missing"]`.
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
UNSCORED = "what it reads is missing there, or the model's logits were not numbers"
CELLS = 4_000_000  # numbers drawn at once: bounds the memory of one step of a bootstrap to about 100 MB


def mean_over_rows(
    row_ids: Ids, values_R: Floats, per_row: Mapping[str, list[Score]], extra: Mapping[str, float] | None = None
) -> MetricResult:
    """The mean of one value per row, with its interval.

    values_R: shape (R,), NaN where a row has no value. per_row: statistic -> R entries, stored beside the rows.
    The result's `extra` holds n_missing (rows without a value), and ci_low, ci_high: the 95 % percentile bootstrap
    interval over rows (1000 resamples, fixed seed), where at least two rows have a value and both ends are finite. The
    order of the rows does not matter. If no row has a value the result is missing, with its rows kept.
    """
    order = np.argsort(row_ids, kind="stable")
    rows = {int(row_ids[i]): {name: column[i] for name, column in per_row.items()} for i in order}
    kept = values_R[order][~np.isnan(values_R[order])]
    counted = dict(extra or {}) | {"n_missing": float(len(values_R) - len(kept))}
    if not len(kept):
        said = f"none of the {len(values_R)} rows could be scored: {UNSCORED}"
        return MetricResult(math.nan, reason=said, per_row=rows, extra=counted)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are infinite, or whose sum is
        value = float(kept.mean())
        low, high = bootstrap_interval(kept) if len(kept) > 1 else (math.nan, math.nan)
    if math.isfinite(low) and math.isfinite(high):
        counted |= {"ci_low": low, "ci_high": high}
    reason = "some rows are inf and some -inf: they have no mean" if math.isnan(value) else None
    return MetricResult(value=value, reason=reason, per_row=rows, extra=counted)


def band(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Lowest, highest and mean of what several retain models give: the null band. None for fewer than two numbers.

    A value within it cannot be told from another training seed's.
    """
    kept = [v for v in values if math.isfinite(v)]
    return (min(kept), max(kept), math.fsum(kept) / len(kept)) if len(kept) > 1 else None


def bootstrap_interval(values_R: Floats) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean over RESAMPLES draws of R rows with replacement."""
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
    """Mean over each row's answers, shape (R, K) -> (R,), skipping NaN; NaN for a row that has none."""
    there = ~np.isnan(values_RK)
    counts = np.where(there.any(axis=1), there.sum(axis=1), np.nan)
    means: Floats = np.where(there, values_RK, 0.0).sum(axis=1) / counts
    return means


def log_sum_of_answers(logs_RK: Floats) -> Floats:
    """log(sum_k exp(x_k)) over each row's answers, shape (R, K) -> (R,), skipping NaN; NaN for a row that has none."""
    there = ~np.isnan(logs_RK)
    sums: Floats = np.logaddexp.reduce(np.where(there, logs_RK, -np.inf), axis=1)
    sums[~there.any(axis=1)] = np.nan
    return sums


def resolve(tokens: TokenRecords, name: str) -> list[AnswerTokens]:
    """The answers a metric's token name stands for: the variant of that name, else all of `name_0`, `name_1`, ..."""
    return tokens.answers(name)


def answer_losses(inputs: MetricInputs) -> tuple[Ids, list[Floats]]:
    """Mean loss in nats per token of every answer the metric reads, aligned by row.

    Returns the R row ids that any of the answers has, ascending, and for each name in `metric.tokens` an array of
    shape (R, K), K the number of answers under that name; NaN where a row has no such answer or no scored token. Where
    the model gave one of these answers no number, all under that name are NaN: the others alone would be another
    quantity.
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
    """A column of per-row statistics: numbers where each row has one answer (`single`), else lists of K."""
    return [float(v) for v in values_RK[:, 0]] if single else values_RK.tolist()


Floor = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


def log_floor(floor: float) -> float:
    """ln(floor), -inf for none."""
    return math.log(floor) if floor else -math.inf


def needs_tokens(inputs: MetricInputs, n: int, what: str) -> None:
    """Check how many token names a metric lists. Raises ConfigError."""
    if len(inputs.metric.tokens) != n:
        got = list(inputs.metric.tokens)
        raise ConfigError(f"metric {inputs.metric.name}: family {inputs.metric.family} reads tokens {what}, got {got}")


def one_answer(inputs: MetricInputs) -> AnswerTokens:
    """The tokens of the one answer a metric reads. Raises ConfigError where it names none, several, or a stem."""
    needs_tokens(inputs, 1, "(answer)")
    found = [] if inputs.tokens is None else resolve(inputs.tokens, inputs.metric.tokens[0])
    if len(found) != 1:
        raise ConfigError(
            f"metric {inputs.metric.name}: family {inputs.metric.family} reads token records of one answer to each "
            f"row, {inputs.metric.tokens[0]!r} stands for {len(found)}"
        )
    return found[0]


def row_difference(what: str, mine: Collection[int], retain: Collection[int]) -> str | None:
    """Why a result of this model and one of the retain model do not cover the same rows, or None if they do."""
    odd = sorted(set(mine) ^ set(retain))
    if not odd:
        return None
    return (
        f"the retain model's {what} cover other rows: {len(retain)} against {len(mine)} here, "
        f"{len(odd)} not in both, the first is row {odd[0]}; score both models on the same split"
    )


def not_available(parent: str, result: MetricResult) -> MetricResult:
    """The result of a metric one of whose parents is missing."""
    return missing(f"needs {parent}, which is missing: {result.reason or 'its value is not a number'}")
