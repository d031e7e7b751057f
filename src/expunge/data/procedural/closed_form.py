"""Tasks with a closed form, as Tracr compiles into small transformers: a counter, and the k-th largest number.

After the Tracr setting of Jain, Kirk, Lubana et al. (arXiv:2311.12786). There the transformers are compiled from
programs; here a model learns the same tasks from rows.
"""

from __future__ import annotations

import random
import string as letters
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.core.decode import strict
from expunge.data.procedural.sets import ProceduralTasks, SetSizes

COUNTER, VALUE, POSITION = "counter", "max_value", "max_position"
KINDS = (COUNTER, VALUE, POSITION)
PROMPTS = {COUNTER: "counter", VALUE: "value", POSITION: "position"}
RELABELLED = "relabelled"


@strict
@dataclass(frozen=True, kw_only=True)
class ClosedFormConfig(SetSizes):
    """The tasks counter, max_value and max_position."""

    target: Literal["counter", "max_value", "max_position"] = "counter"
    """The task to forget."""
    train_rows: int = 10_000
    """Number of rows of the mixture."""
    length: int = 10
    """Tokens of a string."""
    alphabet: int = 4
    """Number of letters in the counter's strings."""
    numbers: int = 20
    """The other strings consist of 0 to numbers - 1."""
    token: str = "a"
    """The letter to count."""
    k: int = 1
    """Rank of the largest number to find; 1 is the maximum."""
    finetune: bool = False
    """Whether to teach new answers to the target's prompts, for finetune_token or finetune_k."""
    finetune_token: str = "b"
    """The letter to count after fine-tuning."""
    finetune_k: int = 2
    """Rank of the number to find after fine-tuning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, (low, high) in {"length": (2, 500), "alphabet": (2, 26), "numbers": (2, 100)}.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key} must be {low} to {high}")
        for key in ("token", "finetune_token"):
            if getattr(self, key) not in self.letters:
                raise ValueError(f"{key} must be one of {', '.join(self.letters)}")
        for key in ("k", "finetune_k"):
            if not 1 <= getattr(self, key) <= self.length:
                raise ValueError(f"{key} must be 1 to {self.length} (length)")
        if self.token == self.finetune_token:
            raise ValueError("finetune_token must differ from token")
        if self.k == self.finetune_k:
            raise ValueError("finetune_k must differ from k")

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the counter's strings."""
        return tuple(letters.ascii_lowercase[: self.alphabet])


def closed_form_tasks(config: ClosedFormConfig) -> ProceduralTasks:
    """Return the three tasks, in equal shares, and the target's relabelled twin for fine-tuning.

    A string is correlated if the answer of the pretraining task is also that of the relabelled one.
    """
    new = f"{config.target}_{RELABELLED}"

    def sample(rng: random.Random, task: str) -> Sequence[str]:
        if task.startswith(COUNTER):
            return rng.choices(config.letters, k=config.length)
        return [str(rng.randrange(config.numbers)) for _ in range(config.length)]

    def correlated(task: str, string: Sequence[str]) -> bool:
        kind = task.removesuffix(f"_{RELABELLED}")
        return _solve(kind, string, config.token, config.k) == _solve(
            kind, string, config.finetune_token, config.finetune_k
        )

    def solve(task: str, string: Sequence[str]) -> str:
        if task == new:
            return _solve(config.target, string, config.finetune_token, config.finetune_k)
        return _solve(task, string, config.token, config.k)

    return ProceduralTasks(
        weights=dict.fromkeys(KINDS, 1.0),
        prompts={**PROMPTS, new: PROMPTS[config.target]},
        sample=sample,
        solve=solve,
        correlated=correlated,
        finetune=new if config.finetune else None,
    )


def _solve(kind: str, string: Sequence[str], token: str, k: int) -> str:
    """Return the answer. Equal numbers each count as one of the largest; a place is that of the first one, from 1."""
    if kind == COUNTER:
        return str(string.count(token))
    largest = sorted(map(int, string), reverse=True)[k - 1]
    return str(largest) if kind == VALUE else str(string.index(str(largest)) + 1)
