from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import HiddenStatistics, State, TargetSearch, weight_edit
from expunge.methods.weight_edits.key_values import DOWN, check_linear, layer_of, weight_of, write_refusals

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("MEMIT", revision=1, paper="arXiv:2210.07229, arXiv:2505.19855", fidelity="code", statistics=True)
@strict
@dataclass(frozen=True, kw_only=True)
class MEMIT:
    """Mass editing (Meng et al. 2022, arXiv:2210.07229) towards refusals.

    The refusals follow arXiv:2505.19855.
    Idea: write "this question leads to a refusal" into the MLPs of a few layers, by linear algebra.
    Formula: W' = W + R K^T (covariance_weight C + K K^T)^-1, module after module
        K  the inputs of the module at the last prompt tokens of the forget questions
        C  the mean of k k^T over the tokens of the retain examples
        R  the difference from the states of `block` to the targets z, divided by the number of modules left
        z  the states that make a refusal likely: h + d, found by Adam for each question; the loss is the mean NLL of
           the refusal's tokens + value_decay ||d|| / ||h||^2, with ||d|| <= clamp ||h||

    The update and the search equal the authors' code on the same tensors. Our reading: keys and targets are at the last
    prompt token, because examples name no subject. The random prefixes and the KL term on "SUBJECT is a" are left out.
    C comes from the retain examples; the authors use 100,000 texts of Wikipedia.

    Defaults: modules, value_rate and covariance_weight are the settings of AlphaEdit's authors for Llama-3-8B.

    Pitfalls: the model must have these layers. A small `covariance_weight` forgets more and keeps less.

    Try: methods: [{trainer: MEMIT, method_args: {modules: [model.layers.2.mlp.down_proj]}}] in a study
    """

    modules: tuple[str, ...] = DOWN
    """Names of the linear modules to edit, from the lowest layer to the highest."""
    block: str = ""
    """Name of the layer whose output has the targets; empty: the layer of the last module."""
    covariance_weight: float = 15000.0
    """Weight of the covariance of retained keys."""
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
        check_search(self.value_steps, self.value_rate, self.value_decay, self.clamp)
        if not 0 < self.covariance_weight < float("inf"):
            raise ValueError("covariance_weight must be a number > 0")

    def __call__(self, base: State, statistics: HiddenStatistics) -> dict[str, Tensor]:
        """Return the edited weights. Raises ConfigError if the model has no such module."""
        for module in self.modules:
            weight_of(base, module, "MEMIT")
        moments = statistics.moments([f"{m}:input" for m in self.modules], "retain", "row")

        def update(module: str, keys_DB: Tensor, missing_EB: Tensor) -> Tensor:
            of = moments[f"{module}:input"]
            system_DD = self.covariance_weight * of.square_DD / of.n + keys_DB @ keys_DB.T
            adjusted_DB: Tensor = torch.linalg.solve(system_DD, keys_DB)
            return missing_EB @ adjusted_DB.T

        search = TargetSearch(self.value_steps, self.value_rate, self.value_decay, self.clamp)
        block = self.block or str(layer_of(self.modules[-1]))
        return write_refusals(base, statistics, self.modules, block, search, update)


def check_search(steps: int, rate: float, decay: float, clamp: float) -> None:
    """Raise ValueError, which names the field, for a search that cannot run."""
    if steps < 1:
        raise ValueError("value_steps must be at least 1")
    for key, value in (("value_rate", rate), ("clamp", clamp)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{key} must be a number > 0")
    if not 0 <= decay < float("inf"):
        raise ValueError("value_decay must be a number >= 0")
