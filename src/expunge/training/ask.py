"""One question to a model: which quantity of which positions of a batch, and its answer as a `Side`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expunge.data.batch import Batch
from expunge.methods.api import Needs, Positions, Serve, Side
from expunge.models.packed import Positions as At
from expunge.models.packed import layer_output, packed_forward, token_logps


@dataclass(frozen=True)
class Ask:
    """What is wanted of one side. layer: the module whose output HIDDEN reads."""

    serve: Serve
    positions: Positions = Positions.ANSWER
    layer: str | None = None


def asked(needs: Needs, side: str, *, ref: bool = False, teacher: bool = False) -> Ask | None:
    """What a loss asks of a side, or of the reference or the teacher on that side; None where it asks nothing."""
    serve: Serve | None = getattr(needs, f"{side}{'_teacher' if teacher else '_ref' if ref else ''}", None)
    if serve is None:
        return None
    positions: Positions = getattr(needs, f"{side}_positions", Positions.ANSWER)
    if serve is Serve.HIDDEN and positions is Positions.ANSWER:
        positions = Positions.OWN
    return Ask(serve, positions, needs.layer if serve is Serve.HIDDEN else None)


@dataclass(frozen=True)
class Said:
    """logits_NV at the asked positions (empty for HIDDEN), and the hidden states there, hidden_ND."""

    logits_NV: Tensor
    hidden_ND: Tensor

    def side(self, batch: Batch, what: Ask, *, logps_N: Tensor | None = None) -> Side:
        """The same as a loss sees it."""
        hidden = what.serve is Serve.HIDDEN
        if logps_N is None:
            logps_N = self.logits_NV if hidden else token_logps(self.logits_NV, batch.token_N)
        return Side(
            logps_N=logps_N,
            row_N=batch.row_N,
            n_rows=batch.n_rows,
            logits_NV=self.logits_NV if what.serve is Serve.LOGITS else None,
            token_N=batch.token_N,
            hidden_ND=self.hidden_ND if hidden else None,
            labelled_N=batch.labelled_N,
        )

    def split(self, sizes: Sequence[int]) -> list[Said]:
        """The same in consecutive parts. One split for all parts: its gradient is one concatenation, without copies
        of the size of all logits for each part."""
        hidden = self.hidden_ND.split(list(sizes))
        logits = self.logits_NV.split(list(sizes)) if len(self.logits_NV) else [self.logits_NV] * len(sizes)
        return [Said(x, h) for x, h in zip(logits, hidden, strict=True)]


def ask(model: Any, batch: Batch, what: Ask) -> Said:
    """Run the model once. A mask is given only where padding positions are read."""
    at = At(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N)
    if what.serve is Serve.HIDDEN:
        hidden = layer_output(model, at, what.layer or "")
        return Said(hidden.new_zeros(0), hidden)
    packed = packed_forward(model, at, use_mask=what.positions is Positions.ALL)
    return Said(packed.logits_NV, packed.hidden_ND)
