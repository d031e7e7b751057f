from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.on_use import ModuleOnUse
from expunge.models.wrapper_api import WrapInputs, wrapper

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.models import wrapped
else:
    wrapped = ModuleOnUse("expunge.models.wrapped")


@wrapper("logit_difference", revision=2, paper="arXiv:2406.08607", fidelity="reading", helper="reinforced")
@strict
@dataclass(frozen=True, kw_only=True)
class LogitDifference:
    """Logit difference decoding (ULD, Ji et al. 2024, arXiv:2406.08607): subtract the extra knowledge of a helper.

    Formula: logits = l - strength (l_helper - l), with l the model's logits. The helper knows the forget examples well:
        in a study it is the model trained further on them. With strength 1 a token that training on the forget examples
        makes more likely becomes less likely by as much.

    Our reading: ULD trains a small helper to know the forget examples and to be uniform on the retain examples, and
    uses l - strength l_helper. A helper that equals the model elsewhere needs the difference.

    Pitfalls: two models are in memory, and each row is read twice. The helper must have the model's vocabulary.

    Try: methods: [{trainer: logit_difference, method_args: {strength: 0.5}}] in a study
    """

    strength: float = 1.0
    """Factor of the difference."""

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise ValueError("strength must be a number > 0")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return no tensors: the helper is a model."""
        del inputs
        return {}

    def logits(self, model: Any, helper: Any, state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the logits moved away from the helper's."""
        del state
        own_BTV = wrapped.next_token_logits(model, ids_BT)
        other_BTV = wrapped.helper_logits(helper, ids_BT, own_BTV, "logit_difference")
        return own_BTV - self.strength * (other_BTV - own_BTV)
