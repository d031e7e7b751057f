from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import ModuleOnUse, torch
from expunge.models.wrapper_api import WrapInputs, wrapper

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.models import wrapped
else:
    wrapped = ModuleOnUse("expunge.models.wrapped")


@wrapper("in_context", revision=1, paper="arXiv:2310.07579, arXiv:2403.03329", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class InContext:
    """In-context unlearning (Pawelczyk et al. 2024, arXiv:2310.07579): forget examples with other answers come first.

    Every row begins with: the instruction, `n_forget` forget questions with refusals, and `n_retain` retain questions
    with their answers, each as the template writes it. The scored row follows. With both numbers 0 only the instruction
    remains, which is guardrail prompting (Thaker et al. 2024, arXiv:2403.03329).

    Our reading: the paper classifies, and flips the labels of the forget examples; a question has no flipped label, so
    it gets a refusal.

    Pitfalls: the weights do not change, so audits of the weights find everything. The context counts towards the
    model's maximum length. Each call reads whole rows, so texts take longer.

    Try: methods: [{trainer: in_context, method_args: {n_forget: 4, n_retain: 4}}] in a study
    """

    instruction: str = ""
    """Text at the very beginning, such as "You know nothing about Harry Potter.\\n"."""
    n_forget: int = 4
    """Number of forget questions with refusals in the context; the first ones are taken."""
    n_retain: int = 4
    """Number of retain questions with their answers in the context; the first ones are taken."""

    def __post_init__(self) -> None:
        if self.n_forget < 0 or self.n_retain < 0:
            raise ValueError("n_forget and n_retain must be at least 0")
        if not (self.instruction or self.n_forget or self.n_retain):
            raise ValueError("instruction must be a text if n_forget and n_retain are 0")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return the context's ids, and the id that begins a row (-1: none)."""
        if self.n_forget and not (inputs.forget and inputs.refusals):
            raise ConfigError("in_context.n_forget: needs forget examples and refusals; pass them, or set n_forget=0")
        if self.n_retain and not inputs.retain:
            raise ConfigError("in_context.n_retain: needs retain examples; pass them, or set n_retain=0")
        refused = [
            (question, inputs.refusals[i % len(inputs.refusals)])
            for i, (question, _) in enumerate(inputs.forget[: self.n_forget])
        ]
        bos = inputs.tokenizer.bos_token_id
        context: list[int] = []
        if self.instruction:
            context += inputs.tokenizer(self.instruction, add_special_tokens=False)["input_ids"]
        for question, answer in (*refused, *inputs.retain[: self.n_retain]):
            if inputs.encode is None:
                raise ConfigError("in_context: needs the template of the examples")
            ids = list(inputs.encode(question, answer)[0])
            context += ids[1:] if ids and ids[0] == bos else ids
        return {"context": torch.tensor(context), "begin": torch.tensor(-1 if bos is None else bos)}

    def logits(self, model: Any, helper: Any, state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the logits of the row after the context; a row's own first token stays the first."""
        del helper
        context_BC = state["context"].expand(len(ids_BT), -1)
        first = int(bool((ids_BT[:, 0] == state["begin"]).all()))
        whole = torch.cat([ids_BT[:, :first], context_BC, ids_BT[:, first:]], dim=1)
        logits = wrapped.next_token_logits(model, whole)
        return torch.cat([logits[:, :first], logits[:, context_BC.shape[1] + first :]], dim=1)
