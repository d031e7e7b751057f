"""The token cache: four fixed pieces of each story, tokenised once for all variants.

    FOLDER/tokens/00000-KEY/    tokens.bin (ids), offsets.npy (4n + 1), items.json (id, words, features, length)

The pieces are the lines of words, summary and sentence, and the story with its "Story:". KEY covers the shard's
contents, the tokenizer, the seed of the sentences and `REVISION`. A piece's folder is created atomically.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from expunge.core.files import sweep_parts, whole_folder
from expunge.core.fingerprints import fingerprint
from expunge.data.stories.records import Story, StoryShard, read_shard
from expunge.data.stories.text import HEAD, item_of, story_sentence, text_line, values_line
from expunge.data.stories.tokens import Ids, StoryTokenizer
from expunge.data.transforms.apply import TransformItem
from expunge.data.transforms.draws import Draws

REVISION = 1  # of the pieces' wording
PIECES = ("Words", "Summary", "Sentence", "Story")
BATCH = 2000  # stories in memory at a time


@dataclass(frozen=True)
class Cached:
    """A shard's pieces: piece k of story i is tokens[offsets[4i + k] : offsets[4i + k + 1]].

    original: the texts are those of the published code.
    """

    tokens: Ids
    offsets: NDArray[np.int64]
    items: list[TransformItem]
    original: bool = False


def cached(root: Path, shard: StoryShard, tokenizer: StoryTokenizer, seed: int) -> Cached:
    """Return a shard's pieces from the cache of the folder `root`; tokenise them first if they are not there."""
    folder = piece_folder(root, shard, tokenizer, seed)
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                sweep_parts(folder)
                with whole_folder(folder) as part:
                    _write(part, read_shard(shard), tokenizer, seed)
    tokens = np.memmap(folder / "tokens.bin", tokenizer.dtype, mode="r")
    rows = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    items = [TransformItem(i, {"features": tuple(f), "words": tuple(w)}, n) for i, w, f, n in rows]
    original = next((story.original for story in read_shard(shard)), False)
    return Cached(tokens, np.load(folder / "offsets.npy"), items, original)


def piece_folder(root: Path, shard: StoryShard, tokenizer: StoryTokenizer, seed: int) -> Path:
    """Return the folder of a shard's pieces, which may not exist yet."""
    key = fingerprint({"shard": shard.sha256, "tokenizer": tokenizer.identity, "seed": seed, "revision": REVISION})
    return root / "tokens" / f"{shard.name}-{key[:16]}"


def pieces_of(story: Story, seed: int) -> tuple[str, str, str, str]:
    """Return the texts of a story's pieces, each line with its line break."""
    return (
        values_line("Words", story.words),
        text_line("Summary", story.summary, original=story.original),
        text_line("Sentence", story_sentence(story, Draws(seed, story.record_id)), original=story.original),
        f"{HEAD} {story.story.strip()}",
    )


def batches(stories: Iterable[Story], size: int = BATCH) -> Iterator[list[Story]]:
    """Yield lists of up to `size` stories."""
    source = iter(stories)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _write(folder: Path, stories: Iterable[Story], tokenizer: StoryTokenizer, seed: int) -> None:
    lengths = [np.zeros(1, np.int64)]
    items = []
    with open(folder / "tokens.bin", "wb") as f:
        for batch in batches(stories):
            ids, each = tokenizer.encode([piece for story in batch for piece in pieces_of(story, seed)])
            f.write(ids.tobytes())
            lengths.append(each)
            for item in map(item_of, batch):
                items.append((item.record_id, item.values["words"], item.values["features"], item.length))
    np.save(folder / "offsets.npy", np.cumsum(np.concatenate(lengths)))
    (folder / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
