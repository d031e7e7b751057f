"""The interface of a gradient transform: a rule over gradients, called once per optimiser step, around any loss.

A transform reads no model, batch or loss. It requests the gradient of a term at the current weights, and returns the
gradient to use. A run has at most one transform: it reads the terms separately and returns one gradient, so a second
one around it would have no terms to read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from expunge.core.decode import decode
from expunge.core.registry import Registry

Which = Literal["total", "forget", "retain", "relearn"]


@dataclass(frozen=True)
class Perturbation:
    """A perturbation of one layer's output during a forward: `delta`, of the output's shape (None: zero)."""

    layer: str
    delta: Tensor | None = None


class GradientRequest(Protocol):
    """How a transform requests gradients of a step. Each call runs one forward and one backward of each micro-batch."""

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        """Return the gradient of a term at the current weights, per parameter.

        The terms are gamma * forget, alpha * retain and their total. "relearn" is not part of the loss, has no weight
        and is not logged: it is the mean negative log-likelihood of the forget answers' tokens, which an adversary
        descends to restore them. A parameter that the term does not reach, or a term that the objective does not have,
        yields zeros.

        Args:
            which: The term.
            nudge: Perturbation of one layer's output during the forward.
            inner: Return only [d term / d delta] of the perturbation.
        """
        ...


class GradTransform(Protocol):
    """A frozen dataclass of settings that is called once per optimiser step (or per micro-batch, by its `scope`).

    A transform whose terms depend on its settings has a property `needs`, which overrides the registered one.
    """

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any], /) -> list[Tensor]:
        """Return the gradient to use, per parameter. `memory` lives as long as the run; `params` stay bit-equal."""
        ...


@dataclass(frozen=True)
class GradTransformSpec:
    """A registered gradient transform: its class, and the terms that it requires.

    scope: "step" for a rule over the gradients of a whole optimiser step. "micro_batch" for a rule over single samples,
    whose gradients add up over micro-batches.
    """

    name: str
    revision: int
    cls: type[Any]
    needs: tuple[Which, ...]
    paper: str
    scope: Literal["step", "micro_batch"] = "step"

    @property
    def page(self) -> str:
        """The user page of the transform: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[GradTransformSpec] = Registry("step", lambda spec: spec.cls)
C = TypeVar("C", bound=type[Any])


def grad_transform(
    name: str,
    *,
    revision: int,
    needs: tuple[Which, ...],
    paper: str,
    scope: Literal["step", "micro_batch"] = "step",
) -> Callable[[C], C]:
    """Register a frozen dataclass as a gradient transform under the name that users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(GradTransformSpec(name, revision, cls, needs, paper, scope))
        return cls

    return register


def grad_transform_registry() -> Mapping[str, GradTransformSpec]:
    """Return all gradient transforms by name."""
    return _REGISTRY.all()


def find_step(name: str, where: str = "step") -> GradTransformSpec:
    """Return the gradient transform with a name. Raises ConfigError with the nearest right name."""
    rule = "; a run takes exactly one step, because a step reads the terms separately and returns one gradient"
    return _REGISTRY.find(name, where, rule=rule)


def make_grad_transform(name: str, args: Mapping[str, Any], where: str = "") -> GradTransform:
    """Decode a gradient transform's name and settings. `where` is the key of the group that holds both."""
    prefix = f"{where}." if where else ""
    spec = find_step(name, f"{prefix}grad_transform")
    transform: GradTransform = decode(spec.cls, args, where=f"{prefix}grad_transform_args")
    return transform


def spec_of(rule: GradTransform) -> GradTransformSpec:
    """Return the registration of a transform from `make_grad_transform`."""
    return _REGISTRY.of(rule)


def needed(rule: GradTransform) -> tuple[Which, ...]:
    """Return the terms that a transform requires with its current settings."""
    own: tuple[Which, ...] = getattr(rule, "needs", spec_of(rule).needs)
    return own


def grad_transform_identity(rule: GradTransform) -> dict[str, Any]:
    """Return the content of a transform's fingerprint: name, revision and every setting."""
    spec = spec_of(rule)
    return {"name": spec.name, "revision": spec.revision, "args": dataclasses.asdict(rule)}  # type: ignore[call-overload]
