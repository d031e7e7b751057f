from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, logits, require, wide


@method(
    "WHP",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS, forget_ref=Quantity.LOGITS, forget_teacher=Quantity.LOGITS),
    paper="arXiv:2310.02238",
    reduction="token",
    retain_loss_type=None,
    teacher="reinforced",
)
@strict
@dataclass(frozen=True, kw_only=True)
class WHP:
    """Who's Harry Potter (Eldan and Russinovich 2023, arXiv:2310.02238): learn what a stranger would have said.

    Idea: a model trained further on the forget rows raises the logits of exactly what is to be forgotten; lower those
    in the model before unlearning, and what remains is what a model that never saw the rows might say.
    Loss: mean over the forget answers' tokens of the cross-entropy of the model against v = v_b - alpha relu(v_r - v_b)
        v_b, v_r  the logits of the model before unlearning, and of that model reinforced on the forget rows
        target    argmax: the token of the largest v (the paper's alternative labels); softmax: all of softmax(v)
    With alpha=0 and target=softmax the model is distilled into itself, and the gradient starts at 0.

    The reinforced model is a job of its own, trained as this run is (but for a step wrapper), or with
    `reinforce_epochs` and `reinforce_learning_rate`. Both models are read from what was stored of them.

    Pitfalls: logits have no zero point, so a shift of all of v_r against v_b changes the target. There is no retain
    term; the paper also replaces names by generic ones, which is not done here. alpha is the paper's, not the weight
    of a retain term.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=WHP trainer.method_args.target=softmax
    """

    alpha: float = 5.0
    target: Literal["argmax", "softmax"] = "argmax"
    reinforce_epochs: float | None = None
    reinforce_learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError("alpha must be a number >= 0")
        for key in ("reinforce_epochs", "reinforce_learning_rate"):
            if (value := getattr(self, key)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{key} must be a number > 0")

    @property
    def reinforce(self) -> Mapping[str, float]:
        """What the reinforced model's training settings change in the run's own."""
        given: dict[str, float] = {}
        if self.reinforce_epochs is not None:
            given |= {"num_train_epochs": self.reinforce_epochs, "max_steps": -1}
        if self.reinforce_learning_rate is not None:
            given["learning_rate"] = self.reinforce_learning_rate
        return given

    def forget_loss(self, view: LossInputs) -> Tensor:
        """The cross-entropy to the generic target."""
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
    """The baseline's logits less what the reinforced model raised, in float32 at least: v_b - alpha relu(v_r - v_b).

    Raises ConfigError where the shapes differ.
    """
    if baseline_NV.shape != reinforced_NV.shape:
        raise ConfigError(
            f"WHP: the baseline's logits have shape {tuple(baseline_NV.shape)}, the reinforced model's "
            f"{tuple(reinforced_NV.shape)}"
        )
    low = wide(baseline_NV)
    return low - alpha * torch.relu(wide(reinforced_NV) - low)
