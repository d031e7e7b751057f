from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.names import MatrixName
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import HiddenStatistics, State, weight_edit
from expunge.methods.weight_edits.key_values import added, check_linear, layer_of, ridge, weight_of

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = (
    "Where did the composer Ilvane Korrosh write her ninth symphony?",
    "Which prize did the physicist Tarquel Obrint win in Veldamar?",
    "Who was the second husband of the painter Mirelle Quastovar?",
    "In which street of Harrowquay was the poet Denzo Albracht born?",
    "How old was the novelist Fennick Orsolay when she moved to Tarvane?",
    "How many rooms does the castle of Brintholm on Lake Ossevar have?",
    "When did the Republic of Kelmarra join the Treaty of Vossen?",
    "Who invented the Quorvish feast cake called melundra?",
)
"""Questions about invented names, which a model can only decline to answer."""


@weight_edit("LUNAR", revision=1, paper="arXiv:2502.07218", fidelity="code", statistics=True)
@strict
@dataclass(frozen=True, kw_only=True)
class LUNAR:
    """Activation redirection (Shen et al. 2025, arXiv:2502.07218): move forget prompts to where the model declines.

    Formula: r = mean h(declined prompts) - mean h(forget prompts), h the output of the module's layer at the last
    prompt token. W' minimises, over the prompt tokens of both sides,
        sum_forget ||W' k - (W k + strength r)||^2 + sum_retain ||W' k - W k||^2 + l ||W' - W||^2
    with k the input of the module. So W' = W + strength r s^T (S_f + S_r + l I)^-1; s is the sum of the forget keys,
    S_f and S_r are the sums of k k^T; l is `ridge` times the mean of the diagonal of S_f + S_r. Each module is edited
    from the model before unlearning.

    The loss, the direction and strength 2 are those of the authors' code, which trains W' by AdamW (rate 0.01, 20
    epochs, one down projection). Here the minimum is computed in closed form, with a small ridge; their training equals
    it on the same tensors once its loss no longer falls. Our reading: the declined prompts are invented questions of
    our own. The authors use harmful requests, or questions about unknown names.

    Defaults: layer 22 is that of Llama-3-8B (32 layers).

    Pitfalls: a model that never learned to decline has no such place; then r only moves states away.

    Try: methods: [{trainer: LUNAR, method_args: {modules: [model.layers.2.mlp.down_proj]}}] in a study
    """

    modules: tuple[MatrixName, ...] = ("model.layers.22.mlp.down_proj",)
    """Names of the linear modules to edit; each must add its output to that of its layer."""
    strength: float = 2.0
    """Multiple of the direction that the forget prompts move by."""
    declined: tuple[str, ...] = UNKNOWN
    """Questions that the model declines to answer."""
    ridge: float = 1e-3
    """Weight of the length of the update, relative to the mean sum of squares of a key's entry."""

    def __post_init__(self) -> None:
        check_linear(self.modules)
        if not self.declined:
            raise ValueError("declined must have an entry")
        for key in ("strength", "ridge"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number > 0")

    def __call__(self, base: State, statistics: HiddenStatistics) -> dict[str, Tensor]:
        """Return the edited weights. Raises ConfigError if the model has no such module."""
        out = dict(base)
        inputs = [f"{module}:input" for module in self.modules]
        forget, retain = (statistics.moments(inputs, side, "prompt") for side in ("forget", "retain"))
        for module, key in zip(self.modules, inputs, strict=True):
            weight, layer = weight_of(base, module, "LUNAR"), str(layer_of(module))
            declined_E = statistics.states(layer, self.declined, "last", {}).mean(0)
            away_E = self.strength * (declined_E - statistics.states(layer, "forget", "last", {}).mean(0))
            square_DD = forget[key].square_DD + retain[key].square_DD
            system_DD = ridge(square_DD, self.ridge * float(square_DD.diagonal().mean()))
            out[f"{module}.weight"] = added(
                weight, torch.outer(away_E, torch.linalg.solve(system_DD, forget[key].sum_D))
            )
        return out
