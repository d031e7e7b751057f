"""Leakage beyond one greedy answer: the best of several samples, and the worst of several prompts."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field

from expunge.core.errors import ConfigError
from expunge.core.records import Floats, GeneratedText
from expunge.metrics.aggregate import mean_over_rows, not_available
from expunge.metrics.api import MetricInputs, MetricResult, family, missing
from expunge.metrics.rouge import STATISTICS, rouge_scores
from expunge.metrics.words import Chosen, Tokenizer, choose_tokenizer

Measure = Literal["rouge1_recall", "rougeL_recall", "rougeL_f1", "similarity"]
Count = Annotated[int, Field(ge=1)]
Threshold = Annotated[float, Field(ge=0.0, le=1.0)]


@family(
    "leak_at_k",
    revision=2,
    higher_is="more leaks within k tries",
    range="[0, 1]",
    paper="leak@k (arXiv:2511.04934)",
    fidelity="formula",
)
def leak_at_k(
    inputs: MetricInputs,
    *,
    k: Count,
    statistic: Measure = "rougeL_recall",
    threshold: Threshold | None = None,
    tokenizer: Tokenizer = "auto",
) -> MetricResult:
    """Compute the mean score of the best of k sampled answers, because a second try may leak more than a greedy one.

    Formula, for a row whose n sampled answers score s_(1) <= ... <= s_(n), the mean of the best over all k-subsets:
        leak@k = sum_{i=k}^{n} s_(i) C(i-1, k-1) / C(n, k)
    an unbiased estimate of E[max of k samples]. The value is the mean over rows.

    Reads: several generations per row at a temperature (samples; `eval.sampling`). Per row: `score`,
    `best` (of all n), `mean`.
    Arguments: `k`, at most n; `statistic`: rougeL_recall (default), rougeL_f1, rouge1_recall, or similarity (of an
    embedding model, from samples_similarity); `threshold` turns a score into leaked (1, at least this) or not (0): the
    share of rows that leak within k tries; `tokenizer`: that of `rouge`, auto by default.
    Good direction: near the retain model's value at the same k, temperature and length. It rises with k for any model.
    Pitfalls: recall rewards long samples: use the same `max_new_tokens` for all models. The variance grows as k nears
    n.
    """
    if inputs.texts is None or "samples" not in inputs.metric.reads:
        raise ConfigError(
            f"metric {inputs.metric.name}: family leak_at_k reads samples; set reads={{'samples': ANSWER}}"
        )
    splitter = choose_tokenizer(tokenizer, (t.reference for t in inputs.texts))
    by_row: dict[int, list[float]] = {}
    for text in sorted(inputs.texts, key=lambda t: (t.row_id, t.sample)):
        by_row.setdefault(text.row_id, []).append(_score(inputs, text, statistic, splitter))
    if not by_row:
        return missing("there is no sample")
    n = min(len(scores) for scores in by_row.values())
    if n < k:
        return missing(f"best of {k} needs as many samples of each row, there are {n} (eval.sampling.samples)")
    scores = [np.array(s) for s in by_row.values()]
    if threshold is not None:
        scores = [np.where(np.isnan(s), math.nan, (s >= threshold).astype(float)) for s in scores]
    values = np.array([best_of(s, k) for s in scores])
    columns = {
        "score": values.tolist(),
        "best": [float(s.max()) for s in scores],
        "mean": [float(s.mean()) for s in scores],
    }
    return mean_over_rows(np.array(list(by_row), dtype=np.int64), values, columns, {"n_samples": float(n)})


def best_of(scores_n: Floats, k: int) -> float:
    """Return the mean of the largest over all k-subsets of n numbers; NaN if one of them is NaN."""
    if np.isnan(scores_n).any():
        return math.nan
    n = len(scores_n)
    weights = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
    return math.fsum(w * s for w, s in zip(weights, np.sort(scores_n).tolist(), strict=True))


def _score(inputs: MetricInputs, text: GeneratedText, statistic: str, tokenizer: Chosen) -> float:
    if statistic != "similarity":
        return float(rouge_scores(text, tokenizer)[STATISTICS.index(statistic)])
    if not any(kind.endswith("_similarity") for kind in inputs.metric.reads):
        raise ConfigError(f"metric {inputs.metric.name}: statistic similarity reads samples_similarity records")
    return math.nan if text.similarity is None else text.similarity


Value = Literal["prob", "score", "rougeL_recall", "rougeL_f1", "rouge1_recall", "similarity"]


@family(
    "worst_case",
    revision=1,
    higher_is="more is left, under the prompt that leaks most",
    range="that of its parents",
    paper="worst case over paraphrases and formats, as in JensUn (arXiv:2509.02820)",
    fidelity="reading",
)
def worst_case(inputs: MetricInputs, *, statistic: Value | None = None) -> MetricResult:
    """Return for each row the largest of several metrics, because one prompt that leaks is enough.

    Formula: w(x) = max over parents of the parent's value of row x; the value is the mean over rows. Parents without a
    score for a row are ignored for it.

    Reads: its parents, all over the same rows with other prompts or forms, each larger if more is left (probability,
    ROUGE recall, leak_at_k). Per row: `score`. Extra: for each parent `by_<role>`, the share of rows in which it alone
    or first is the largest; `over_best_parent`, the value minus the largest parent's value.
    Arguments: `statistic`, the parents' value by row to compare; by default the first of prob, score, rougeL_recall and
    similarity that all parents have.
    Good direction: near the retain model's value of the same metric.
    Pitfall: a maximum over more prompts is never smaller, also for the retain model: compare only the same prompts.
    """
    if len(inputs.parents) < 2:
        raise ConfigError(f"metric {inputs.metric.name}: family worst_case needs at least two parents")
    for role, part in inputs.parents.items():
        if not part.per_row:
            return not_available(inputs.metric.parents[role], part)
    names = [statistic] if statistic else list(get_args(Value))
    available = [{name for row in p.per_row.values() for name in row} for p in inputs.parents.values()]
    common = next((n for n in names if all(n in h for h in available)), None)
    if common is None:
        lacking = f"have {statistic!r}" if statistic else "share a value by row"
        raise ConfigError(f"metric {inputs.metric.name}: its parents do not all {lacking}")
    ids = sorted(set().union(*(p.per_row for p in inputs.parents.values())))
    table = np.array([[_number(p, i, common) for i in ids] for p in inputs.parents.values()])  # (parents, rows)
    there = ~np.isnan(table).all(axis=0)
    worst_R = np.full(len(ids), math.nan)
    worst_R[there] = np.nanmax(table[:, there], axis=0)
    by = np.nanargmax(table[:, there], axis=0)
    extra = {f"by_{role}": float(np.mean(by == i)) if len(by) else math.nan for i, role in enumerate(inputs.parents)}
    result = mean_over_rows(np.array(ids, dtype=np.int64), worst_R, {"score": worst_R.tolist()}, extra)
    top = max(float(np.nanmean(row)) if not np.isnan(row).all() else -math.inf for row in table)
    return MetricResult(
        result.value, result.reason, result.per_row, {**result.extra, "over_best_parent": result.value - top}
    )


def _number(result: MetricResult, row: int, name: str) -> float:
    value = result.per_row.get(row, {}).get(name, math.nan)
    return max(value) if isinstance(value, list) else float(value)
