"""Shared parts of edits that write key-value pairs into linear layers: MEMIT, AlphaEdit and LUNAR.

A key k is the input of a module, a value its output. An update D of the weight adds D k to the module's output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.names import MatrixName, ModuleName
from expunge.core.on_use import torch
from expunge.methods.terms import check_modules
from expunge.methods.weight_edits.api import HiddenStatistics, State, TargetSearch

if TYPE_CHECKING:
    from torch import Tensor

DOWN = tuple(f"model.layers.{i}.mlp.down_proj" for i in range(4, 9))
Update = Callable[[str, "Tensor", "Tensor"], "Tensor"]  # module, keys (D, B), residuals (E, B) -> D_ED


def check_linear(names: Sequence[str], block: str | None = None) -> None:
    """Raise ValueError unless `modules` are modules in numbered layers, or `block` names the layer ("": it does not).

    block: None for an edit without that setting.
    """
    check_modules(names, "modules")
    if any(name.endswith(":input") for name in names):
        raise ValueError("modules must name modules, not their inputs")
    if not block and any(layer_of(name) is None for name in names):
        other = "" if block is None else ", or block must name the layer"
        raise ValueError(f"modules must be inside numbered layers, such as model.layers.7.mlp.down_proj{other}")


def layer_of(module: str) -> str | None:
    """Return the name of a module's numbered layer: `model.layers.8` of `model.layers.8.mlp.down_proj`."""
    match = re.match(r"(.*\.\d+)\.", module)
    return match[1] if match else None


def weight_of(base: State, module: str, edit: str) -> Tensor:
    """Return a linear module's weight. Raises ConfigError if the model has no matrix of that name."""
    name = f"{module}.weight"
    if name not in base:
        raise ConfigError(f"{edit}.modules: the model has no tensor {name!r}{nearest(name, base)}")
    if base[name].dim() != 2:
        raise ConfigError(f"{edit}.modules: {name!r} is no matrix; name a linear module, such as an MLP's down_proj")
    return base[name]


def added(weight: Tensor, delta_ED: Tensor) -> Tensor:
    """Return weight + delta in the weight's dtype; transposed for a layer that keeps its weight as (inputs, outputs).

    A square weight is taken as (outputs, inputs).
    """
    delta = delta_ED if delta_ED.shape == weight.shape else delta_ED.T
    return (weight.double() + delta.to(weight.device)).to(weight.dtype)


def ridge(square_DD: Tensor, amount: float) -> Tensor:
    """Return square + amount * I."""
    return square_DD + amount * torch.eye(len(square_DD), dtype=square_DD.dtype, device=square_DD.device)


@strict
@dataclass(frozen=True, kw_only=True)
class RefusalEdit:
    """The settings and the steps that MEMIT and AlphaEdit share: targets for a refusal, written module after module."""

    modules: tuple[MatrixName, ...] = DOWN
    """Names of the linear modules to edit, from the lowest layer to the highest."""
    block: ModuleName = ""
    """Name of the layer whose output has the targets; empty: the layer of the last module."""
    value_steps: int = 25
    """Steps of the search for a target state."""
    value_rate: float = 0.1
    """Learning rate of that search."""
    value_decay: float = 0.5
    """Weight of the length of the change in that search."""
    clamp: float = 0.75
    """Largest length of the change, relative to the state."""

    def __post_init__(self) -> None:
        check_linear(self.modules, self.block)
        if self.value_steps < 1:
            raise ValueError("value_steps must be at least 1")
        for key in ("value_rate", "clamp"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number > 0")
        if not 0 <= self.value_decay < float("inf"):
            raise ValueError("value_decay must be a number >= 0")

    def check_weights(self, base: State) -> None:
        """Raise ConfigError if the model has no such module."""
        for module in self.modules:
            weight_of(base, module, type(self).__name__)

    def write_refusals(self, base: State, statistics: HiddenStatistics, update: Update) -> dict[str, Tensor]:
        """Return weights that move the states of `block` at the last prompt tokens to those of refusals.

        Module i of L receives 1 / (L - i) of the missing part, with the keys that the earlier updates lead to.
        """
        block = self.block or str(layer_of(self.modules[-1]))
        search = TargetSearch(self.value_steps, self.value_rate, self.value_decay, self.clamp)
        target_BE = statistics.targets(block, search)
        changed: dict[str, Tensor] = {}
        for i, module in enumerate(self.modules):
            keys_BD = statistics.states(f"{module}:input", "forget", "last", changed)
            missing_BE = target_BE - statistics.states(block, "forget", "last", changed)
            delta_ED = update(module, keys_BD.T, missing_BE.T / (len(self.modules) - i))
            changed[f"{module}.weight"] = added(base[f"{module}.weight"], delta_ED)
        return {name: changed.get(name, tensor) for name, tensor in base.items()}
