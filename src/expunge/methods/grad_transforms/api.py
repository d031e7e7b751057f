"""What a step is: a rule over gradients, called once for each micro-batch, that wraps any loss.

A step never sees a model, a batch or a loss. It asks for the gradient of a term at the weights as they stand now, and
returns the gradient to use. Exactly one step wraps a run: a step reads the terms apart and gives back one gradient, so
a second one around it would have no terms to read.
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
    """How a step asks for gradients of one micro-batch. Each call is a forward and a backward of its own."""

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        """Gradient of a term (gamma * forget, alpha * retain, or their total) at the present weights, per parameter.

        "relearn" is no part of the loss, has no weight and is not logged: the mean negative log-likelihood of the
        forget answers' tokens, what an adversary descends to bring them back.

        A parameter that the term does not reach, or a term that the objective does not have, gives zeros. With `nudge`
        the layer's output is changed in the forward; with `inner` as well, the answer is [d term / d delta] alone.
        """
        ...


class GradTransform(Protocol):
    """A frozen dataclass of settings that is called once for each micro-batch.

    A step whose needs depend on its settings has a property `needs`, which then counts instead of the registered one.
    """

    def __call__(self, ask: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """The gradient to use, per parameter. `memory` lives as long as the run; `params` are left bit-equal."""
        ...


@dataclass(frozen=True)
class GradTransformSpec:
    """A registered step: its class, and the terms without which it makes no sense."""

    name: str
    revision: int
    cls: type[Any]
    needs: tuple[Which, ...]
    paper: str

    @property
    def page(self) -> str:
        """The step's page: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[GradTransformSpec] = Registry("step", lambda spec: spec.cls)
C = TypeVar("C", bound=type[Any])


def grad_transform(name: str, *, revision: int, needs: tuple[Which, ...], paper: str) -> Callable[[C], C]:
    """Register a frozen dataclass as a step under the name users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(GradTransformSpec(name, revision, cls, needs, paper))
        return cls

    return register


def grad_transform_registry() -> Mapping[str, GradTransformSpec]:
    """All steps by name."""
    return _REGISTRY.all()


def find_step(name: str, where: str = "step") -> GradTransformSpec:
    """The step of a name. Raises ConfigError with the nearest right name."""
    rule = "; a run takes exactly one step, because a step reads the terms apart and returns one gradient"
    return _REGISTRY.find(name, where, rule=rule)


def make_grad_transform(name: str, args: Mapping[str, Any], where: str = "") -> GradTransform:
    """Decode a gradient transform's name and settings. `where` is the key of the group that holds both."""
    prefix = f"{where}." if where else ""
    spec = find_step(name, f"{prefix}grad_transform")
    made: GradTransform = decode(spec.cls, args, where=f"{prefix}grad_transform_args")
    return made


def spec_of(rule: GradTransform) -> GradTransformSpec:
    """The registration of a step made by `make_grad_transform`."""
    return _REGISTRY.of(rule)


def needed(rule: GradTransform) -> tuple[Which, ...]:
    """The terms without which a step makes no sense, with its settings as they are."""
    own: tuple[Which, ...] = getattr(rule, "needs", spec_of(rule).needs)
    return own


def grad_transform_identity(rule: GradTransform) -> dict[str, Any]:
    """What a fingerprint covers of a step: name, revision and every setting."""
    spec = spec_of(rule)
    return {"name": spec.name, "revision": spec.revision, "args": dataclasses.asdict(rule)}  # type: ignore[call-overload]
