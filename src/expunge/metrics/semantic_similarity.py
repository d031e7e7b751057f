"""Semantic similarity of generations to the true answer, by an embedding model that the user names."""

from __future__ import annotations

import math

import numpy as np

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family


@family(
    "semantic_similarity",
    revision=1,
    higher_is="the answer says more nearly the same",
    range="[-1, 1]",
    paper="Sentence-BERT, Reimers and Gurevych 2019 (arXiv:1908.10084): mean pooling, cosine",
)
def semantic_similarity(inputs: MetricInputs) -> MetricResult:
    """How near the model's answer is to the true one in meaning, where ROUGE counts only shared words.

    Formula: cosine of the two texts' embeddings; an embedding is the mean of the last hidden states over the text's
    tokens. The value is the mean over rows (and over a row's samples first).

    Reads: generations and their similarity to the answer (texts_similarity). The embedding model is a folder or hub id
    named in `eval.embedder`; without one this is missing and says so. Per row: `similarity`.
    Good direction: near the retain model's value on forget rows, high on all others.
    Pitfalls: a negation scores high (about 0.86 between a sentence and its opposite, with a small sentence encoder): it
    finds a leak in other words, and takes a denial for one too. Values of different embedding models never compare. An
    empty answer is counted as missing.
    """
    if inputs.texts is None or not any(kind.endswith("_similarity") for kind in inputs.metric.reads):
        raise ConfigError(
            f"metric {inputs.metric.name}: family semantic_similarity reads texts and texts_similarity records"
        )
    by_row: dict[int, list[float]] = {}
    for text in sorted(inputs.texts, key=lambda t: (t.row_id, t.sample)):
        by_row.setdefault(text.row_id, []).append(math.nan if text.similarity is None else text.similarity)
    means = np.array([_mean(found) for found in by_row.values()], dtype=float)
    return mean_over_rows(np.array(list(by_row), dtype=np.int64), means, {"similarity": means.tolist()})


def _mean(values: list[float]) -> float:
    kept = [v for v in values if not math.isnan(v)]
    return math.fsum(kept) / len(kept) if kept else math.nan
