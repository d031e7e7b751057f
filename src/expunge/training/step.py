"""How a gradient transform takes the place of the plain backward: it requests gradients of terms and returns one.

Unless it is registered for micro-batches it is called once per optimiser step, with the gradients of the whole step.
Each term is an objective of its own, served by a server of its own, so asking for one side runs that side's rows alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError, JobError
from expunge.methods.api import LossInputs, LossOutput, Quantity, Requirements
from expunge.methods.grad_transforms import GradTransform, Perturbation, Which, needed, spec_of
from expunge.methods.objective import Objective
from expunge.methods.terms import require
from expunge.models.packed import find_module
from expunge.training.batching import LossInputBuilder

Compute = Callable[[Objective, LossInputBuilder], LossOutput]  # the terms of one micro-batch


def check_grad_transform(step: GradTransform, objective: Objective, where: str = "trainer.args.grad_transform") -> None:
    """Raise ConfigError unless the objective has the terms that the step takes apart."""
    spec = spec_of(step)
    if hasattr(objective.method, "total"):
        raise ConfigError(
            f"{where}: {spec.name} takes the forget and the retain term apart, and {objective.spec.name} weighs them "
            "by a rule of its own; choose another method, or no step"
        )
    have = {"total"} | {w for w, part in PARTS.items() if part(objective)}
    for term in needed(step):
        if term == "relearn" and term not in have:
            raise ConfigError(
                f"{where}: with these grad_transform_args {spec.name} relearns the forget answers, "
                f"and {objective.spec.name} never reads them; choose another method, or grad_transform_args that do "
                "not relearn"
            )
        if term not in have:
            raise ConfigError(
                f"{where}: {spec.name} needs a {term} term, and {objective.spec.name} has none with these weights"
            )


def forget_part(objective: Objective) -> Objective | None:
    """gamma * forget as an objective of its own; None if there is none."""
    if not objective.forgets or objective.weights.gamma == 0:
        return None
    return dataclasses.replace(objective, weights=dataclasses.replace(objective.weights, alpha=0.0, nll_weight=0.0))


def retain_part(objective: Objective) -> Objective | None:
    """Everything that is weighed on the retain rows, as an objective of its own; None if there is nothing."""
    weights = objective.weights
    if objective.needs.retain is None or (weights.alpha == 0 and weights.nll_weight == 0):
        return None
    needs = dataclasses.replace(
        objective.needs, forget=None, forget_ref=None, forget_teacher=None, alternate=None, alternate_ref=None,
        retain=None, retain_ref=None, retain_teacher=None,
    )  # fmt: skip
    own: Requirements = getattr(objective.method, "needs", objective.spec.needs)
    return dataclasses.replace(
        objective,
        method=_RetainOnly(dataclasses.replace(needs, retain=own.retain, retain_positions=own.retain_positions)),
    )


@dataclass(frozen=True)
class _RetainOnly:
    """In place of a method: the retain term alone. The objective never asks it for a forget loss."""

    needs: Requirements


def relearn_part(objective: Objective) -> Objective | None:
    """The negative log-likelihood of the forget answers, whatever the method makes of them; None if it reads none."""
    if objective.needs.forget is None:
        return None
    weights = dataclasses.replace(objective.weights, gamma=1.0, alpha=0.0, nll_weight=0.0, retain_loss_type=None)
    return dataclasses.replace(objective, method=_Relearning(), weights=weights)


@dataclass(frozen=True)
class _Relearning:
    """In place of a method: learn the forget answers."""

    needs: Requirements = field(default_factory=lambda: Requirements(forget=Quantity.LOGPS))

    def forget_loss(self, view: LossInputs) -> Tensor:
        """NLL_f, with the sign of learning."""
        return require(view.forget, "forget").nll


PARTS: Mapping[Which, Callable[[Objective], Objective | None]] = {
    "forget": forget_part,
    "retain": retain_part,
    "relearn": relearn_part,
}


class GradTransformRunner:
    """A step bound to one run: what it remembers from micro-batch to micro-batch, and the servers of each term."""

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
                alone.memory = server.memory  # a method remembers the same things whichever term is asked for
                self._sources[which] = (part, alone)

    @property
    def whole_step(self) -> bool:
        """Whether the transform takes all micro-batches of an optimiser step together."""
        return spec_of(self._step).scope == "step"

    def __call__(self, model: Any, computes: Sequence[Compute], *, share: float) -> TransformOutput:
        """Add share * (the transform's gradient) to the parameters' `grad`.

        computes: the micro-batches that the transform takes together. Returns the means over them of the terms as they
        were first computed.
        """
        params = [p for p in model.parameters() if p.requires_grad]
        gradients = _Gradients(model, params, self._sources, computes)
        made = self._step(gradients, params, self.memory)
        for p, gradient, reached in zip(params, made, gradients.reached, strict=True):
            if not reached:  # as in a plain backward: no gradient, so no weight decay either
                continue
            part = (gradient * share).to(p.dtype)
            p.grad = part if p.grad is None else p.grad.add_(part)
        return gradients.terms()


@dataclass(frozen=True)
class TransformOutput(LossOutput):
    """The terms as the log shows them. totals: the loss of each request, as it was first computed, to be checked."""

    totals: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class _Gradients:
    """The gradients of terms over some micro-batches (`methods.grad_transforms.GradientRequest`)."""

    model: Any
    params: list[Tensor]
    sources: Mapping[Which, tuple[Objective, LossInputBuilder]]
    computes: Sequence[Compute]
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
            made, given = self._of_one(which, compute, nudge, inner)
            outputs.append(made)
            sums = [_sum(a, b) for a, b in zip(sums, given, strict=True)] if sums else given
        self._note(which, outputs)
        if inner:
            return [g for g in sums if g is not None]
        if which != "relearn":
            self.reached = [r or g is not None for r, g in zip(self.reached, sums, strict=True)]
        n = len(self.computes)
        means = [g if g is None or n == 1 else g / n for g in sums]
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, means, strict=True)]

    def _of_one(
        self, which: Which, compute: Compute, nudge: Perturbation | None, inner: bool
    ) -> tuple[LossOutput, list[Tensor | None]]:
        """The terms of a micro-batch, and the gradient by each parameter, or by the perturbation (`inner`)."""
        with _perturbed(self.model, nudge, with_gradient=inner) as held:
            terms = compute(*self.sources[which])
            if nudge is not None and not held:
                raise JobError(f"step: the {which} term does not run the layer {nudge.layer!r}")
            if inner:
                (found,) = torch.autograd.grad(terms.total, held[:1], allow_unused=True)
                return terms, [torch.zeros_like(held[0]) if found is None else found]
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
        """Each term as first computed, and their total."""
        of_loss = [value for which, value in self.totals.items() if which != "relearn"]
        total = self.totals.get("total", torch.stack(of_loss).sum() if of_loss else None)
        if total is None:
            raise JobError("step: the gradient transform requested no term of the loss")
        return TransformOutput(total, self.parts, self.totals)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, not in place: autograd may return one tensor for several parameters."""
    return b if a is None else a if b is None else a + b


@contextmanager
def _perturbed(model: Any, nudge: Perturbation | None, *, with_gradient: bool) -> Iterator[list[Tensor]]:
    """Add a nudge's delta to its layer's output; yields the list that the used delta is put in.

    It must stay in place until the backward is done: activation checkpointing runs the layer again there.
    """
    held: list[Tensor] = []
    if nudge is None:
        yield held
        return

    def change(_module: Any, _args: Any, output: Any) -> Any:
        out = output[0] if isinstance(output, tuple) else output
        if not held:
            delta = torch.zeros_like(out) if nudge.delta is None else nudge.delta.detach().to(out.dtype)
            held.append(delta.requires_grad_(with_gradient))
        if held[0].shape != out.shape:
            raise JobError(
                f"step: {nudge.layer!r} runs on batches of shapes {tuple(held[0].shape)} and {tuple(out.shape)} for "
                "one term, and one perturbation cannot serve both; choose a method that runs the model once"
            )
        new = out + held[0]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = find_module(model, nudge.layer, key="trainer.args.grad_transform_args.layer").register_forward_hook(change)
    try:
        yield held
    finally:
        handle.remove()
