"""Gradients of plain functions of the parameters, asked for as a step asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from expunge.methods.grad_transforms import Perturbation, Which

Term = Callable[[Sequence[Tensor]], Tensor]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Toy:
    """`forget`, `retain` and `relearn` are functions of the parameters; a missing one gives zeros."""

    def __init__(
        self,
        params: Sequence[Tensor],
        forget: Term | None = None,
        retain: Term | None = None,
        relearn: Term | None = None,
    ) -> None:
        self.params = [p.requires_grad_() for p in params]
        self.terms = {"forget": forget, "retain": retain, "relearn": relearn}
        self.asked: list[str] = []
        self.names = [f"p{i}" for i in range(len(self.params))]

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        assert nudge is None and not inner
        self.asked.append(which)
        parts = ("forget", "retain") if which == "total" else (which,)
        used = [t for name, t in self.terms.items() if t is not None and name in parts]
        if not used:
            return [torch.zeros_like(p) for p in self.params]
        total = torch.stack([t(self.params) for t in used]).sum()
        inputs = torch.autograd.grad(total, self.params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, inputs, strict=True)]


def fixed(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> Toy:
    """Linear terms, whose gradients are these wherever the parameters are."""

    def term(g: Sequence[Tensor]) -> Term:
        return lambda params: torch.stack([(x * p).sum() for x, p in zip(g, params, strict=True)]).sum()

    return Toy([torch.zeros_like(x) for x in forget], term(forget), term(retain))
