from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.data.batch import Batch, budget_batches, collate
from expunge.data.encoder import Encoded

EOS = 2
ROWS = [Encoded((1, 5, 6, 7, EOS), 2), Encoded((1, 8, EOS), 1), Encoded((9, 10, 11, EOS, 12, EOS), 0)]


def scored(batch: Batch) -> list[list[tuple[int, int]]]:
    """For each row the (id at the predicting position, id scored)."""
    out: list[list[tuple[int, int]]] = [[] for _ in range(batch.n_rows)]
    for row, pos, token in zip(batch.row_N.tolist(), batch.pos_N.tolist(), batch.token_N.tolist(), strict=True):
        out[row].append((int(batch.ids_BT[row, pos]), token))
    return out


EXPECTED = [
    [(5, 6), (6, 7), (7, EOS)],
    [(1, 8), (8, EOS)],
    [(9, 10), (10, 11), (11, EOS), (EOS, 12), (12, EOS)],  # nothing predicts the first token of a sequence
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad_id", [0, EOS])
def test_scored_tokens_do_not_depend_on_padding(side: str, pad_id: int) -> None:
    batch = collate(ROWS, pad_id=pad_id, padding_side=side)
    assert scored(batch) == EXPECTED
    assert batch.mask_BT[batch.row_N, batch.pos_N].all()
    assert batch.mask_BT[batch.row_N, batch.pos_N + 1].all()


@pytest.mark.parametrize(("side", "expected"), [("right", [0, 1, 2, 3, 4]), ("left", [1, 2, 3, 4, 5])])
def test_mask_comes_from_lengths_where_pad_is_eos(side: str, expected: list[int]) -> None:
    batch = collate(ROWS, pad_id=EOS, padding_side=side)
    assert batch.mask_BT.sum(1).tolist() == [5, 3, 6]
    assert batch.mask_BT[0].nonzero().flatten().tolist() == expected
    for row, mask, ids in zip(ROWS, batch.mask_BT, batch.ids_BT, strict=True):
        assert tuple(ids[mask].tolist()) == row.ids
        assert (ids[~mask] == EOS).all()


def test_rows_stand_one_after_the_other() -> None:
    batch = collate(ROWS, pad_id=0)
    assert batch.row_N.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("side", ["right", "left"])
def test_all_positions(side: str) -> None:
    batch = collate(ROWS[:2], pad_id=0, padding_side=side, positions="all")
    assert batch.row_N.tolist() == [0] * 5 + [1] * 5
    assert batch.pos_N.tolist() == [0, 1, 2, 3, 4] * 2
    following = torch.cat([batch.ids_BT[:, 1:], torch.zeros(2, 1, dtype=torch.long)], dim=1)
    assert batch.token_N.tolist() == following.flatten().tolist()
    assert torch.equal(batch.mask_BT, collate(ROWS[:2], pad_id=0, padding_side=side).mask_BT)


@pytest.mark.parametrize("side", ["right", "left"])
def test_own_positions_are_where_the_answer_stands(side: str) -> None:
    batch = collate(ROWS, pad_id=0, padding_side=side, positions="own")
    assert [[here for here, _ in row] for row in scored(batch)] == [[t for _, t in row] for row in EXPECTED]
    assert batch.token_N.tolist() == collate(ROWS, pad_id=0, padding_side=side).token_N.tolist()


def test_to_keeps_every_field() -> None:
    batch = collate(ROWS, pad_id=0)
    moved = batch.to("meta")
    for name in ("ids_BT", "mask_BT", "row_N", "pos_N", "token_N"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape


@pytest.mark.parametrize("budget", [1, 10, 37, 1000])
def test_batches_keep_to_the_budget(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, size=50).tolist()
    batches = budget_batches(list(range(50)), lengths, budget)
    assert sorted(i for b in batches for i in b) == list(range(50))
    for batch in batches:
        width = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * width <= budget
    flat = [lengths[i] for b in batches for i in b]
    assert flat == sorted(flat, reverse=True)
    assert budget_batches([], [], budget) == []
