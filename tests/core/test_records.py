from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from expunge.core.records import TEXTS, TOKENS, AnswerTokens, GeneratedText, text_records, texts_table, token_records


def line(row_id: int, variant: str, position: int, logp: float, **more: Any) -> dict[str, Any]:
    base = {"token_id": 10 * row_id + position, "mean": -2.0, "var": 1.0, "is_argmax": False, "is_eos": False}
    base["zlib"] = 20 + row_id
    base["n_bytes"] = 40 + row_id
    return {"row_id": row_id, "variant": variant, "position": position, "logp": logp} | base | more


LINES = [
    line(0, "answer", 0, -1.0, is_argmax=True),
    line(0, "answer", 1, -3.0),
    line(0, "answer", 2, -0.5, is_eos=True),
    line(2, "answer", 0, -4.0, is_eos=True),
    line(7, "answer", 0, -1.0),
    line(7, "answer", 1, -2.0, is_eos=True),
    line(0, "perturbed_10", 0, -9.0),
    line(0, "perturbed_2", 0, -8.0),
    line(0, "perturbed_x", 0, -7.0),
    line(0, "perturbed", 0, -6.0),
]


def table(lines: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(lines, schema=TOKENS)


def test_tokens_are_grouped_by_variant_and_row() -> None:
    answers = token_records(table(LINES))["answer"]
    assert answers.row_ids.tolist() == [0, 2, 7]
    assert answers.offsets.tolist() == [0, 3, 4, 6]
    assert answers.n_tokens.tolist() == [3, 1, 2]
    assert answers.logp.tolist() == [-1.0, -3.0, -0.5, -4.0, -1.0, -2.0]
    assert answers.token_id.tolist() == [0, 1, 2, 20, 70, 71]
    assert answers.is_argmax.tolist() == [True, False, False, False, False, False]
    assert answers.is_eos.tolist() == [False, False, True, True, False, True]
    assert answers.zlib.tolist() == [20, 22, 27]
    assert answers.n_bytes.tolist() == [40, 42, 47]
    assert answers.logp.dtype == np.float64
    assert [row.tolist() for row in answers.by_row(answers.logp)] == [[-1.0, -3.0, -0.5], [-4.0], [-1.0, -2.0]]


def test_a_loop_over_the_records_is_refused() -> None:
    with pytest.raises(TypeError, match="'TokenRecords' object is not iterable"):
        list(token_records(pa.Table.from_pylist(LINES, schema=TOKENS)))  # type: ignore[call-overload]


def test_the_order_of_the_lines_does_not_count() -> None:
    shuffled = LINES.copy()
    random.Random(3).shuffle(shuffled)
    assert shuffled != LINES
    one, other = token_records(table(LINES)), token_records(table(shuffled))
    assert set(one.by_variant) == set(other.by_variant)
    for variant in one.by_variant:
        for column in vars(one[variant]):
            assert np.array_equal(getattr(one[variant], column), getattr(other[variant], column)), column


def test_a_family_is_its_numbered_variants_in_the_order_of_their_numbers() -> None:
    family = token_records(table(LINES)).family("perturbed")
    assert [a.logp.tolist() for a in family] == [[-8.0], [-9.0]]


def test_average_loss_by_hand() -> None:
    # row 0: (1 + 3 + 0.5) / 3 = 1.5; row 2: 4; row 7: (1 + 2) / 2 = 1.5
    assert token_records(table(LINES))["answer"].avg_loss().tolist() == [1.5, 4.0, 1.5]


def test_without_the_last_token() -> None:
    cut = token_records(table(LINES))["answer"].without_last()
    assert cut.row_ids.tolist() == [0, 2, 7]
    assert cut.offsets.tolist() == [0, 2, 2, 3]
    assert cut.logp.tolist() == [-1.0, -3.0, -1.0]
    assert not cut.is_eos.any()


def test_rows_without_tokens_are_missing_not_zero() -> None:
    cut = token_records(table(LINES))["answer"].without_last()  # row 2 has no token left
    assert cut.avg_loss() == pytest.approx([2.0, np.nan, 1.0], nan_ok=True)
    again = cut.without_last()
    assert again.offsets.tolist() == [0, 1, 1, 1]
    assert again.avg_loss() == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)
    empty = again.without_last()
    assert empty.n_tokens.tolist() == [0, 0, 0]
    assert np.isnan(empty.avg_loss()).all()


def test_no_rows_at_all() -> None:
    assert token_records(table([])).by_variant == {}
    none = np.zeros(0)
    ints, flags = none.astype(np.int64), none.astype(bool)
    empty = AnswerTokens(ints, np.zeros(1, dtype=np.int64), ints, none, none, none, flags, flags, ints, ints)
    assert empty.avg_loss().tolist() == []
    assert empty.without_last().offsets.tolist() == [0]


def test_texts_go_to_a_table_and_back_in_order() -> None:
    texts = [GeneratedText(r, s, "p", f"g{r}{s}", "true", 2, True) for r, s in [(3, 0), (0, 1), (0, 0)]]
    result = texts_table(texts)
    assert result.schema == TEXTS
    assert result.equals(texts_table(reversed(texts)))
    assert [(t.row_id, t.sample) for t in text_records(result)] == [(0, 0), (0, 1), (3, 0)]
    assert sorted(texts, key=lambda t: (t.row_id, t.sample)) == text_records(result)
    assert text_records(texts_table([])) == []
