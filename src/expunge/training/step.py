"""Run a gradient transform in place of the plain backward: it requests gradients of terms and returns one gradient.

Unless it is registered for micro-batches it is called once per optimiser step, with the gradients of the whole step.
Each term is an objective with its own server, so a request for one side runs only that side's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import JobError
from expunge.methods.api import LossOutput, Requirements
from expunge.methods.grad_transforms import GradTransform, Perturbation, TokenVectors, Which, spec_of
from expunge.methods.objective import Objective
from expunge.models.packed import bare, find_module
from expunge.training.batching import LossInputBuilder
from expunge.training.term_parts import PARTS, check_grad_transform

Compute = Callable[[Objective, LossInputBuilder], LossOutput]  # the terms of one micro-batch


class GradTransformRunner:
    """A gradient transform bound to one run: its memory between micro-batches, and the servers of each term."""

    def __init__(
        self,
        step: GradTransform,
        objective: Objective,
        server: LossInputBuilder,
        serve: Callable[[Requirements], LossInputBuilder],
    ) -> None:
        check_grad_transform(step, objective)
        self._step = step
        self.memory: dict[str, Any] = {}
        self._sources: dict[Which, tuple[Objective, LossInputBuilder]] = {"total": (objective, server)}
        for which, make in PARTS.items():
            part = make(objective)
            if part is not None:
                alone = serve(part.needs)
                alone.memory = server.memory  # all terms of a method share one memory
                self._sources[which] = (part, alone)

    @property
    def whole_step(self) -> bool:
        """Whether the transform reads all micro-batches of an optimiser step together."""
        return spec_of(self._step).scope == "step"

    def __call__(self, model: Any, computes: Sequence[Compute], *, share: float) -> TransformOutput:
        """Add share * (the transform's gradient) to the parameters' `grad`.

        computes: the micro-batches that the transform reads together. Returns the means over them of the first values
        of the terms.
        """
        named = [(name, p) for name, p in bare(model).named_parameters() if p.requires_grad]
        params = [p for _, p in named]
        gradients = _Gradients(model, params, self._sources, computes, [name for name, _ in named])
        transformed = self._step(gradients, params, self.memory)
        for p, gradient, reached in zip(params, transformed, gradients.reached, strict=True):
            if not reached:  # as in a plain backward: no gradient, so no weight decay either
                continue
            part = (gradient * share).to(p.dtype)
            p.grad = part if p.grad is None else p.grad.add_(part)
        return gradients.terms()


@dataclass(frozen=True)
class TransformOutput(LossOutput):
    """The terms for the log. totals: the first loss of each request, for the check of divergence."""

    totals: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class _Gradients:
    """The gradients of terms over some micro-batches (`methods.grad_transforms.GradientRequest`)."""

    model: Any
    params: list[Tensor]
    sources: Mapping[Which, tuple[Objective, LossInputBuilder]]
    computes: Sequence[Compute]
    names: Sequence[str]
    reached: list[bool] = field(init=False)
    totals: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reached = [False] * len(self.params)

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        if which not in self.sources:
            return [torch.zeros_like(p) for p in self.params]
        if nudge is not None and len(self.computes) > 1:
            raise ValueError(
                "a perturbation has the shape of one micro-batch; register the transform for micro-batches"
            )
        outputs: list[LossOutput] = []
        sums: list[Tensor | None] = []
        for compute in self.computes:
            output, gradients = self._of_one(which, compute, nudge, inner)
            outputs.append(output)
            sums = [_sum(a, b) for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        self._note(which, outputs)
        if inner:
            return [g for g in sums if g is not None]
        if which != "relearn":
            self.reached = [r or g is not None for r, g in zip(self.reached, sums, strict=True)]
        n = len(self.computes)
        means = [g if g is None or n == 1 else g / n for g in sums]
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, means, strict=True)]

    def with_tokens(self, which: Which, modules: Sequence[str]) -> tuple[list[Tensor], TokenVectors]:
        """Return the gradient of a term, and the vectors of its tokens at some modules."""
        with _token_vectors(self.model, modules) as vectors:
            gradients = self(which)
        return gradients, vectors()

    def _of_one(
        self, which: Which, compute: Compute, nudge: Perturbation | None, inner: bool
    ) -> tuple[LossOutput, list[Tensor | None]]:
        """Return the terms of a micro-batch, and the gradient by each parameter, or by the perturbation (`inner`)."""
        with _perturbed(self.model, nudge, with_gradient=inner) as deltas:
            terms = compute(*self.sources[which])
            if nudge is not None and not deltas:
                raise JobError(f"grad_transform: the {which} term does not run the layer {nudge.layer!r}")
            if inner:
                (gradient,) = torch.autograd.grad(terms.total, deltas[:1], allow_unused=True)
                return terms, [torch.zeros_like(deltas[0]) if gradient is None else gradient]
            return terms, list(torch.autograd.grad(terms.total, self.params, allow_unused=True))

    def _note(self, which: Which, outputs: Sequence[LossOutput]) -> None:
        if which in self.totals:
            return
        self.totals[which] = torch.stack([o.total.detach() for o in outputs]).mean()
        if which == "relearn":
            return
        for name in outputs[0].parts:
            self.parts.setdefault(name, torch.stack([o.parts[name].detach() for o in outputs]).mean())

    def terms(self) -> TransformOutput:
        """Return the first value of each term, and their total."""
        of_loss = [value for which, value in self.totals.items() if which != "relearn"]
        total = self.totals.get("total", torch.stack(of_loss).sum() if of_loss else None)
        if total is None:
            raise JobError("grad_transform: the gradient transform requested no term of the loss")
        return TransformOutput(total, self.parts, self.totals)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return a + b, not in place: autograd may return one tensor for several parameters."""
    return b if a is None else a if b is None else a + b


@contextmanager
def _token_vectors(model: Any, modules: Sequence[str]) -> Iterator[Callable[[], TokenVectors]]:
    """Record inputs and output gradients of modules within the block; yield a function that returns them."""
    records: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}

    def keep(name: str, inputs: Tensor, slope: Tensor) -> None:
        x_ND, g_NE = inputs.flatten(0, -2), slope.detach().flatten(0, -2)
        reached_N = (g_NE != 0).any(-1)
        records[name].append((x_ND[reached_N], g_NE[reached_N]))

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            if output.requires_grad:
                inputs = args[0].detach()
                output.register_hook(lambda slope: keep(name, inputs, slope))

        return hook

    key = "trainer.args.grad_transform_args.modules"
    handles = [find_module(model, name, key=key).register_forward_hook(watch(name)) for name in modules]

    def vectors() -> TokenVectors:
        return {
            name: (torch.cat([x for x, _ in parts]), torch.cat([g for _, g in parts]))
            for name, parts in records.items()
            if parts
        }

    try:
        yield vectors
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _perturbed(model: Any, nudge: Perturbation | None, *, with_gradient: bool) -> Iterator[list[Tensor]]:
    """Add a perturbation's delta to its layer's output; yield a list that receives the delta.

    The hook must stay until the backward is done, because activation checkpointing runs the layer again.
    """
    deltas: list[Tensor] = []
    if nudge is None:
        yield deltas
        return

    def change(_module: Any, _args: Any, output: Any) -> Any:
        out = output[0] if isinstance(output, tuple) else output
        if not deltas:
            delta = torch.zeros_like(out) if nudge.delta is None else nudge.delta.detach().to(out.dtype)
            deltas.append(delta.requires_grad_(with_gradient))
        if deltas[0].shape != out.shape:
            raise JobError(
                f"grad_transform: {nudge.layer!r} runs on batches of shapes {tuple(deltas[0].shape)} and "
                f"{tuple(out.shape)} for one term, and one perturbation cannot fit both; choose a method that runs the "
                "model once"
            )
        new = out + deltas[0]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = find_module(model, nudge.layer, key="trainer.args.grad_transform_args.layer").register_forward_hook(change)
    try:
        yield deltas
    finally:
        handle.remove()
