"""The terms of an objective as objectives of their own, which gradient transforms and phases read separately."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from expunge.core.errors import ConfigError
from expunge.methods.api import LossInputs, Quantity, Requirements
from expunge.methods.objective import Objective
from expunge.methods.reduction import Reduction
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.methods.grad_transforms.api import GradTransform, Which


def check_grad_transform(step: GradTransform, objective: Objective, where: str = "trainer.args.grad_transform") -> None:
    """Raise ConfigError unless the objective has the terms that the gradient transform reads separately."""
    from expunge.methods.grad_transforms.api import needed, spec_of

    spec = spec_of(step)
    if hasattr(objective.method, "total"):
        raise ConfigError(
            f"{where}: {spec.name} reads the forget and the retain term separately, and {objective.spec.name} weighs "
            "them by a rule of its own; choose another method, or no grad_transform"
        )
    have = {"total"} | {w for w, part in PARTS.items() if part(objective)}
    for term in needed(step):
        if term == "relearn" and term not in have:
            raise ConfigError(
                f"{where}: with these grad_transform_args {spec.name} relearns the forget answers, "
                f"and {objective.spec.name} never reads them; choose another method, or grad_transform_args that do "
                "not relearn"
            )
        if term not in have:
            raise ConfigError(
                f"{where}: {spec.name} needs a {term} term, and {objective.spec.name} has none with these weights"
            )


def forget_part(objective: Objective) -> Objective | None:
    """Return gamma * forget as an objective of its own; None if there is no forget term."""
    if not objective.forgets or objective.weights.gamma == 0:
        return None
    return dataclasses.replace(objective, weights=dataclasses.replace(objective.weights, alpha=0.0, nll_weight=0.0))


def retain_part(objective: Objective) -> Objective | None:
    """Return all terms on the retain rows as an objective of its own; None if there are none."""
    weights = objective.weights
    if objective.needs.retain is None or (weights.alpha == 0 and weights.nll_weight == 0):
        return None
    needs = dataclasses.replace(
        objective.needs, forget=None, forget_ref=None, forget_teacher=None, alternate=None, alternate_ref=None,
        rollout=None, rollout_ref=None, retain=None, retain_ref=None, retain_teacher=None,
    )  # fmt: skip
    own: Requirements = getattr(objective.method, "needs", objective.spec.needs)
    needs = dataclasses.replace(needs, retain=own.retain, retain_positions=own.retain_positions)
    return dataclasses.replace(objective, method=_RetainOnly(needs, getattr(objective.method, "retain_loss", None)))


@dataclass(frozen=True)
class _RetainOnly:
    """A method without a forget loss, for the retain term alone. retain_loss: its own retain term, if it has one."""

    needs: Requirements
    retain_loss: Callable[[LossInputs], Tensor] | None = None


def relearn_part(objective: Objective) -> Objective | None:
    """Return the negative log-likelihood of the forget answers as an objective; None if the method reads no answers."""
    if objective.needs.forget is None:
        return None
    weights = dataclasses.replace(objective.weights, gamma=1.0, alpha=0.0, nll_weight=0.0, retain_loss_type=None)
    return dataclasses.replace(objective, method=_Relearning(), weights=weights)


@dataclass(frozen=True)
class _Relearning:
    """A method that learns the forget answers. reduction: a token mean, also if the method has another one."""

    needs: Requirements = field(default_factory=lambda: Requirements(forget=Quantity.LOGPS))
    reduction: Reduction = "token"

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return NLL_f, to be minimised."""
        return require(view.forget, "forget").nll


PARTS: Mapping[Which, Callable[[Objective], Objective | None]] = {
    "forget": forget_part,
    "retain": retain_part,
    "relearn": relearn_part,
}
