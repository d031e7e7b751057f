"""Semantic similarity of generations to the true answer, from an embedding model that the user names."""

from __future__ import annotations

import math

import numpy as np

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family


@family(
    "semantic_similarity",
    revision=1,
    higher_is="the answer is closer in meaning",
    range="[-1, 1]",
    paper="Sentence-BERT, Reimers and Gurevych 2019 (arXiv:1908.10084): mean pooling, cosine",
    fidelity="formula",
)
def semantic_similarity(inputs: MetricInputs) -> MetricResult:
    """Compute how close the model's answer is to the true one in meaning; ROUGE counts only shared words.

    Formula: cosine of the two texts' embeddings; an embedding is the mean of the last hidden states over the text's
    tokens. The value is the mean over rows (and over a row's samples first).

    Reads: generations and their similarity to the answer (texts_similarity). `eval.embedder` names the embedding
    model, a folder or hub id; without one the result is missing with a reason. Per row: `similarity`.
    Good direction: near the retain model's value on forget rows, high on all others.
    Pitfalls: a negation scores high (about 0.86 between a sentence and its opposite, with a small sentence encoder). So
    the metric detects a leak in other words, and mistakes a denial for one too. Values of different embedding models
    never compare. An empty answer counts as missing.
    """
    if inputs.texts is None or not any(kind.endswith("_similarity") for kind in inputs.metric.reads):
        raise ConfigError(
            f"metric {inputs.metric.name}: family semantic_similarity reads texts and texts_similarity records"
        )
    by_row: dict[int, list[float]] = {}
    for text in sorted(inputs.texts, key=lambda t: (t.row_id, t.sample)):
        by_row.setdefault(text.row_id, []).append(math.nan if text.similarity is None else text.similarity)
    means = np.array([_mean(similarities) for similarities in by_row.values()], dtype=float)
    return mean_over_rows(np.array(list(by_row), dtype=np.int64), means, {"similarity": means.tolist()})


def _mean(values: list[float]) -> float:
    numbers = [v for v in values if not math.isnan(v)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
