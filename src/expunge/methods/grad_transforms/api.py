"""The interface of a gradient transform: a rule over gradients, called once per optimiser step, around any loss.

A transform reads no model, batch or loss. It requests the gradient of a term at the current weights, and returns the
gradient to use. Several transforms form a stack: each changes the forget gradient that the next one requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.registry import Fidelity, Registry

if TYPE_CHECKING:
    from torch import Tensor

TokenVectors = Mapping[str, "tuple[Tensor, Tensor]"]
Which = Literal["total", "forget", "retain", "relearn"]


@dataclass(frozen=True)
class Perturbation:
    """A perturbation of one layer's output during a forward: `delta`, of the output's shape (None: zero)."""

    layer: str
    delta: Tensor | None = None


class GradientRequest(Protocol):
    """How a transform requests gradients of a step. Each call runs one forward and one backward of each micro-batch.

    names: each parameter's name in the model (`model.layers.3.mlp.down_proj.weight`), in the order of the gradients.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of the parameters."""
        ...

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        """Return the gradient of a term at the current weights, per parameter.

        The terms are gamma * forget, alpha * retain and their total. "relearn" is not part of the loss, has no weight
        and is not logged. It is the mean negative log-likelihood of the forget answers' tokens, which an adversary
        descends to restore them. A parameter that the term does not reach, or a term that the objective does not have,
        yields zeros.

        Args:
            which: The term.
            nudge: Perturbation of one layer's output during the forward.
            inner: Return only [d term / d delta] of the perturbation.
        """
        ...

    def with_tokens(self, which: Which, modules: Sequence[str]) -> tuple[list[Tensor], TokenVectors]:
        """Return the gradient of a term, and the tokens' vectors at some modules, from the same forward and backward.

        The vectors of a module are its inputs (N, D) and the gradients of the term in its outputs (N, E). The term
        depends on the outputs of these N tokens. Modules that the term does not run are left out.
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
    fidelity: Fidelity = ""

    @property
    def page(self) -> str:
        """The user page of the transform: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[GradTransformSpec] = Registry(
    "gradient transform", lambda spec: spec.cls, folder="methods/grad_transforms", decorator="grad_transform"
)
C = TypeVar("C", bound=type[Any])


def grad_transform(
    name: str,
    *,
    revision: int,
    needs: tuple[Which, ...],
    paper: str,
    scope: Literal["step", "micro_batch"] = "step",
    fidelity: Fidelity = "",
) -> Callable[[C], C]:
    """Register a frozen dataclass as a gradient transform under the name that users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(GradTransformSpec(name, revision, cls, needs, paper, scope, fidelity))
        return cls

    return register


def grad_transform_registry() -> Mapping[str, GradTransformSpec]:
    """Return all gradient transforms by name."""
    return _REGISTRY


def find_step(name: str, where: str = "grad_transform") -> GradTransformSpec:
    """Return the gradient transform with a name. Raises ConfigError with the nearest right name."""
    return _REGISTRY.find(name, where)


Names = str | Sequence[str]


def make_grad_transform(name: Names, args: Mapping[str, Any], where: str = "") -> GradTransform:
    """Decode a gradient transform's name and settings, or those of a stack.

    Args:
        name: A name, or several in order: each changes the forget gradient that the next one requests.
        args: The settings; of a stack, the settings of each transform by its name.
        where: Key of the group that holds both.

    Raises:
        ConfigError: If a name or a setting is wrong, or the transforms do not fit each other.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(name, str):
        return _make_stack(tuple(name), args, prefix)
    spec = find_step(name, f"{prefix}grad_transform")
    transform: GradTransform = decode(spec.cls, args, where=f"{prefix}grad_transform_args")
    return transform


