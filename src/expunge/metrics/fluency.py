"""The form of generations, independent of their content: do they repeat themselves, and do they end?"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family, missing

Shape = Literal["distinct_1", "distinct_2", "repetition_4", "ended", "n_tokens", "empty"]
SHAPES: tuple[str, ...] = get_args(Shape)


@family(
    "fluency",
    revision=2,
    higher_is="distinct: more varied; repetition: more repeated; ended: more texts end before the length limit",
    range="[0, 1]; [0, inf) for n_tokens",
    paper="distinct-n: Li et al. 2016 (arXiv:1510.03055); repetition: Welleck et al. 2019 (arXiv:1908.04319)",
)
def fluency(inputs: MetricInputs, *, statistic: Shape = "repetition_4") -> MetricResult:
    """Measure whether answers still look like answers: a ruined model repeats itself, is silent, or never stops.

    Formula, over the words of one generation (split at blanks):
        distinct_n    different n-grams / n-grams, n = 1 or 2
        repetition_4  1 - different 4-grams / 4-grams (default)
        ended         1 if the model ended the text, 0 at the length limit
        n_tokens      number of generated tokens, including the end token
        empty         1 if it has no word
    A text too short for an n-gram has no distinct_n; its repetition_4 is 0. A text without tokens, because the model's
    logits were not numbers, has none of them. The value is the mean over rows (and over a row's samples first).

    Reads: generations. Per row: all six. Extra: the mean of each over rows.
    Arguments: `statistic`.
    Good direction: near the target model's values on every set of rows; repetition low, ended high.
    Pitfalls: it ignores content: a fluent refusal and a fluent leak look alike. Values depend on the length limit
    (`eval.generation.max_new_tokens`).
    """
    if inputs.texts is None:
        raise ConfigError(
            f"metric {inputs.metric.name}: family fluency reads generations; set reads={{'texts': ANSWER}}"
        )
    by_row: dict[int, list[list[float]]] = {}
    for text in sorted(inputs.texts, key=lambda t: (t.row_id, t.sample)):
        by_row.setdefault(text.row_id, []).append(shape(text))
    if not by_row:
        return missing("there is no generation")
    table = np.array([_means(np.array(shapes)) for shapes in by_row.values()])  # (rows, statistics)
    columns = {name: table[:, i].tolist() for i, name in enumerate(SHAPES)}
    means = _means(table)
    extra = {name: float(means[i]) for i, name in enumerate(SHAPES)}
    return mean_over_rows(np.array(list(by_row), dtype=np.int64), table[:, SHAPES.index(statistic)], columns, extra)


def shape(text: GeneratedText) -> list[float]:
    """Return the six statistics of one generation, in the order of SHAPES."""
    if not text.n_new_tokens:  # an interrupted text is neither fluent nor repetitive
        return [math.nan] * len(SHAPES)
    words = text.generation.split()
    return [
        _distinct(words, 1),
        _distinct(words, 2),
        1.0 - _distinct(words, 4) if len(words) >= 4 else 0.0,
        float(text.stopped),
        float(text.n_new_tokens),
        float(not words),
    ]


def _distinct(words: list[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _means(table: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
    """Return column means without NaN; NaN for a column of NaN only."""
    columns = [column[~np.isnan(column)] for column in table.T]
    return [float(column.mean()) if len(column) else math.nan for column in columns]
