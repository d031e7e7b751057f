"""A wrapper of your own: raise the probability of an end token, so that the model says less.

Try: expunge run --plugin caution.py study=quickstart 'methods=[{trainer: caution}]'
"""

from dataclasses import dataclass

import torch

from expunge.core.decode import strict
from expunge.models.wrapped import next_token_logits
from expunge.models.wrapper_api import WrapInputs, wrapper


@wrapper("caution", revision=1, paper="none: an example")
@strict
@dataclass(frozen=True, kw_only=True)
class Caution:
    """Add `nats` to the logit of the end token."""

    nats: float = 2.0
    """Added to the logit of the end token."""

    def prepare(self, inputs: WrapInputs) -> dict[str, torch.Tensor]:
        """Return the end token's id."""
        return {"end": torch.tensor(inputs.tokenizer.eos_token_id)}

    def logits(self, model, helper, state, ids_BT) -> torch.Tensor:
        """Return the model's logits with a more likely end."""
        logits_BTV = next_token_logits(model, ids_BT).clone()
        logits_BTV[..., state["end"]] += self.nats
        return logits_BTV
