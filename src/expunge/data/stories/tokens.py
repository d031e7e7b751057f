"""A tokenizer as the shards need it: ids of many texts at once, and whether a text may be tokenised line by line.

It may if every line break is a token of its own and nothing looks across it: then the ids of a text are those of its
lines, joined. That is read from the tokenizer's parts, not tried on examples.
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

from expunge.core.errors import DataError
from expunge.core.fingerprints import fingerprint

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class StoryTokenizer:
    """bos: the id before each document. by_line: the ids of a text are those of its lines, joined.

    vocab_size: one more than the highest id, which is more than the number of tokens where ids are left out.
    """

    core: Tokenizer
    bos: int
    by_line: bool
    vocab_size: int
    identity: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    def encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of all texts, joined, and the length of each; no special tokens."""
        found = [e.ids for e in self.core.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        joined = np.empty(int(lengths.sum()), self.dtype)
        at = 0
        for ids in found:
            joined[at : at + len(ids)] = ids
            at += len(ids)
        return joined, lengths

    def encode_cut(self, texts: Sequence[str], cuts: Sequence[int]) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64]]:
        """As `encode`, and how many tokens of each text end at or before its character `cut`."""
        found = self.core.encode_batch(list(texts), add_special_tokens=False)
        lengths = np.array([len(e.ids) for e in found], np.int64)
        heads = [sum(end <= cut for _, end in e.offsets) for e, cut in zip(found, cuts, strict=True)]
        joined = np.array([i for e in found for i in e.ids], self.dtype)
        return joined, lengths, np.array(heads, np.int64)


def load_tokenizer(folder: Path) -> StoryTokenizer:
    """The tokenizer of a Hugging Face folder (tokenizer.json). Raises DataError if there is none, or it has no BOS."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        train = "train one with `expunge data stories train-vocab`"
        raise DataError(f"{folder}: no tokenizer there (no tokenizer.json); {train}")
    try:
        text = path.read_text(encoding="utf-8")
        core = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{path}: not a tokenizer: {' '.join(str(error).split())}") from None
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True  # a story that spells "<bos>" does not begin a document
    name = _bos_name(folder)
    bos = core.token_to_id(name) if name else None
    if bos is None:
        raise DataError(f"{folder}: the tokenizer has no BOS token, and documents begin with it")
    identity = fingerprint({"tokenizer": hashlib.sha256(text.encode()).hexdigest(), "bos": bos})
    size = 1 + max(core.get_vocab(with_added_tokens=True).values())
    return StoryTokenizer(core, bos, splits_lines(json.loads(text)), size, identity)


def _bos_name(folder: Path) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("bos_token")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{folder / name}: not a tokenizer's settings: {error}") from None
        if found is not None:
            return str(found["content"] if isinstance(found, dict) else found)
    return None


def splits_lines(parts: dict[str, Any]) -> bool:
    """Whether a tokenizer (its tokenizer.json) is sure to give a text the ids of its lines, joined."""
    steps = (parts.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    first, rest = steps[0], steps[1:]
    alone = (
        first.get("type") == "Split"
        and first.get("pattern") == {"String": "\n"}
        and first.get("behavior") == "Isolated"
        and not first.get("invert")
    )
    local = all(s["type"] == "Digits" or (s["type"] == "ByteLevel" and not s["add_prefix_space"]) for s in rest)
    # an added token that is not special is still looked for in the whole text
    plain = parts.get("normalizer") is None and all(t["special"] for t in parts.get("added_tokens", ()))
    return bool(alone and local and plain)
