from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import HiddenStatistics, State, weight_edit
from expunge.methods.weight_edits.key_values import RefusalEdit

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("MEMIT", revision=1, paper="arXiv:2210.07229, arXiv:2505.19855", fidelity="code", statistics=True)
@strict
@dataclass(frozen=True, kw_only=True)
class MEMIT(RefusalEdit):
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

    covariance_weight: float = 15000.0
    """Weight of the covariance of retained keys."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.covariance_weight < float("inf"):
            raise ValueError("covariance_weight must be a number > 0")

    def __call__(self, base: State, statistics: HiddenStatistics) -> dict[str, Tensor]:
        """Return the edited weights. Raises ConfigError if the model has no such module."""
        self.check_weights(base)
        moments = statistics.moments([f"{m}:input" for m in self.modules], "retain", "row")

        def update(module: str, keys_DB: Tensor, missing_EB: Tensor) -> Tensor:
            of = moments[f"{module}:input"]
            system_DD = self.covariance_weight * of.square_DD / of.n + keys_DB @ keys_DB.T
            adjusted_DB: Tensor = torch.linalg.solve(system_DD, keys_DB)
            return missing_EB @ adjusted_DB.T

        return self.write_refusals(base, statistics, update)
