"""Small functions that several losses share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.core.on_use import torch
from expunge.methods.api import MODULE, Quantity, Requirements, ScoredPositions, SideOutputs

if TYPE_CHECKING:
    from torch import Tensor


def require(side: SideOutputs | None, name: str) -> SideOutputs:
    """Return a side of the loss inputs; raise ValueError if it is None although the method requires it."""
    if side is None:
        raise ValueError(f"this loss reads {name!r}, which was not provided")
    return side


def logits(side: SideOutputs) -> Tensor:
    """Return logits_NV of a side; raise ValueError unless the side has `Quantity.LOGITS`."""
    if side.logits_NV is None:
        raise ValueError("this loss reads logits, which were not provided")
    return side.logits_NV


def log_probs(of: SideOutputs | Tensor) -> Tensor:
    """Return log p of every vocabulary entry at each position, (N, V), in float32 or wider; of a side, or of logits."""
    return torch.log_softmax(wide(logits(of) if isinstance(of, SideOutputs) else of), dim=-1)


def wide(x: Tensor) -> Tensor:
    """Cast a floating-point tensor to float32 or wider, because long sums lose digits in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def tokens(side: SideOutputs) -> Tensor:
    """Return token_N of a side, the ids at its scored positions; raise ValueError if the side has none."""
    if side.token_N is None:
        raise ValueError("this loss reads token ids, which were not provided")
    return side.token_N


def marked(side: SideOutputs) -> Tensor:
    """Return marked_N of a side, True at tokens with the mark; raise ValueError unless the side has marks."""
    if side.marked_N is None:
        raise ValueError("this loss reads the marks of tokens, which were not provided")
    return side.marked_N


def hidden(side: SideOutputs) -> Tensor:
    """Return hidden_ND of a side; raise ValueError unless the side has hidden states."""
    if side.hidden_ND is None:
        raise ValueError("this loss reads hidden states, which were not provided")
    return side.hidden_ND


def ranks(side: SideOutputs) -> Tensor:
    """Return the index of each scored position within its row, shape (N,): 0 for the first answer token."""
    order = torch.argsort(side.row_N, stable=True)
    counts = torch.bincount(side.row_N, minlength=side.n_rows)
    starts = counts.cumsum(0) - counts
    ranks_N = torch.empty_like(side.row_N)
    ranks_N[order] = torch.arange(len(order), device=order.device) - starts[side.row_N[order]]
    return ranks_N


def check_modules(names: Sequence[str], key: str = "layers") -> None:
    """Raise ValueError, which names the field `key`, unless each name is a module's, with `:input` for its input."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{key} must name different modules, such as model.layers.7")
    for name in names:
        if not re.fullmatch(MODULE, name):
            raise ValueError(f"{key} must name modules, such as model.layers.7 or model.layers.7:input")


def hidden_and_reference(layers: tuple[str, ...]) -> Requirements:
    """Return the needs of a loss that compares the forget examples' hidden states with the initial model's."""
    return Requirements(
        forget=Quantity.HIDDEN, forget_ref=Quantity.HIDDEN, forget_positions=ScoredPositions.OWN, layer=layers
    )
