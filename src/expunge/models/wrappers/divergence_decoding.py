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


@wrapper("divergence_decoding", revision=1, paper="arXiv:2605.31293", fidelity="code", helper="forget and retain")
@strict
@dataclass(frozen=True, kw_only=True)
class DivergenceDecoding:
    """Divergence decoding (arXiv:2605.31293): correct the logits by the difference of two small helpers.

    Formula: logits = l + alpha (l_retain - l_forget), with l the model's logits. The helper of l_retain is trained on
        the retain examples, that of l_forget on the forget examples. With `top_k` the logits of the k tokens of the
        largest l_forget - l_retain become the smallest logit of the position, and alpha is not used.

    Both rules equal the authors' code on the same logits, except that theirs sets the k tokens to minus infinity; a
    finite logit keeps log-probabilities finite. Their rule for helpers of another tokenizer is not here.

    Our reading: in a study the helpers are the initial model, trained on one side each with the settings of
    `unlearn`. The authors use smaller pretrained models; in Python pass any two models of the same vocabulary.

    Pitfalls: three models are in memory, and each row is read three times. Helpers that are hardly trained change
    little, so `args` of the entry should train them well.

    Try: methods: [{trainer: divergence_decoding, method_args: {alpha: 0.8}}] in a study
    """

    alpha: float = 1.0
    """Factor of the difference."""
    top_k: int = 0
    """Tokens of each position that are suppressed; 0 uses the linear rule."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise ValueError("alpha must be a number > 0")
        if self.top_k < 0:
            raise ValueError("top_k must be a whole number >= 0")
        if self.top_k and self.alpha != 1:
            raise ValueError("alpha must be left out next to top_k, which does not use it")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return no tensors: the helpers are models."""
        del inputs
        return {}

    def logits(self, model: Any, helper: tuple[Any, Any], state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the corrected logits. helper: the models of the forget and of the retain examples."""
        del state
        own_BTV = wrapped.next_token_logits(model, ids_BT)
        forget_BTV, retain_BTV = (wrapped.helper_logits(one, ids_BT, own_BTV, "divergence_decoding") for one in helper)
        if not self.top_k:
            return own_BTV + self.alpha * (retain_BTV - forget_BTV)
        k = min(self.top_k, own_BTV.shape[-1] - 1)
        suppressed = (forget_BTV - retain_BTV).topk(k, dim=-1).indices
        smallest = own_BTV.min(dim=-1, keepdim=True).values
        return own_BTV.scatter(-1, suppressed, smallest.expand_as(suppressed))
