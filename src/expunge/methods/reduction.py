"""Which mean a loss term is, and how much each micro-batch of an optimiser step weighs in it.

A step of m micro-batches has one mean for each term: over all scored tokens of the step, or over all of its rows. The
mean of the micro-batches' means is another number if they hold unequal numbers of tokens or rows. A micro-batch's term
is therefore multiplied by

    share = (its items) * m / (the step's items)

before it is averaged over the m micro-batches. Each term has its own items: the forget tokens of a micro-batch say
nothing about its retain tokens. transformers does the same for its own loss since version 4.46 (October 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reduction = Literal["token", "row", "micro_batch"]
REDUCTIONS: tuple[Reduction, ...] = ("token", "row", "micro_batch")
AnswerTokens = Mapping[str, Sequence[int]]  # by side, the scored tokens of each row


def every_token(n_answer: int) -> int:
    """Return the number of tokens of an answer that a loss counts by default: all `n_answer`."""
    return n_answer


@dataclass(frozen=True)
class TermMean:
    """The unit of a term's mean: the rows of a side, or their scored tokens.

    reduction: "token", "row", or "micro_batch" for a term that is neither (an average over padding, for example). Such
    a term has equal weight in each micro-batch. counted: maps an answer's n tokens to the number that the term counts.
    """

    side: str
    reduction: Reduction
    counted: Callable[[int], int] = every_token

    def items(self, tokens: AnswerTokens) -> int:
        """Return the number of tokens or rows of these samples in the term's mean; 1 for "micro_batch"."""
        if self.reduction == "micro_batch":
            return 1
        rows = tokens.get(self.side, ())
        return len(rows) if self.reduction == "row" else sum(self.counted(n) for n in rows)

    def share(self, micro: AnswerTokens, step: AnswerTokens, n_micro: int) -> float:
        """Return the factor of a micro-batch's term; 1 if the step has no token or row of the term."""
        if self.reduction == "micro_batch":
            return 1.0
        total = self.items(step)
        return self.items(micro) * n_micro / total if total else 1.0
