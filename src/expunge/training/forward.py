"""Run a model for one quantity at some positions of a batch, and return it as a `SideOutputs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.data.batch import Batch
from expunge.methods.api import Quantity, ScoredPositions, SideOutputs
from expunge.models.chunks import ChunkedLogits
from expunge.models.packed import BatchPositions as At
from expunge.models.packed import LmHead, UnknownLmHead, packed_forward, token_logps
from expunge.training.phases import ForwardSpec


@dataclass(frozen=True)
class ForwardOutput:
    """Logits at the scored positions, computed now or on reading (None for HIDDEN), and the hidden states hidden_ND.

    widths: the widths of the hidden states of each module, if there are several.
    """

    logits: Tensor | ChunkedLogits | None
    hidden_ND: Tensor
    widths: tuple[int, ...] = ()

    def whole(self) -> Tensor:
        """Return logits_NV; compute them if necessary. Raises ValueError for an output of hidden states."""
        if self.logits is None:
            raise ValueError("the output contains hidden states, no logits")
        return self.logits if isinstance(self.logits, Tensor) else self.logits()

    def logps(self, token_N: Tensor) -> Tensor:
        """Return log p of the token at each position, in nats, shape (N,)."""
        if isinstance(self.logits, ChunkedLogits):
            return self.logits.per_token(token_logps, [token_N.__getitem__])
        return token_logps(self.whole(), token_N)

    def side(self, batch: Batch, spec: ForwardSpec, *, logps_N: Tensor | None = None) -> SideOutputs:
        """Return the outputs of one side for a loss. Quantities that a loss may skip are computed on reading."""
        logps: Any = logps_N
        if logps_N is None:
            logps = self.hidden_ND.new_zeros(0) if self.logits is None else lambda: self.logps(batch.token_N)
        logits: Any = self.logits if spec.serve is Quantity.LOGITS else None
        return SideOutputs(
            logps_N=logps,
            row_N=batch.row_N,
            n_rows=batch.n_rows,
            logits_NV=logits,
            token_N=batch.token_N,
            hidden_ND=self.hidden_ND if spec.layers else None,
            labelled_N=batch.labelled_N,
            marked_N=batch.marked_N,
            widths=self.widths,
        )

    def split(self, sizes: Sequence[int]) -> list[ForwardOutput]:
        """Return the output in consecutive parts of these sizes.

        One split gives all parts, so its gradient is one concatenation without a copy of all logits per part.
        """
        hidden = self.hidden_ND.split(list(sizes))
        logits = [None] * len(sizes) if self.logits is None else self.logits.split(list(sizes))
        return [ForwardOutput(x, h, self.widths) for x, h in zip(logits, hidden, strict=True)]


def forward(
    model: Any, batch: Batch, spec: ForwardSpec, *, head: LmHead | None = None, chunk: int = 0, probe: int = 0
) -> ForwardOutput:
    """Run the model once. The model receives a mask only if padding positions are read.

    Args:
        model: A causal language model.
        batch: The padded batch.
        spec: The quantity, the positions and the modules.
        head: Computes logits from hidden states when they are read, `chunk` positions at a time if possible. None: the
            model computes all logits.
        chunk: Positions per chunk of logits. 0: all at once.
        probe: The number of positions at which the head is compared with the model.

    Raises:
        UnknownLmHead: If the head's logits differ from the model's.
    """
    at = At(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N)
    if spec.serve is Quantity.HIDDEN:
        from expunge.models.hidden_states import layer_outputs

        return ForwardOutput(None, *_side_by_side(layer_outputs(model, at, spec.layers)))
    with _recorded(model, at, spec) as states:
        packed = packed_forward(
            model, at, use_mask=spec.positions is ScoredPositions.ALL, n_head=None if head is None else probe
        )
    hidden = (packed.hidden_ND, ()) if states is None else _side_by_side(states())
    if head is None:
        return ForwardOutput(packed.logits_NV, *hidden)
    if probe and not head.gives(packed):
        raise UnknownLmHead
    return ForwardOutput(ChunkedLogits(head, packed.hidden_ND, chunk, packed.autocast), *hidden)


def _recorded(model: Any, at: At, spec: ForwardSpec) -> AbstractContextManager[Callable[[], Sequence[Tensor]] | None]:
    """Return the context that records the hidden states of one forward, if the loss reads some."""
    if not spec.layers:
        return nullcontext()
    from expunge.models.hidden_states import hidden_states_in

    return hidden_states_in(model, at, spec.layers)


def _side_by_side(states: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the hidden states of all modules as one tensor, and their widths; no widths for one module."""
    if len(states) == 1:
        return states[0], ()
    return torch.cat([h.to(states[0].device) for h in states], dim=-1), tuple(h.shape[-1] for h in states)
