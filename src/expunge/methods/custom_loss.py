"""A loss of your own: a function of `LossInputs` with declared requirements, used in place of a registered method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, as_texts, kind_of, nearest
from expunge.methods.api import LossInputs, MethodSpec, Quantity, Requirements
from expunge.methods.reduction import REDUCTIONS, Reduction

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[[LossInputs], "Tensor"]


@dataclass(frozen=True)
class CustomLoss:
    """A forget loss made by `unlearning_loss`. Call it like the function that it was made of."""

    function: LossFunction
    spec: MethodSpec

    @property
    def needs(self) -> Requirements:
        """The sides and quantities that the function reads."""
        return self.spec.needs

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the function's value: a scalar tensor."""
        return self.function(view)

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Return the function's value: a scalar tensor."""
        return self.function(inputs)


def unlearning_loss(
    function: None = None,
    /,
    *,
    forget: Quantity | str | None = Quantity.LOGPS,
    forget_ref: Quantity | str | None = None,
    alternate: Quantity | str | None = None,
    alternate_ref: Quantity | str | None = None,
    retain: Quantity | str | None = None,
    retain_ref: Quantity | str | None = None,
    layer: str | Sequence[str] | None = None,
    reduction: Reduction = "token",
    retain_loss_type: str | None = "NLL",
    gamma: float = 1.0,
    alpha: float = 1.0,
) -> Callable[[LossFunction], CustomLoss]:
    """Declare the quantities that a loss function reads, so that a trainer can provide them.

    The total loss is `gamma * loss(inputs) + alpha * retain_loss`, as for every registered method.

    Args:
        function: Always None. A function here is a decorator without its call, which ends with an error.
        forget: Quantity of the forget answers: "logps", "logits", "hidden" or "hidden_logps". None: it does not
            read them.
        forget_ref: The same quantity of the model before unlearning.
        alternate: Quantity of other answers to the forget questions (refusals).
        alternate_ref: The same of the model before unlearning.
        retain: Quantity of the retain answers, if the function itself reads them.
        retain_ref: The same of the model before unlearning.
        layer: The module whose output "hidden" is, such as `model.layers.7`, or several. `model.layers.7:input` is
            the module's input.
        reduction: The mean that the function returns: "token" over the scored tokens, as `logps_N.mean()`, or "row"
            over the examples. With gradient accumulation a step is then one mean over all its tokens or rows.
            "micro_batch" for a function that is neither: each micro-batch has an equal weight.
        retain_loss_type: The shared retain term: "NLL", "KL", "JSD", or None for no retain term.
        gamma: Weight of the function's value.
        alpha: Weight of the retain term.

    Returns:
        A decorator. The decorated function is a `CustomLoss`; give it to `UnlearnTrainer(method=...)`.

    Raises:
        ConfigError: If a quantity or a reduction is unknown, "hidden" has no `layer`, or the decorator is not called.
    """
    if function is not None:
        raise ConfigError(
            "unlearning_loss: declare the quantities that the function reads: @unlearning_loss(forget='logps')"
        )
    sides = {
        "forget": forget, "forget_ref": forget_ref, "alternate": alternate, "alternate_ref": alternate_ref,
        "retain": retain, "retain_ref": retain_ref,
    }  # fmt: skip
    read: dict[str, Any] = {side: _quantity(side, value) for side, value in sides.items()}
    if {Quantity.HIDDEN, Quantity.HIDDEN_LOGPS} & {*read.values()} and not layer:
        raise ConfigError("unlearning_loss: hidden is the output of a layer; name it: layer='model.layers.7'")
    needs = Requirements(
        **read,
        layer=layer if layer is None or isinstance(layer, str) else tuple(as_texts(layer, "unlearning_loss.layer")),
    )
    if needs.forget is None and needs.alternate is None:
        raise ConfigError("unlearning_loss: the function reads neither forget nor alternate answers")
    if reduction not in REDUCTIONS:
        raise ConfigError(
            f"unlearning_loss.reduction: no reduction named {reduction!r}{nearest(str(reduction), REDUCTIONS)}"
        )

    def decorate(function: LossFunction) -> CustomLoss:
        if not callable(function):
            raise ConfigError(f"unlearning_loss: expected a function of LossInputs, got {kind_of(function)}")
        name = str(getattr(function, "__name__", "custom_loss"))
        extra: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "retain_loss_type": retain_loss_type}
        return CustomLoss(function, MethodSpec(name, 1, CustomLoss, needs, "", reduction=reduction, **extra))

    return decorate


def _quantity(side: str, value: Quantity | str | None) -> Quantity | None:
    if value is None or isinstance(value, Quantity):
        return value
    allowed = {q.value: q for q in Quantity}
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"unlearning_loss.{side}: no quantity named {value!r}{nearest(str(value), allowed)}")
    return allowed[value]
