"""The form of generations, independent of their content: do they repeat themselves, and do they end?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family, missing
from expunge.metrics.words import blank_separated

Shape = Literal["distinct_1", "distinct_2", "repetition_4", "ended", "n_tokens", "empty"]
SHAPES: tuple[str, ...] = get_args(Shape)


@family(
    "fluency",
    revision=3,
    higher_is="distinct: more varied; repetition: more repeated; ended: more texts end before the length limit",
    range="[0, 1]; [0, inf) for n_tokens",
    paper="distinct-n: Li et al. 2016 (arXiv:1510.03055); repetition: Welleck et al. 2019 (arXiv:1908.04319)",
    fidelity="reading",
)
def fluency(inputs: MetricInputs, *, statistic: Shape = "repetition_4") -> MetricResult:
    """Measure whether answers still look like answers: a ruined model repeats itself, is silent, or never stops.

    Formula, over the words of one generation (split at blanks; characters in scripts without blanks):
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
    words = blank_separated(text.generation)
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


REPEATED = 0.5  # share of repeated 4-grams from which a text is gibberish
MOST = 0.5  # share of gibberish texts from which a model is broken


def is_gibberish(text: str) -> bool:
    """Return whether a text has no word, or repeats itself."""
    words = blank_separated(text)
    return not words or (len(words) >= 4 and 1.0 - _distinct(words, 4) > REPEATED)


def gibberish(texts: Iterable[str], before: Iterable[str], name: str = "rows to keep") -> str:
    """Return why a model is broken by its texts on rows to keep, or an empty text.

    It is broken if at least half of its texts are empty or repeat themselves, and twice the share of the model before.

    Args:
        texts: The model's texts.
        before: Those of the model before unlearning, or of the target model; none if they are not known.
        name: Name of the rows.
    """
    mine, theirs = ([is_gibberish(text) for text in of] for of in (texts, before))
    share = sum(mine) / len(mine) if mine else 0.0
    old = sum(theirs) / len(theirs) if theirs else 0.0
    if share < MOST or share < 2 * old:
        return ""
    known = f" ({old:.0%} before)" if theirs else ""
    return f"gibberish: {share:.0%} of its answers to {name} are empty or repeat themselves{known}"
