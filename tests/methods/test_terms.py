from __future__ import annotations

import pytest
import torch

from expunge.methods import SideOutputs
from expunge.methods.terms import hidden, log_probs, logits, ranks, require, tokens


def test_ranks_count_within_each_row() -> None:
    row_N = torch.tensor([1, 1, 0, 1, 3, 0])
    side = SideOutputs(logps_N=torch.zeros(6), row_N=row_N, n_rows=4)  # row 2 has no token
    assert ranks(side).tolist() == [0, 1, 0, 2, 0, 1]


def test_half_precision_is_widened_before_the_vocabulary_is_summed() -> None:
    z = torch.zeros(1, 40_000, dtype=torch.bfloat16)
    side = SideOutputs(logps_N=torch.zeros(1), row_N=torch.zeros(1, dtype=torch.long), n_rows=1, logits_NV=z)
    actual = log_probs(side)
    assert actual.dtype is torch.float32
    assert actual[0, 0].item() == pytest.approx(-torch.log(torch.tensor(40_000.0)).item(), rel=1e-6)


def test_scored_positions_alone_count_for_the_nll_of_a_padded_batch() -> None:
    side = SideOutputs(torch.tensor([-9.0, -1.0, -3.0, -9.0]), torch.tensor([0, 0, 1, 1]), 2)
    assert side.nll.item() == 5.5
    scored = torch.tensor([False, True, True, False])
    assert SideOutputs(side.logps_N, side.row_N, 2, labelled_N=scored).nll.item() == 2.0


@pytest.mark.parametrize(("read", "what"), [(logits, "logits"), (tokens, "token ids"), (hidden, "hidden states")])
def test_what_was_not_served_is_named(read, what: str) -> None:
    with pytest.raises(ValueError, match=f"reads {what}, which were not provided"):
        read(SideOutputs(torch.zeros(1), torch.zeros(1, dtype=torch.long), 1))
    with pytest.raises(ValueError, match="reads 'alternate', which was not provided"):
        require(None, "alternate")
