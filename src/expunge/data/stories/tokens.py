"""A tokenizer for the shards: ids of many texts at once, and whether a text may be tokenised line by line.

It may if every line break is a separate token and nothing looks across it. Then the ids of a text are the joined ids of
its lines. This is derived from the tokenizer's parts, not from examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from expunge.core.errors import DataError, one_line
from expunge.core.fingerprints import fingerprint

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class StoryTokenizer:
    """bos: the id before each document. by_line: whether the ids of a text are the joined ids of its lines.

    vocab_size: one more than the highest id, which exceeds the number of tokens if ids are skipped.
    """

    core: Tokenizer
    bos: int
    by_line: bool
    vocab_size: int
    identity: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smaller of uint16 and uint32 that can store every id."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    def encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the joined ids of all texts, and the length of each; no special tokens."""
        encodings = [e.ids for e in self.core.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        joined = np.empty(int(lengths.sum()), self.dtype)
        at = 0
        for ids in encodings:
            joined[at : at + len(ids)] = ids
            at += len(ids)
        return joined, lengths

    def encode_cut(self, texts: Sequence[str], cuts: Sequence[int]) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64]]:
        """Return the result of `encode`, and how many tokens of each text end at or before its character `cut`."""
        encodings = self.core.encode_batch(list(texts), add_special_tokens=False)
        lengths = np.array([len(e.ids) for e in encodings], np.int64)
        heads = [sum(end <= cut for _, end in e.offsets) for e, cut in zip(encodings, cuts, strict=True)]
        joined = np.array([i for e in encodings for i in e.ids], self.dtype)
        return joined, lengths, np.array(heads, np.int64)


def load_tokenizer(folder: Path) -> StoryTokenizer:
    """Load the tokenizer of a Hugging Face folder (tokenizer.json). Raises DataError if it is missing or has no BOS."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        train = "train one with `expunge data stories train-vocab`"
        raise DataError(f"{folder}: no tokenizer there (no tokenizer.json); {train}")
    try:
        text = path.read_text(encoding="utf-8")
        core = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{path}: not a tokenizer: {one_line(error)}") from None
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True  # a story with the text "<bos>" does not start a document
    name = _bos_name(folder)
    bos = core.token_to_id(name) if name else None
    if bos is None:
        raise DataError(f"{folder}: the tokenizer has no BOS token, with which documents start")
    identity = fingerprint({"tokenizer": hashlib.sha256(text.encode()).hexdigest(), "bos": bos})
    size = 1 + max(core.get_vocab(with_added_tokens=True).values())
    return StoryTokenizer(core, bos, splits_lines(json.loads(text)), size, identity)


def _bos_name(folder: Path) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token = json.loads((folder / name).read_text(encoding="utf-8")).get("bos_token")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{folder / name}: not a tokenizer's settings: {error}") from None
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def splits_lines(parts: dict[str, Any]) -> bool:
    """Return whether a tokenizer (its tokenizer.json) is certain to give a text the joined ids of its lines."""
    steps = (parts.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    first, rest = steps[0], steps[1:]
    alone = (
        first.get("type") == "Split"
        and first.get("pattern") == {"String": "\n"}
        and first.get("behavior") == "Isolated"
        and not first.get("invert")
    )
    local = all(s["type"] == "Digits" or (s["type"] == "ByteLevel" and not s["add_prefix_space"]) for s in rest)
    # an added token that is not special is still matched in the whole text
    plain = parts.get("normalizer") is None and all(t["special"] for t in parts.get("added_tokens", ()))
    return bool(alone and local and plain)
