"""Which mean a loss term is, and how much each micro-batch of an optimiser step weighs in it.

A step of m micro-batches has one mean for each term: over all scored tokens of the step, or over all of its rows. The
mean of the micro-batches' means is another number if they hold unequal numbers of tokens or rows. A micro-batch's term
is therefore multiplied by

    share = (its items) * m / (the step's items)

before it is averaged over the m micro-batches. Each term has its own items: the number of forget tokens of a
micro-batch does not determine the number of its retain tokens. Since version 4.46 (October 2024) transformers does the
same for its own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reduction = Literal["token", "row", "micro_batch"]
REDUCTIONS: tuple[Reduction, ...] = ("token", "row", "micro_batch")
AnswerTokens = Mapping[str, Sequence[int]]  # by side, the scored tokens of each row


def every_token(n_answer: int) -> int:
    """Return `n_answer`: the loss counts all tokens of an answer."""
    return n_answer


@dataclass(frozen=True)
class TermMean:
    """The mean of a loss term: over the rows of a side, or over their scored tokens.

    reduction: "token", "row", or "micro_batch" for a term that is neither (an average over padding, for example). Such
    a term weighs alike in each micro-batch. counted: maps an answer's number of tokens to the number that counts.
    """

    side: str
    reduction: Reduction
    counted: Callable[[int], int] = every_token

    def items(self, tokens: AnswerTokens) -> int:
        """Return the number of tokens or rows that the term averages over; 1 for "micro_batch"."""
        if self.reduction == "micro_batch":
            return 1
        rows = tokens.get(self.side, ())
        return len(rows) if self.reduction == "row" else sum(self.counted(n) for n in rows)

    def share(self, micro: AnswerTokens, step: AnswerTokens, n_micro: int) -> float:
        """Return the factor of a micro-batch's term. 1 for all micro-batches if a step has nothing to average over."""
        if self.reduction == "micro_batch":
            return 1.0
        total = self.items(step)
        return self.items(micro) * n_micro / total if total else 1.0
