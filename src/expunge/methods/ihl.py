from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, require, tokens

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "IHL",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2408.06621",
    reduction="token",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class IHL:
    """Inverted hinge loss (Cha et al. 2024, LoKU, arXiv:2408.06621): swap the true token for the runner-up.

    Loss: mean over the forget tokens of 1 + p(y) - max_{v != y} p(v), between 0 and 2. The gradient lowers the true
    token and raises only its strongest rival, while gradient ascent raises the whole vocabulary. It fades when the
    rival is far ahead.

    Defaults: gamma = alpha = 1 with the retain NLL, the plain sum as in the authors' TOFU code. It trains adapters of
    rank 32 (learning rate 1e-4 for Llama-2-7B, 5 epochs).

    Pitfalls: the rival may be another wording of the same fact. The paper adds a Fisher-weighted start of LoRA adapters
    (FILA), which is not part of this loss. The loss needs the whole distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=IHL task_name=mine
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the inverted hinge, averaged over the forget tokens; a scalar."""
        side = require(view.forget, "forget")
        return side.per_token(inverted_hinge, tokens(side)).mean()


def inverted_hinge(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Return 1 + p(y) - max_{v != y} p(v) at each position, shape (N,)."""
    p_NV, at = log_probs(logits_NV).exp(), token_N[:, None]
    return 1 + p_NV.gather(-1, at)[:, 0] - p_NV.scatter(-1, at, -1.0).amax(-1)