def _make_stack(names: Sequence[str], args: Mapping[str, Any], prefix: str) -> GradTransform:
    """Return the stack of transforms `names`. Raises ConfigError if one of them cannot be where it is."""
    key = f"{prefix}grad_transform"
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"{key}: expected different transforms, got {list(names)}")
    for name in args:
        if name not in names:
            raise ConfigError(
                f"{prefix}grad_transform_args.{name}: not in the stack {list(names)}{nearest(name, names)}"
            )
    rules: list[GradTransform] = []
    for i, name in enumerate(names):
        spec = find_step(name, f"{key}[{i}]")
        rules.append(decode(spec.cls, args.get(name, {}), where=f"{prefix}grad_transform_args.{name}"))
    for i, rule in enumerate(rules):
        if i < len(rules) - 1 and "retain" in needed(rule):
            raise ConfigError(f"{key}[{i}]: {names[i]} reads the retain gradient as well, so it must be the last one")
        if spec_of(rule).scope != spec_of(rules[0]).scope:
            raise ConfigError(
                f"{key}[{i}]: {names[i]} reads {_PER[spec_of(rule).scope]} and {names[0]} "
                f"{_PER[spec_of(rules[0]).scope]}; a stack reads one or the other"
            )
    return rules[0] if len(rules) == 1 else GradTransformStack(tuple(rules))


_PER = {"step": "whole steps", "micro_batch": "single micro-batches"}


@dataclass(frozen=True)
class GradTransformStack:
    """Several gradient transforms: each one but the last changes the forget gradient that the next one requests.

    A transform inside the stack reads the forget term alone: the retain gradient is zero for it. The last one reads
    that result as the forget gradient, and the retain gradient of the model.
    """

    rules: tuple[GradTransform, ...]

    @property
    def needs(self) -> tuple[Which, ...]:
        """The terms of all its transforms."""
        return tuple(dict.fromkeys(term for rule in self.rules for term in needed(rule)))

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the last transform's gradient. Each transform has a memory of its own."""
        for rule in self.rules[:-1]:
            gradient = _TransformedForget(rule, gradient, params, memory.setdefault(spec_of(rule).name, {}))
        last = self.rules[-1]
        return last(gradient, params, memory.setdefault(spec_of(last).name, {}))


@dataclass(frozen=True)
class _TransformedForget:
    """Gradients of a step whose forget term a transform has changed."""

    rule: GradTransform
    below: GradientRequest
    params: Sequence[Tensor]
    memory: dict[str, Any]

    @property
    def names(self) -> Sequence[str]:
        """The names of the parameters."""
        return self.below.names

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        """Return the gradient of a term, with the transform around the forget term."""
        if inner or nudge is not None or which not in ("forget", "total"):
            return self.below(which, nudge=nudge, inner=inner)
        forget = self.rule(_ForgetAlone(self.below, self.params), self.params, self.memory)
        if which == "forget":
            return forget
        return [f + r for f, r in zip(forget, self.below("retain"), strict=True)]

    def with_tokens(self, which: Which, modules: Sequence[str]) -> tuple[list[Tensor], TokenVectors]:
        """Return the gradient of a term with the transform, and the tokens' vectors without it."""
        return self(which), self.below.with_tokens(which, modules)[1]


@dataclass(frozen=True)
class _ForgetAlone:
    """Gradients of a step without its retain term."""

    below: GradientRequest
    params: Sequence[Tensor]

    @property
    def names(self) -> Sequence[str]:
        """The names of the parameters."""
        return self.below.names

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        """Return the gradient of a term; zeros for retain."""
        if which == "retain":
            return [p.detach() * 0 for p in self.params]
        return self.below("forget" if which == "total" else which, nudge=nudge, inner=inner)

    def with_tokens(self, which: Which, modules: Sequence[str]) -> tuple[list[Tensor], TokenVectors]:
        """Return the gradient of a term, and the tokens' vectors."""
        return self.below.with_tokens("forget" if which == "total" else which, modules)


def spec_of(rule: GradTransform) -> GradTransformSpec:
    """Return the registration of a transform from `make_grad_transform`; of a stack, one made of its parts."""
    if isinstance(rule, GradTransformStack):
        specs = [spec_of(one) for one in rule.rules]
        name = "+".join(spec.name for spec in specs)
        return GradTransformSpec(name, 1, GradTransformStack, rule.needs, "", specs[0].scope)
    return _REGISTRY.of(rule)


def needed(rule: GradTransform) -> tuple[Which, ...]:
    """Return the terms that a transform requires with its current settings."""
    own: tuple[Which, ...] = getattr(rule, "needs", spec_of(rule).needs)
    return own


def grad_transform_identity(rule: GradTransform) -> dict[str, Any]:
    """Return the content of a transform's fingerprint: name, revision and every setting; of a stack, of each part."""
    if isinstance(rule, GradTransformStack):
        return {"stack": [grad_transform_identity(one) for one in rule.rules]}
    return _REGISTRY.identity(rule)
