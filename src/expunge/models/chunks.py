"""Logits of many positions, computed in chunks: at most one chunk of them is in memory.

A loss reads one number from the logits of a position, so the logits need not be stored. The backward computes a chunk's
logits again, from the hidden states. This costs one more product with the head's weights, and saves several [N, V]
tensors, the largest of a training step with a large vocabulary. If the head is not trained, the forward computes the
gradient of each number in its hidden state, and nothing is computed twice.

A chunk is the result of one product with the weights; it is large enough to amortise reading the weights. The loss
reads a chunk in strips, so its own [., V] tensors are small and stay in a CPU's cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from expunge.models.packed import LmHead

ADDED_ROWS = 4096  # rows of a head's gradient that are added at a time, so the product to add stays small
Read = Callable[[slice], Tensor]  # something of each position, for a slice of them


class ChunkedLogits:
    """The logits of N positions, not computed yet. size: positions per chunk (0: all at once).

    A call returns logits_NV whole. autocast: the type of the head's product under mixed precision.
    """

    def __init__(self, head: LmHead, hidden_ND: Tensor, size: int = 0, autocast: torch.dtype | None = None) -> None:
        self.head, self.hidden_ND, self.size, self.autocast = head, hidden_ND, size, autocast
        self._sums = _HeadSums(head.weight, head.bias)
        self._weight, self._bias = _Gather.apply(head.weight, head.bias, self._sums)  # type: ignore[no-untyped-call]

    def __call__(self) -> Tensor:
        """Return logits_NV."""
        return self.head(self.hidden_ND, self.autocast)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a position."""
        return len(self.head.weight)

    def part(self, at: slice) -> Tensor:
        """Return the logits of some positions, without gradients."""
        with torch.no_grad():
            return self.head(self.hidden_ND[at], self.autocast)

    def split(self, sizes: Sequence[int]) -> list[ChunkedLogits]:
        """Return consecutive parts of these sizes."""
        out: list[ChunkedLogits] = []
        for hidden_ND in self.hidden_ND.split(list(sizes)):
            out.append(copy.copy(self))
            out[-1].hidden_ND = hidden_ND
        return out

    def per_token(self, fn: Callable[..., Tensor], others: Sequence[Read]) -> Tensor:
        """Return the N values of `fn`, chunk by chunk.

        Gradients reach the hidden states, the head's weight and its bias; other inputs of `fn` are constant. The
        backward calls `fn` again, which must return the same values.

        Args:
            fn: Maps the logits of C positions, and the values of each of `others` there, to C numbers.
            others: Functions from a slice of positions to further inputs of `fn`.
        """
        n = len(self.hidden_ND)
        if self.size == 0 or (n <= self.size and n * self.vocabulary <= _strip_size(self.hidden_ND.device.type)):
            return fn(self(), *(read(slice(0, n)) for read in others))
        slices = [slice(k, min(k + self.size, n)) for k in range(0, n, self.size)]
        with_gradient = torch.is_grad_enabled()
        work = _ChunkWork(
            self.head, self._sums, fn, others, slices, self.autocast, *_ambient(self.hidden_ND), with_gradient
        )
        values_N: Tensor = _PerToken.apply(self.hidden_ND, self._weight, self._bias, work)  # type: ignore[no-untyped-call]
        return values_N


def _strip_size(device: str) -> int:
    """Return the number of logits of a strip: 1 MiB, which fits a CPU's cache; on a GPU, enough for a kernel."""
    return 2**18 if device == "cpu" else 2**23


def _ambient(x: Tensor) -> tuple[str, bool, torch.dtype]:
    """Return the device and the state of automatic mixed precision of the loss."""
    device = x.device.type
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


