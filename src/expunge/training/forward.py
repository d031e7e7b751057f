"""One question to a model: which quantity of which positions of a batch, and its answer as a `SideOutputs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expunge.data.batch import Batch
from expunge.methods.api import Quantity, Requirements, ScoredPositions, SideOutputs
from expunge.models.chunks import ChunkedLogits
from expunge.models.packed import BatchPositions as At
from expunge.models.packed import LmHead, UnknownLmHead, layer_output, packed_forward, token_logps


@dataclass(frozen=True)
class ForwardSpec:
    """What is wanted of one side. layer: the module whose output HIDDEN reads."""

    serve: Quantity
    positions: ScoredPositions = ScoredPositions.ANSWER
    layer: str | None = None


def spec_for(needs: Requirements, side: str, *, ref: bool = False, teacher: bool = False) -> ForwardSpec | None:
    """What a loss asks of a side, or of the reference or the teacher on that side; None where it asks nothing."""
    serve: Quantity | None = getattr(needs, f"{side}{'_teacher' if teacher else '_ref' if ref else ''}", None)
    if serve is None:
        return None
    positions: ScoredPositions = getattr(needs, f"{side}_positions", ScoredPositions.ANSWER)
    if serve is Quantity.HIDDEN and positions is ScoredPositions.ANSWER:
        positions = ScoredPositions.OWN
    return ForwardSpec(serve, positions, needs.layer if serve is Quantity.HIDDEN else None)


@dataclass(frozen=True)
class ForwardOutput:
    """Logits at the asked positions, there or to be computed (none for HIDDEN), and the hidden states, hidden_ND."""

    logits: Tensor | ChunkedLogits | None
    hidden_ND: Tensor

    def whole(self) -> Tensor:
        """logits_NV, computed if they are not there."""
        if self.logits is None:
            raise ValueError("hidden states were asked for, not logits")
        return self.logits if isinstance(self.logits, Tensor) else self.logits()

    def logps(self, token_N: Tensor) -> Tensor:
        """log p of the token that stands at each position, in nats: shape (N,)."""
        if isinstance(self.logits, ChunkedLogits):
            return self.logits.per_token(token_logps, [token_N.__getitem__])
        return token_logps(self.whole(), token_N)

    def side(self, batch: Batch, what: ForwardSpec, *, logps_N: Tensor | None = None) -> SideOutputs:
        """The same as a loss sees it. What it may leave unread is computed when it is read."""
        logps: Any = logps_N
        if logps_N is None:
            logps = self.hidden_ND.new_zeros(0) if self.logits is None else lambda: self.logps(batch.token_N)
        logits: Any = self.logits if what.serve is Quantity.LOGITS else None
        return SideOutputs(
            logps_N=logps,
            row_N=batch.row_N,
            n_rows=batch.n_rows,
            logits_NV=logits,
            token_N=batch.token_N,
            hidden_ND=self.hidden_ND if what.serve is Quantity.HIDDEN else None,
            labelled_N=batch.labelled_N,
        )

    def split(self, sizes: Sequence[int]) -> list[ForwardOutput]:
        """The same in consecutive parts. One split for all parts: its gradient is one concatenation, without copies
        of the size of all logits for each part."""
        hidden = self.hidden_ND.split(list(sizes))
        logits = [None] * len(sizes) if self.logits is None else self.logits.split(list(sizes))
        return [ForwardOutput(x, h) for x, h in zip(logits, hidden, strict=True)]


def forward(
    model: Any, batch: Batch, what: ForwardSpec, *, head: LmHead | None = None, chunk: int = 0, probe: int = 0
) -> ForwardOutput:
    """Run the model once. A mask is given only where padding positions are read.

    head: gives the model's logits from its hidden states, so that they are computed when they are read, and then only
    `chunk` positions at a time where that will do; None: the model gives them, whole. probe: compare the head with the
    model at so many positions. Raises UnknownHead where they differ.
    """
    at = At(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N)
    if what.serve is Quantity.HIDDEN:
        return ForwardOutput(None, layer_output(model, at, what.layer or ""))
    packed = packed_forward(
        model, at, use_mask=what.positions is ScoredPositions.ALL, n_head=None if head is None else probe
    )
    if head is None:
        return ForwardOutput(packed.logits_NV, packed.hidden_ND)
    if probe and not head.gives(packed):
        raise UnknownLmHead
    return ForwardOutput(ChunkedLogits(head, packed.hidden_ND, chunk, packed.autocast), packed.hidden_ND)
