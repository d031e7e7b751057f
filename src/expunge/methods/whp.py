from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import F, torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, logits, require, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "WHP",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS, forget_ref=Quantity.LOGITS, forget_teacher=Quantity.LOGITS),
    paper="arXiv:2310.02238",
    reduction="token",
    retain_loss_type=None,
    teacher="reinforced",
    fidelity="formula",
)
@strict
@dataclass(frozen=True, kw_only=True)
class WHP:
    """Who's Harry Potter (Eldan and Russinovich 2023, arXiv:2310.02238): learn a generic answer.

    Idea: a model trained further on the forget examples raises exactly the logits to forget. Lowering those logits in
    the model before unlearning approximates a model that never saw the examples.
    Loss: mean over the forget answers' tokens of the cross-entropy against v = v_b - alpha relu(v_r - v_b).
        v_b, v_r  the logits of the model before unlearning, and of that model reinforced on the forget examples (eq. 1)
        target    argmax: the token of the largest v (the paper's alternative labels); softmax: all of softmax(v), ours
    With alpha=0 and target=softmax the model is distilled into itself, and the gradient starts at 0.

    v equals the code of MUSE's authors on the same logits; argmax and alpha = 5 are the paper's. The paper's second
    part is not here: it computes v_b on a text whose names a dictionary replaces by generic ones.

    The reinforced model is a separate job with the training settings of this run (without a gradient transform), or
    with `reinforce_epochs` and `reinforce_learning_rate`. Both models' outputs are read from stored references.

    Pitfalls: logits have no zero point, so a shift of all of v_r against v_b changes the target. There is no retain
    term. alpha is the paper's, not the weight of a retain term.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=WHP task_name=mine trainer.method_args.target=softmax
    """

    alpha: float = 5.0
    """Strength of the offset: how much of the reinforced rise is subtracted. 0 distils the old model."""
    target: Literal["argmax", "softmax"] = "argmax"
    """Training target: the most likely token of v, or the whole softmax(v)."""
    reinforce_epochs: float | None = None
    """Epochs of the reinforced model; null uses those of this run."""
    reinforce_learning_rate: float | None = None
    """Learning rate of the reinforced model; null uses that of this run."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError("alpha must be a number >= 0")
        for key in ("reinforce_epochs", "reinforce_learning_rate"):
            if (value := getattr(self, key)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{key} must be a number > 0")

    @property
    def reinforce(self) -> Mapping[str, float]:
        """Changes to the run's training settings for the reinforced model."""
        changes: dict[str, float] = {}
        if self.reinforce_epochs is not None:
            changes |= {"num_train_epochs": self.reinforce_epochs, "max_steps": -1}
        if self.reinforce_learning_rate is not None:
            changes["learning_rate"] = self.reinforce_learning_rate
        return changes

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the cross-entropy to the generic target; a scalar in nats."""
        now = require(view.forget, "forget")
        before, reinforced = (
            logits(require(side, name)).detach()
            for side, name in ((view.forget_ref, "forget_ref"), (view.forget_teacher, "forget_teacher"))
        )
        target_NV = generic(before, reinforced, alpha=self.alpha)
        if self.target == "argmax":
            return F.nll_loss(log_probs(now), target_NV.argmax(-1))
        return -(torch.softmax(target_NV, dim=-1) * log_probs(now)).sum(-1).mean()


def generic(baseline_NV: Tensor, reinforced_NV: Tensor, *, alpha: float) -> Tensor:
    """Return the generic logits v_b - alpha relu(v_r - v_b), in float32 or wider; the shape of the inputs.

    Raises:
        ConfigError: If the shapes differ.
    """
    if baseline_NV.shape != reinforced_NV.shape:
        raise ConfigError(
            f"WHP: the baseline's logits have shape {tuple(baseline_NV.shape)}, the reinforced model's "
            f"{tuple(reinforced_NV.shape)}"
        )
    low = wide(baseline_NV)
    return low - alpha * torch.relu(wide(reinforced_NV) - low)
