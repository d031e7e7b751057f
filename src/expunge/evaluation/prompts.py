"""What a generation starts from and what comes of it, whatever engine makes it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from expunge.core.errors import DataError
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.evaluation.config import Generation


@dataclass(frozen=True)
class Prompt:
    """One text to make: where it starts, how many tokens it may have, and the first of them that are known."""

    row_id: int
    sample: int
    text: str
    ids: tuple[int, ...]
    limit: int
    draft: tuple[int, ...] = ()

    def key(self, seed: int) -> bytes:
        """32 bytes that no other text of any row, sample or seed has."""
        return hashlib.sha256(f"{seed}/{self.row_id}/{self.sample}".encode()).digest()


@dataclass(frozen=True)
class PromptBatch:
    """The new tokens of a prompt, the end included where it came; None where the logits were not numbers."""

    ids: list[int] | None
    stopped: bool


def make_prompts(
    rows: ExampleSet, encoder: Encoder, generation: Generation, context: int | None, only: Collection[int] | None
) -> list[Prompt]:
    """Every prompt and sample. Raises DataError naming a row whose prompt leaves no room in the context."""
    out: list[Prompt] = []
    asked = [row for row in rows.rows if only is None or row.row_id in only]
    for row, prompt in zip(asked, encoder.row_prompts(rows, asked), strict=True):
        ids = tuple(prompt)
        room = generation.max_new_tokens if context is None else min(generation.max_new_tokens, context - len(ids))
        if room < 1:
            raise DataError(
                f"{rows.name} row {row.row_id}: the prompt has {len(ids)} tokens, which fill the model's context of "
                f"{context}; nothing can be generated"
            )
        out += [Prompt(row.row_id, sample, row.question, ids, room) for sample in range(generation.samples)]
    return out


def draws(seed: int, prompt: Prompt) -> Floats:
    """The uniform numbers in [0, 1) that pick the tokens of one text, shape (limit,)."""
    key = int.from_bytes(prompt.key(seed)[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(prompt.limit)
