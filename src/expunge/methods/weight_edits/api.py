"""The interface of a weight edit: a pure function from the tensors of some models to those of one.

An edit that is registered with `statistics=True` also reads hidden states of its base model, by `HiddenStatistics`.

Arithmetic is in float32 or wider, and each result is cast back to the dtype of the first model. Tensors that do not
contain floating-point numbers are copied from the first model. No input changes in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.on_use import torch
from expunge.core.registry import Fidelity, Registry
from expunge.methods.terms import wide

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]


Positions = Literal["last", "prompt", "row"]
"""last: the last prompt token of each row. prompt: each prompt token. row: each token of prompt and answer."""


@dataclass(frozen=True)
class Moments:
    """Sums over N positions: n is N, sum_D that of the states, square_DD that of their outer products (float64)."""

    n: int
    sum_D: Tensor
    square_DD: Tensor


@dataclass(frozen=True)
class TargetSearch:
    """The search of hidden states at a layer that make the model give other answers.

    steps: of Adam. rate: its learning rate. decay: weight of ||delta|| / ||h||^2. clamp: largest ||delta|| / ||h||.
    enough: loss, in nats, at which the search of a row ends.
    """

    steps: int = 25
    rate: float = 0.1
    decay: float = 0.5
    clamp: float = 0.75
    enough: float = 0.05


class HiddenStatistics(Protocol):
    """Hidden states of an edit's base model, which an edit requests module by module.

    names: modules as in the model; `NAME:input` is a module's input. of: "forget" or "retain", or texts of questions.
    changed: new values of some tensors of the base, by name; the other tensors stay. Results are in float64.
    """

    def states(self, name: str, of: Source, at: Positions, changed: State) -> Tensor:
        """Return a module's states at all positions, row after row: (N, D)."""
        ...

    def moments(self, names: Sequence[str], of: Source, at: Positions) -> dict[str, Moments]:
        """Return the moments of the base model's states, by module, from one pass over the rows."""
        ...

    def targets(self, name: str, search: TargetSearch) -> Tensor:
        """Return, for each forget question, states of `name` at the last prompt token that lead to a refusal: (B, D).

        The state h + delta minimises the mean negative log-likelihood of the refusal's tokens and the decay.
        """
        ...


Source = Literal["forget", "retain"] | Sequence[str]


class WeightEdit(Protocol):
    """A frozen dataclass of settings that is called with the tensors of the input models.

    An edit registered with `statistics=True` is called as `edit(base, statistics)` instead.
    """

    def __call__(self, base: State, others: Sequence[State]) -> dict[str, Tensor]:
        """Return new weights from `base` and the other models, tensors by name.

        Raises:
            ConfigError: If the models differ in tensor names or shapes (the message names the tensor), or their number
                is wrong.
        """
        ...


@dataclass(frozen=True)
class WeightEditSpec:
    """A registered weight edit.

    others: the kind of each further model, one word for errors and lists ("": none). statistics: whether the edit reads
    hidden states of the base model (`HiddenStatistics`) in place of other models.
    """

    name: str
    revision: int
    cls: type[Any]
    others: str
    paper: str
    fidelity: Fidelity = ""
    statistics: bool = False

    @property
    def page(self) -> str:
        """The user page of the edit: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[WeightEditSpec] = Registry(
    "edit", lambda spec: spec.cls, folder="methods/weight_edits", decorator="weight_edit"
)
C = TypeVar("C", bound=type[Any])


def weight_edit(
    name: str, *, revision: int, paper: str, others: str = "", fidelity: Fidelity = "", statistics: bool = False
) -> Callable[[C], C]:
    """Register a frozen dataclass as a weight edit under the name that users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(WeightEditSpec(name, revision, cls, others, paper, fidelity, statistics))
        return cls

    return register


def weight_edit_registry() -> Registry[WeightEditSpec]:
    """Return all weight edits by name."""
    return _REGISTRY


def find_edit(name: str, where: str = "edit") -> WeightEditSpec:
    """Return the weight edit with a name. Raises ConfigError with the nearest right name."""
    return _REGISTRY.find(name, where)


def make_weight_edit(name: str, args: Mapping[str, Any], where: str = "edit") -> WeightEdit:
    """Decode the name and settings of a weight edit. Raises ConfigError."""
    edit: WeightEdit = decode(find_edit(name, where).cls, args, where=f"{where}_args")
    return edit


def check_same(base: State, others: Sequence[State], *, what: str) -> None:
    """Raise ConfigError, naming the tensor, unless all models have the tensor names and shapes of the first."""
    for number, other in enumerate(others, start=1):
        label = f"{what} {number}" if len(others) > 1 else what
        for name in base:
            if name not in other:
                raise ConfigError(f"{label}: has no tensor {name!r}, which the base has{nearest(name, other)}")
        for name, tensor in other.items():
            if name not in base:
                raise ConfigError(f"{label}: has a tensor {name!r}, which the base has not{nearest(name, base)}")
            if tensor.shape != base[name].shape:
                raise ConfigError(
                    f"{label}: {name!r} has shape {tuple(tensor.shape)}, in the base it has {tuple(base[name].shape)}"
                )


def each(base: State, rule: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Apply `rule(name, tensor)` to every floating-point tensor in float32 or wider and cast back; copy the others.

    Names that share one storage (tied embeddings) get one result, under the first name.
    """
    out: dict[str, Tensor] = {}
    done: dict[tuple[Any, ...], str] = {}
    for name, tensor in base.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if key in done and tensor.numel():
            out[name] = out[done[key]]
            continue
        done[key] = name
        out[name] = rule(name, wide(tensor)).to(tensor.dtype) if tensor.is_floating_point() else tensor.clone()
    return out


def seeded(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator that depends only on the seed and the names, not on the order of the tensors."""
    text = "\0".join(str(n) for n in (seed, *names))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
