"""Builders of records from plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from expunge.core.records import AnswerTokens, TokenRecords

Logps = Mapping[int, Sequence[float]]


@pytest.fixture(scope="session")
def records() -> Callable[..., TokenRecords]:
    """variant -> row -> log-probabilities of its tokens, as token records. A row may have no tokens.

    Other columns in the same shape: `mean`, `var`, `is_argmax` (a value per token), `zlib`, `n_bytes` (one per row).
    """

    def answers(rows: Logps, more: Mapping[str, Mapping[int, Any]]) -> AnswerTokens:
        ids = sorted(rows)
        logp = np.array([x for i in ids for x in rows[i]], dtype=float)

        def column(name: str) -> np.ndarray:
            if name not in more:
                return np.zeros(len(logp))
            return np.array([x for i in ids for x in more[name][i]], dtype=float)

        return AnswerTokens(
            row_ids=np.array(ids, dtype=np.int64),
            offsets=np.cumsum([0, *(len(rows[i]) for i in ids)]).astype(np.int64),
            token_id=np.zeros(len(logp), dtype=np.int64),
            logp=logp,
            mean=column("mean"),
            var=column("var"),
            is_argmax=column("is_argmax").astype(bool),
            is_eos=np.zeros(len(logp), dtype=bool),
            zlib=np.array([more.get("zlib", {}).get(i, 1) for i in ids], dtype=np.int64),
            n_bytes=np.array([more.get("n_bytes", {}).get(i, 1) for i in ids], dtype=np.int64),
        )

    def build(by_variant: Mapping[str, Logps], **columns: Mapping[str, Mapping[int, Any]]) -> TokenRecords:
        return TokenRecords(
            {
                name: answers(rows, {c: values[name] for c, values in columns.items() if name in values})
                for name, rows in by_variant.items()
            }
        )

    return build
