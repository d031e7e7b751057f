"""Sides with numbers of one's own, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from expunge.methods import SideOutputs

Rows = list[list[float]]


def from_logps(rows: Rows | list[Tensor]) -> SideOutputs:
    """A side from each row's token log-probabilities."""
    tensors = [torch.as_tensor(r, dtype=torch.float64) for r in rows]
    row_N = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(t) for t in tensors]))
    return SideOutputs(logps_N=torch.cat(tensors), row_N=row_N, n_rows=len(rows))


def from_logits(logits_NV: Tensor, tokens_N: Tensor, row_N: Tensor) -> SideOutputs:
    """A side from the logits at each position and the token that stands there."""
    logps_N = torch.log_softmax(logits_NV, dim=-1).gather(-1, tokens_N[:, None])[:, 0]
    return SideOutputs(logps_N=logps_N, row_N=row_N, n_rows=int(row_N.max()) + 1, logits_NV=logits_NV, token_N=tokens_N)


@pytest.fixture
def side() -> Callable[[Rows], SideOutputs]:
    return from_logps


@pytest.fixture
def logit_side() -> Callable[[Tensor, Tensor, Tensor], SideOutputs]:
    return from_logits