@dataclass(frozen=True)
class _ChunkWork:
    """A per-token quantity without the tensors that receive gradients."""

    head: LmHead
    sums: _HeadSums
    fn: Callable[..., Tensor]
    others: Sequence[Read]
    slices: Sequence[slice]
    autocast: torch.dtype | None
    device: str
    ambient_on: bool
    ambient_type: torch.dtype
    with_gradient: bool

    def ambient(self) -> Any:
        """Return the context of the loss's mixed precision, which a backward does not have by itself."""
        return torch.autocast(self.device, dtype=self.ambient_type, enabled=self.ambient_on)

    def values(self, raw_CV: Tensor, at: slice) -> Tensor:
        """Return the values of a chunk from the result of the head's product."""
        others = [read(at) for read in self.others]
        return torch.cat([self._strip(raw_CV[s], [x[s] for x in others]) for s in self._strips(raw_CV)])

    def slopes(self, raw_CV: Tensor, at: slice, grad_C: Tensor | None) -> Tensor:
        """Return the values of a chunk. raw_CV becomes the gradient of their sum in it, weighted by grad_C if set."""
        others = [read(at) for read in self.others]
        values: list[Tensor] = []
        for s in self._strips(raw_CV):
            leaf = raw_CV[s].detach().requires_grad_()
            with torch.enable_grad():
                strip = self._strip(leaf, [x[s] for x in others])
            values.append(strip.detach())
            weights = torch.ones_like(strip) if grad_C is None else grad_C[s]
            raw_CV[s] = torch.autograd.grad(strip, leaf, weights)[0] if strip.requires_grad else 0
        return torch.cat(values)

    def _strips(self, raw_CV: Tensor) -> list[slice]:
        n, vocabulary = raw_CV.shape
        rows = max(1, _strip_size(self.device) // vocabulary)
        return [slice(k, k + rows) for k in range(0, n, rows)]

    def _strip(self, raw_SV: Tensor, others: Sequence[Tensor]) -> Tensor:
        return self.fn(self.head.finish(raw_SV, self.autocast), *others)


class _Product:
    """Hidden states of a chunk times the head's weights; every chunk's result overwrites the one before."""

    def __init__(self, weight: Tensor, bias: Tensor | None, slices: Sequence[slice]) -> None:
        self._weight, self._bias = weight, bias
        self._room_CV = weight.new_empty(max(at.stop - at.start for at in slices), len(weight))

    def __call__(self, states_CD: Tensor) -> Tensor:
        raw_CV = torch.mm(states_CD, self._weight.T, out=self._room_CV[: len(states_CD)])
        return raw_CV if self._bias is None else raw_CV.add_(self._bias)


class _HeadSums:
    """The gradients of a head's weight and bias as one sum over all readers of a forward, not one sum per reader.

    The sums are in float32 at least. An interrupted backward leaves a sum behind, which the next backward discards.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._like = (weight, bias)
        self._trained = (weight.requires_grad, bias is not None and bias.requires_grad)
        self._sums: list[Tensor | None] = [None, None]
        self._backward = -1

    def add(self, slope_CV: Tensor, states_CD: Tensor) -> None:
        """Add a chunk's share, from the gradient in the head's own logits (before softcapping or scaling)."""
        if self._backward != (now := torch._C._current_graph_task_id()):
            self._sums, self._backward = [self._zeros(0), self._zeros(1)], now
        weight_VD, bias_V = self._sums
        if weight_VD is not None:
            if slope_CV.dtype == weight_VD.dtype:
                weight_VD.addmm_(slope_CV.T, states_CD)
            else:
                for k in range(0, len(weight_VD), ADDED_ROWS):
                    weight_VD[k : k + ADDED_ROWS] += slope_CV[:, k : k + ADDED_ROWS].T @ states_CD
        if bias_V is not None:
            bias_V += slope_CV.sum(0, dtype=bias_V.dtype)

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """Return both sums, in the types of weight and bias, and reset them."""
        sums = [None if g is None or x is None else g.to(x.dtype) for g, x in zip(self._sums, self._like, strict=True)]
        self._sums, self._backward = [None, None], -1
        return sums[0], sums[1]

    def _zeros(self, i: int) -> Tensor | None:
        x = self._like[i]
        if x is None or not self._trained[i]:
            return None
        return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


class _Gather(torch.autograd.Function):
    """Weight and bias unchanged; their gradient is the content of `sums` after the backward of all readers."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, sums: _HeadSums) -> tuple[Tensor, Tensor | None]:
        """Return views of weight and bias."""
        ctx.sums = sums
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_none: None) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the sums."""
        return *ctx.sums.take(), None


class _PerToken(torch.autograd.Function):
    """values_N of hidden states and a head, chunk by chunk. weight, bias: the outputs of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight: Tensor, bias: Tensor | None, work: _ChunkWork) -> Tensor:
        """Compute the values; without a trained head also their gradients in the hidden states."""
        ctx.work, ctx.states_type = work, hidden_ND.dtype
        w, b = work.head.cast(work.autocast)
        states_ND = hidden_ND.to(w.dtype)
        product = _Product(w, b, work.slices)
        # float16 has too few exponents for gradients before the loss scale is applied
        ctx.ahead = work.with_gradient and not any(ctx.needs_input_grad[1:3]) and w.dtype != torch.float16
        values: list[Tensor] = []
        slopes: list[Tensor] = []
        for at in work.slices:
            raw_CV = product(states_ND[at])
            if ctx.ahead:
                values.append(work.slopes(raw_CV, at, None))
                slopes.append(raw_CV @ w)
            else:
                values.append(work.values(raw_CV, at))
        if ctx.ahead:
            ctx.save_for_backward(torch.cat(slopes))
        else:
            ctx.save_for_backward(hidden_ND, weight, bias)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Return the gradient in the hidden states, and add the head's gradients to the sums."""
        work: _ChunkWork = ctx.work
        if ctx.ahead:
            (slopes_ND,) = ctx.saved_tensors
            return (slopes_ND * grad_N[:, None]).to(ctx.states_type), None, None, None
        hidden_ND = ctx.saved_tensors[0]
        hidden_grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        with work.ambient():
            w, b = work.head.cast(work.autocast)
            states_ND = hidden_ND.to(w.dtype)
            product = _Product(w, b, work.slices)
            for at in work.slices:
                slope_CV = product(states_ND[at])
                work.slopes(slope_CV, at, grad_N[at])
                if hidden_grad_ND is not None:
                    hidden_grad_ND[at] = slope_CV @ w
                work.sums.add(slope_CV, states_ND[at])
        return hidden_grad_ND, None, None, None
