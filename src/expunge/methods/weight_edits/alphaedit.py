from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import HiddenStatistics, Moments, State, weight_edit
from expunge.methods.weight_edits.key_values import RefusalEdit, ridge

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("AlphaEdit", revision=1, paper="arXiv:2410.02355, arXiv:2505.19855", fidelity="code", statistics=True)
@strict
@dataclass(frozen=True, kw_only=True)
class AlphaEdit(RefusalEdit):
    """Null-space editing (Fang et al. 2024, arXiv:2410.02355) towards refusals.

    The refusals follow arXiv:2505.19855.
    Idea: MEMIT, but only along directions that the retain examples do not use, so their outputs stay.
    Formula: W' = W + R K^T P (K K^T P + ridge I)^-1, module after module; P projects onto the eigenvectors of C whose
    eigenvalues are below `threshold`. K, C, R and the targets are those of MEMIT (`expunge list methods MEMIT`).

    The update and the projection equal the authors' code on the same tensors; the search is that of MEMIT. All forget
    questions are one edit, so there are no keys of earlier edits. The rest of our reading is that of MEMIT.

    Defaults: modules, threshold 0.02, ridge 10 and value_rate 0.1 are the authors' for Llama-3-8B.

    Pitfalls: eigenvalues have the size of squared hidden states. If none is below the threshold, the edit ends with an
    error that names the smallest; if nearly all are, this is a plain ridge regression.

    Try: methods: [{trainer: AlphaEdit, method_args: {modules: [model.layers.2.mlp.down_proj]}}] in a study
    """

    threshold: float = 0.02
    """Eigenvalue of C below which a direction counts as unused."""
    ridge: float = 10.0
    """Weight of the length of the update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("threshold", "ridge"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number > 0")

    def __call__(self, base: State, statistics: HiddenStatistics) -> dict[str, Tensor]:
        """Return the edited weights. Raises ConfigError for an unknown module, or if there is no unused direction."""
        self.check_weights(base)
        moments = statistics.moments([f"{m}:input" for m in self.modules], "retain", "row")
        free = {m: self.projection(moments[f"{m}:input"], m) for m in self.modules}

        def update(module: str, keys_DB: Tensor, missing_EB: Tensor) -> Tensor:
            system_DD = ridge(free[module] @ keys_DB @ keys_DB.T, self.ridge)
            delta_DE: Tensor = torch.linalg.solve(system_DD, free[module] @ keys_DB @ missing_EB.T)
            return delta_DE.T

        return self.write_refusals(base, statistics, update)

    def projection(self, of: Moments, module: str) -> Tensor:
        """Return P, (D, D), onto the directions that retained keys do not use. Raises ConfigError if there is none."""
        values_D, vectors_DD = torch.linalg.eigh(of.square_DD / of.n)
        unused: Tensor = vectors_DD[:, values_D < self.threshold]
        if unused.shape[1] == 0:
            raise ConfigError(
                f"AlphaEdit.threshold: {self.threshold:g} leaves no direction at {module}; its smallest eigenvalue is "
                f"{float(values_D[0]):.3g}, so use a larger threshold"
            )
        return unused @ unused.T
