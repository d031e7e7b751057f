"""A method of your own over two layers: move the hidden states of the forget answers to the mean over the batch.

Try: expunge unlearn --plugin two_layers.py experiment=unlearn/tofu/default trainer=Blend task_name=mine
"""

from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require


@method(
    "Blend",
    revision=1,
    needs=Requirements(forget=Quantity.HIDDEN, forget_ref=Quantity.HIDDEN),
    paper="none: an example",
    reduction="token",
    retain_loss_type="EMBED_NORM",
)
@strict
@dataclass(frozen=True, kw_only=True)
class Blend:
    """Blend the forget examples: E[||h - mean(h_ref)||^2 / D], over an input and an output of a layer."""

    layers: tuple[str, ...] = ("model.layers.0:input", "model.layers.1")
    """Modules whose hidden states are read; `NAME:input` is the input of a module."""

    @property
    def needs(self) -> Requirements:
        """Hidden states of `layers`, and the reference's."""
        return Requirements(forget=Quantity.HIDDEN, forget_ref=Quantity.HIDDEN, layer=self.layers)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the mean squared distance over tokens and both layers."""
        now, before = require(view.forget, "forget").layers_ND, require(view.forget_ref, "forget_ref").layers_ND
        return sum((h - ref.mean(0)).square().mean() for h, ref in zip(now, before, strict=True)) / len(now)
