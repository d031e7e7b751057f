"""Small pieces that several losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.methods.api import SideOutputs


def require(side: SideOutputs | None, name: str) -> SideOutputs:
    """The side, which a method's `needs` has promised; a clear error if a caller left it out."""
    if side is None:
        raise ValueError(f"this loss reads {name!r}, which was not served")
    return side


def logits(side: SideOutputs) -> Tensor:
    """logits_NV of a side that was served with `Serve.LOGITS`."""
    if side.logits_NV is None:
        raise ValueError("this loss reads logits, which were not served")
    return side.logits_NV


def log_probs(of: SideOutputs | Tensor) -> Tensor:
    """log p of every vocabulary entry at each position, (N, V), in float32 at least; of a side, or of logits."""
    return torch.log_softmax(wide(logits(of) if isinstance(of, SideOutputs) else of), dim=-1)


def wide(x: Tensor) -> Tensor:
    """A floating-point tensor in float32 at least: long sums lose digits in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def tokens(side: SideOutputs) -> Tensor:
    """token_N of a side: the ids that stand at its scored positions."""
    if side.token_N is None:
        raise ValueError("this loss reads token ids, which were not served")
    return side.token_N


def hidden(side: SideOutputs) -> Tensor:
    """hidden_ND of a side that was served with `Serve.HIDDEN`."""
    if side.hidden_ND is None:
        raise ValueError("this loss reads hidden states, which were not served")
    return side.hidden_ND


def ranks(side: SideOutputs) -> Tensor:
    """Where each scored position stands among those of its row: 0 for the first answer token; shape (N,)."""
    order = torch.argsort(side.row_N, stable=True)
    counts = torch.bincount(side.row_N, minlength=side.n_rows)
    starts = counts.cumsum(0) - counts
    ranks_N = torch.empty_like(side.row_N)
    ranks_N[order] = torch.arange(len(order), device=order.device) - starts[side.row_N[order]]
    return ranks_N
