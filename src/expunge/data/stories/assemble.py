"""From cached pieces to the documents of a variant, without tokenising anything twice.

Only lines outside the cache are tokenised (features, changed words, refusals): few distinct ones, each once per shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.data.stories.cache import PIECES, Cached, batches
from expunge.data.stories.records import Story
from expunge.data.stories.text import (
    HEAD,
    StoryVariant,
    item_of,
    line_order,
    prompt,
    refusal_text,
    render,
    transform,
    values_line,
)
from expunge.data.stories.tokens import Ids, StoryTokenizer
from expunge.data.transforms.apply import transform_item
from expunge.data.transforms.draws import Draws

BLOCK = 4096  # stories at a time
MOST_LINES = 50_000  # lines in memory; a relabelled word adds one for each record


@dataclass(frozen=True)
class Block:
    """Some documents: their joined ids, and for each its length, the length of its prompt, and its record's number."""

    ids: Ids
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]
    records: NDArray[np.int64]
    changed: int
    refused: int


class _Lines:
    """New lines, each tokenised once: a line's number, and the joined ids of all of them."""

    def __init__(self, tokenizer: StoryTokenizer) -> None:
        self.tokenizer = tokenizer
        self.numbers: dict[str, int] = {}
        self._waiting: list[str] = []
        self.ids = np.empty(0, tokenizer.dtype)
        self.lengths = np.empty(0, np.int64)

    def number(self, line: str) -> int:
        index = self.numbers.get(line)
        if index is None:
            index = self.numbers[line] = len(self.numbers)
            self._waiting.append(line)
        return index

    def settle(self) -> None:
        """Tokenise the lines that were added since the last call."""
        if self._waiting:
            ids, lengths = self.tokenizer.encode(self._waiting)
            self.ids = np.concatenate([self.ids, ids])
            self.lengths = np.concatenate([self.lengths, lengths])
            self._waiting = []


def from_pieces(pieces: Cached, tokenizer: StoryTokenizer, variant: StoryVariant, seed: int) -> Iterator[Block]:
    """Yield the documents of a shard: the beginning-of-sequence id, then the ids of `render`, from cached pieces."""
    rules, subset = variant.rules(), variant.subset()
    head = len(tokenizer.encode([HEAD])[0])
    lines = _Lines(tokenizer)
    for first in range(0, len(pieces.items), BLOCK):
        last = min(first + BLOCK, len(pieces.items))
        if len(lines.numbers) > MOST_LINES:
            lines = _Lines(tokenizer)
        segments: list[int] = []  # 0: BOS; 1 + 4i + k: a cached piece of this block; below zero: ~ a line's number
        records: list[int] = []
        changed = refused = 0
        for i in range(first, last):
            item = pieces.items[i]
            draws = Draws(seed, item.record_id)
            now = transform_item(item, rules, draws)
            if now is None:
                continue
            cached = 1 + 4 * (i - first)
            segments.append(0)
            for line in line_order(subset, draws):
                if line == "Features" or (line == "Words" and now.values["words"] != item.values["words"]):
                    segments.append(~lines.number(values_line(line, now.values[line.lower()])))
                else:
                    segments.append(cached + PIECES.index(line))
            if now.refused:
                segments.append(~lines.number(f"{HEAD} {refusal_text(now.refused, original=pieces.original)}"))
                refused += 1
            else:
                segments.append(cached + 3)
            changed += now.values != item.values
            records.append(i)
        if records:
            lines.settle()
            block = _joined(pieces, lines, first, last, np.array(segments).reshape(len(records), -1), tokenizer.bos)
            lengths, stories = block[1].sum(1), block[1][:, -1]
            yield Block(block[0], lengths, lengths - stories + head, np.array(records), changed, refused)


def _joined(
    pieces: Cached, lines: _Lines, first: int, last: int, segments: NDArray[np.int64], bos: int
) -> tuple[Ids, NDArray[np.int64]]:
    """Return the joined ids of [n, k] segments, and the length of each segment."""
    offsets = pieces.offsets[4 * first : 4 * last + 1]
    pool = np.concatenate([np.array([bos], lines.ids.dtype), pieces.tokens[offsets[0] : offsets[-1]], lines.ids])
    lengths = np.concatenate([[1], np.diff(offsets), lines.lengths])
    starts = np.cumsum(lengths) - lengths
    numbers = np.where(segments < 0, len(offsets) + ~segments, segments)  # the lines come after BOS and the pieces
    each = lengths[numbers]
    flat = each.ravel()
    ends = np.cumsum(flat)
    take = np.repeat(starts[numbers].ravel() - (ends - flat), flat) + np.arange(ends[-1])
    return pool[take], each


def from_texts(
    stories: Iterable[Story], tokenizer: StoryTokenizer, variant: StoryVariant, seed: int
) -> Iterator[Block]:
    """Yield the same documents from newly tokenised texts, for tokenizers whose tokens can cross line breaks."""
    subset, number = variant.subset(), 0
    for batch in batches(stories):
        selected: list[Story] = []
        records: list[int] = []
        changed = refused = 0
        for i, story in enumerate(batch, number):
            for changed_story in transform([story], variant, seed=seed):
                selected.append(changed_story)
                records.append(i)
                changed += changed_story.values != item_of(story).values
                refused += changed_story.sentence is not None
        number += len(batch)
        if selected:
            ids, lengths, heads = _tokenised(selected, tokenizer, subset, seed)
            yield Block(ids, lengths, heads, np.array(records), changed, refused)


def _tokenised(
    stories: Sequence[Story], tokenizer: StoryTokenizer, subset: Sequence[str], seed: int
) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64]]:
    draws = [Draws(seed, s.record_id) for s in stories]
    texts = [render(s, subset, d) for s, d in zip(stories, draws, strict=True)]
    cuts = [len(prompt(s, subset, d)) for s, d in zip(stories, draws, strict=True)]
    ids, lengths, heads = tokenizer.encode_cut(texts, cuts)
    return np.insert(ids, np.cumsum(lengths) - lengths, tokenizer.bos), lengths + 1, heads + 1
