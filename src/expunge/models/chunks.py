"""Logits of many positions, computed some at a time: no more than one chunk of them is alive.

What a loss takes from the logits of a position is one number, so the logits themselves need not be kept: the backward
computes those of a chunk again, from the hidden states. That costs one more product with the head's weights, and saves
several [N, V] tensors, the largest of a training step where the vocabulary is large. Where the head is not trained, the
slope of each number in its hidden state is taken in the forward, and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from expunge.models.packed import Head

Read = Callable[[slice], Tensor]  # something of each position, for a slice of them


@dataclass(frozen=True)
class Chunks:
    """The logits of N positions, not computed yet. size: how many positions at a time (0: all at once).

    Called, it gives logits_NV whole.
    """

    head: Head
    hidden_ND: Tensor
    size: int = 0
    autocast: torch.dtype | None = None

    def __call__(self) -> Tensor:
        """logits_NV."""
        return self.head(self.hidden_ND, self.autocast)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a position."""
        return len(self.head.weight)

    def part(self, at: slice) -> Tensor:
        """The logits of some positions, as constants."""
        with torch.no_grad():
            return self.head(self.hidden_ND[at], self.autocast)

    def split(self, sizes: Sequence[int]) -> list[Chunks]:
        """The same in consecutive parts."""
        return [Chunks(self.head, h, self.size, self.autocast) for h in self.hidden_ND.split(list(sizes))]

    def per_token(self, fn: Callable[..., Tensor], beside: Sequence[Read]) -> Tensor:
        """fn(logits of some positions, and what each of `beside` reads there) -> their values; all N of them.

        Gradients reach the hidden states, the head's weight and its bias. What `fn` reads otherwise is constant. It is
        called again in the backward, and must give the same then.
        """
        n = len(self.hidden_ND)
        if self.size == 0 or n <= self.size:
            return fn(self(), *(read(slice(0, n)) for read in beside))
        slices = [slice(k, min(k + self.size, n)) for k in range(0, n, self.size)]
        work = _Work(self.head, fn, beside, slices, self.autocast, *_ambient(self.hidden_ND), torch.is_grad_enabled())
        values_N: Tensor = _PerToken.apply(self.hidden_ND, self.head.weight, self.head.bias, work)  # type: ignore[no-untyped-call]
        return values_N


def _ambient(x: Tensor) -> tuple[str, bool, torch.dtype]:
    """Device and state of automatic mixed precision where the loss is computed."""
    device = x.device.type
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


@dataclass(frozen=True)
class _Work:
    """All of a per-token quantity but the tensors that gradients flow to."""

    head: Head
    fn: Callable[..., Tensor]
    beside: Sequence[Read]
    slices: Sequence[slice]
    autocast: torch.dtype | None
    device: str
    ambient_on: bool
    ambient_type: torch.dtype
    with_gradient: bool

    def ambient(self) -> Any:
        """Mixed precision as it was where the loss was computed: a backward runs without it."""
        return torch.autocast(self.device, dtype=self.ambient_type, enabled=self.ambient_on)

    def values(self, raw_CV: Tensor, at: slice) -> Tensor:
        """The values of a chunk from what the head's product gave."""
        return self.fn(self.head.finish(raw_CV, self.autocast), *(read(at) for read in self.beside))

    def slope(self, raw_CV: Tensor, at: slice, grad_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """The values of a chunk, and the gradient of their sum, weighed by grad_C, in the head's product."""
        raw_CV.requires_grad_()
        with torch.enable_grad():
            values_C = self.values(raw_CV, at)
            if not values_C.requires_grad:
                return values_C, torch.zeros_like(raw_CV)
            (slope_CV,) = torch.autograd.grad(values_C, raw_CV, torch.ones_like(values_C) if grad_C is None else grad_C)
        return values_C.detach(), slope_CV


class _PerToken(torch.autograd.Function):
    """values_N of hidden states and a head, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
        w, b = work.head.cast(work.autocast)
        states_ND = hidden_ND.to(w.dtype)
        ctx.work = work
        # in half precision of 16 bits with a short exponent, slopes underflow until the loss's scale is on them
        eager = work.with_gradient and not any(ctx.needs_input_grad[1:3]) and w.dtype != torch.float16
        values: list[Tensor] = []
        slopes: list[Tensor] = []
        for at in work.slices:
            raw_CV = F.linear(states_ND[at], w, b)
            if eager:
                values_C, slope_CV = work.slope(raw_CV, at, None)
                slopes.append(slope_CV @ w)
                del slope_CV
            else:
                values_C = work.values(raw_CV, at)
            values.append(values_C)
            del raw_CV, values_C  # so that the next chunk takes their place
        if eager:
            ctx.save_for_backward(torch.cat(slopes))
        else:
            ctx.save_for_backward(hidden_ND, weight, bias)
        ctx.eager, ctx.states_type = eager, hidden_ND.dtype
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        if ctx.eager:
            (slopes_ND,) = ctx.saved_tensors
            return (slopes_ND * grad_N[:, None]).to(ctx.states_type), None, None, None
        hidden_ND, weight, bias = ctx.saved_tensors
        with ctx.work.ambient():
            found = _Gradients(ctx.work, hidden_ND, weight, bias, ctx.needs_input_grad)
            for at in ctx.work.slices:
                found.add(at, grad_N[at])
        return found.hidden_ND, *found.of_head(), None


class _Gradients:
    """The gradients of one backward, summed over its chunks in float32 at least."""

    def __init__(
        self, work: _Work, hidden_ND: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]
    ) -> None:
        self._work = work
        self._w, self._b = work.head.cast(work.autocast)
        self._states_ND = hidden_ND.to(self._w.dtype)
        self._types = (weight.dtype, None if bias is None else bias.dtype)
        sums = torch.promote_types(weight.dtype, torch.float32)
        self.hidden_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        self._weight_VD = torch.zeros_like(weight, dtype=sums) if wanted[1] else None
        self._bias_V = torch.zeros_like(bias, dtype=sums) if bias is not None and wanted[2] else None

    def add(self, at: slice, grad_C: Tensor) -> None:
        """One chunk: its logits again, and from there to the hidden states and the head."""
        states_CD = self._states_ND[at]
        slope_CV = self._work.slope(F.linear(states_CD, self._w, self._b), at, grad_C)[1]
        if self.hidden_ND is not None:
            self.hidden_ND[at] = slope_CV @ self._w
        if self._weight_VD is not None:
            if slope_CV.dtype == self._weight_VD.dtype:
                self._weight_VD.addmm_(slope_CV.T, states_CD)
            else:
                self._weight_VD += slope_CV.T @ states_CD
        if self._bias_V is not None:
            self._bias_V += slope_CV.sum(0, dtype=self._bias_V.dtype)

    def of_head(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of weight and bias, in their own types."""
        both = zip((self._weight_VD, self._bias_V), self._types, strict=True)
        weight, bias = (None if g is None else g.to(kind) for g, kind in both)
        return weight, bias
