"""The prompts and the outputs of generation, the same for every engine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from expunge.core.errors import DataError
from expunge.core.records import Floats
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.config import Generation


@dataclass(frozen=True)
class Prompt:
    """One text to generate: its prompt, its maximum number of tokens, and its first tokens if they are known."""

    row_id: int
    sample: int
    text: str
    ids: tuple[int, ...]
    limit: int
    draft: tuple[int, ...] = ()

    def key(self, seed: int) -> bytes:
        """Return 32 bytes that are unique to the row, the sample and the seed."""
        return hashlib.sha256(f"{seed}/{self.row_id}/{self.sample}".encode()).digest()


@dataclass(frozen=True)
class PromptBatch:
    """The new tokens of a prompt, with the end token if there is one; None if the logits are NaN."""

    ids: list[int] | None
    stopped: bool


def make_prompts(
    rows: ExampleSet, encoder: Encoder, generation: Generation, context: int | None, only: Collection[int] | None
) -> list[Prompt]:
    """Return every prompt and sample. Raises DataError with the row if a prompt fills the model's context."""
    out: list[Prompt] = []
    examples = [row for row in rows.rows if only is None or row.row_id in only]
    for row, prompt in zip(examples, encoder.row_prompts(rows, examples), strict=True):
        ids = tuple(prompt)
        room = generation.max_new_tokens if context is None else min(generation.max_new_tokens, context - len(ids))
        if room < 1:
            raise DataError(
                f"{rows.name} row {row.row_id}: the prompt has {len(ids)} tokens, which fill the model's context of "
                f"{context}; shorten it, because no token can be generated"
            )
        out += [Prompt(row.row_id, sample, row.question, ids, room) for sample in range(generation.samples)]
    return out


def draws(seed: int, prompt: Prompt) -> Floats:
    """Return the uniform numbers in [0, 1) that draw the tokens of one text, shape (limit,)."""
    key = int.from_bytes(prompt.key(seed)[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(prompt.limit)
