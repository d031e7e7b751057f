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


@wrapper("token_filter", revision=1, paper="arXiv:2505.13312", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class TokenFilter:
    """A guard on the output, after GUARD (arXiv:2505.13312): a token that would complete a forbidden text is penalised.

    Formula: logit(v) <- logit(v) - penalty, if the last tokens and v are the end of a forbidden sequence of at least
        `min_tokens` tokens. Forbidden are the texts of `phrases` (with and without a leading blank); if there are none,
        every run of `min_tokens` tokens of the forget answers.

    Our reading: GUARD first classifies the prompt, and penalises beams by token and by sentence similarity. Here only
    the match of tokens remains, which needs no second model.

    Pitfalls: a paraphrase passes. Runs of the forget answers may be common text; a larger `min_tokens` is narrower.
    Each call reads whole rows, so texts take longer.

    Try: methods: [{trainer: token_filter, method_args: {min_tokens: 4}}] in a study
    """

    phrases: tuple[str, ...] = ()
    """Forbidden texts, such as names. Empty: runs of the forget answers."""
    min_tokens: int = 3
    """Tokens of a run of a forget answer. Texts of `phrases` count whole."""
    penalty: float = 20.0
    """Nats that a completing token loses."""

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise ValueError("min_tokens must be at least 1")
        if not 0 < self.penalty < float("inf"):
            raise ValueError("penalty must be a number > 0")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return the forbidden sequences, padded with -1 on the left, (S, K)."""
        runs: dict[tuple[int, ...], None] = {}
        for phrase in self.phrases:
            for text in (phrase, f" {phrase}"):
                runs.setdefault(tuple(inputs.tokenizer(text, add_special_tokens=False)["input_ids"]))
        if not self.phrases:
            special = set(inputs.tokenizer.all_special_ids)
            for ids, n_prompt in inputs.forget_ids:
                answer = [i for i in list(ids)[n_prompt:] if i not in special]
                for at in range(len(answer) - self.min_tokens + 1):
                    runs.setdefault(tuple(answer[at : at + self.min_tokens]))
        sequences = [s for s in runs if s]
        if not sequences:
            raise ConfigError(
                "token_filter: nothing is forbidden; give phrases, or forget examples with longer answers"
            )
        width = max(map(len, sequences))
        return {"sequences": torch.tensor([[-1] * (width - len(s)) + list(s) for s in sequences])}

    def logits(self, model: Any, helper: Any, state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the model's logits minus the penalties."""
        del helper
        logits_BTV = wrapped.next_token_logits(model, ids_BT)
        sequences_SK = state["sequences"]
        n_rows, n = ids_BT.shape
        if sequences_SK.shape[1] > 1:
            before = torch.nn.functional.pad(ids_BT, (sequences_SK.shape[1] - 2, 0), value=-2)
            last_BTK = before.unfold(1, sequences_SK.shape[1] - 1, 1)
        else:
            last_BTK = ids_BT.new_zeros(n_rows, n, 0)
        penalised = torch.zeros_like(logits_BTV)
        for sequence_K in sequences_SK:
            start_K = sequence_K[:-1]
            hit_BT = ((last_BTK == start_K) | (start_K < 0)).all(-1)
            penalised[..., sequence_K[-1]] = torch.where(
                hit_BT, penalised.new_tensor(self.penalty), penalised[..., sequence_K[-1]]
            )
        return logits_BTV - penalised
