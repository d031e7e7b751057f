"""A reader of tokenised shards: rows for the training loop, read from disk on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.encoder import Encoded
from expunge.data.stories.pretokenize import read_dataset
from expunge.data.stories.records import Split, shard_name, split_numbers

Rows = Literal["documents", "chunks", "bos_chunks"]


class TokenRows(Sequence[Encoded], ABC):
    """Encoded rows that are read one at a time, also for a slice."""

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.row(index)

    @abstractmethod
    def row(self, index: int) -> Encoded:
        """Return one row."""


class TokenDocuments(TokenRows):
    """The rows of a split of a data set, as a sequence of `Encoded`.

    rows: "documents": each document, cut at `max_seq_len` (`Encoded.truncated` counts the tokens cut). "chunks": the
    tokens of a shard cut into pieces of exactly `max_seq_len`, at any token. "bos_chunks": the same, but each starts
    with a document, and the next one with the first document that starts at or after its end. The remainder of a shard
    that is too short is dropped. scored: "all" tokens, or those of the "story" after "Story:" (documents only).

    Raises DataError if the folder contains no data set, or the split no row; ConfigError for a wrong setting.
    """

    def __init__(
        self,
        folder: Path | str,
        split: Split = "train",
        *,
        max_seq_len: int,
        rows: Rows = "documents",
        scored: Literal["all", "story"] = "all",
    ) -> None:
        if rows not in ("documents", "chunks", "bos_chunks"):
            raise ConfigError(f"rows: no such rows '{rows}'{nearest(rows, ('documents', 'chunks', 'bos_chunks'))}")
        if scored not in ("all", "story") or (scored == "story" and rows != "documents"):
            raise ConfigError(f"scored={scored}: should be 'all', or 'story' with rows='documents'")
        if max_seq_len < 2:
            raise ConfigError(f"max_seq_len: must be at least 2 tokens, got {max_seq_len}")
        self.folder, self.max_seq_len, self.rows, self.scored = Path(folder), max_seq_len, rows, scored
        described = read_dataset(self.folder)
        self.fingerprint = str(described["fingerprint"])
        self._dtype = np.dtype(described["dtype"]).newbyteorder("<")
        numbers = split_numbers(len(described["shards"]), split)
        filled = [n for n in numbers if described["shards"][n]["documents"]]
        self._tokens = [_mapped(self.folder, n, described["shards"][n]["tokens"], self._dtype) for n in filled]
        indices = [np.load(self.folder / f"{shard_name(n)}.index.npy") for n in filled]
        parts = [self._find(index) for index in indices]
        shard = [np.full(len(starts), i) for i, (starts, _, _) in enumerate(parts)]
        if not sum(map(len, shard)):
            what = "documents" if rows == "documents" else f"{rows} of {max_seq_len} tokens"
            raise DataError(f"{self.folder}: split {split} has no {what}")
        self._shard = np.concatenate(shard)
        self._starts, self._full, self._prompts = (
            np.concatenate([f[k] for f in parts]).astype(np.int64) for k in range(3)
        )
        self.lengths: NDArray[np.int64] = np.minimum(self._full, max_seq_len)
        self.n_truncated = int((self._full > max_seq_len).sum())
        # for a document: the shard of the source and the number of the story in it
        self.records = (
            np.stack([np.array(filled)[self._shard], np.concatenate([i[2, :-1] for i in indices])], axis=1)
            if rows == "documents"
            else None
        )

    def _find(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return starts, lengths before the cut, and prompts, of a shard's rows."""
        offsets, width = index[0], self.max_seq_len
        if self.rows == "documents":
            return offsets[:-1], np.diff(offsets), index[1, :-1]
        if self.rows == "chunks":
            starts = np.arange(0, offsets[-1] - width + 1, width)
        else:
            first_tokens, at = [], 0
            following = np.searchsorted(offsets, offsets[:-1] + width)  # the first document not before the end
            while at < len(offsets) - 1 and offsets[at] + width <= offsets[-1]:
                first_tokens.append(offsets[at])
                at = int(following[at])
            starts = np.array(first_tokens, np.int64)
        return starts, np.full(len(starts), width), np.zeros(len(starts), np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, index: int) -> Encoded:
        """Read one row."""
        start, length = int(self._starts[index]), int(self.lengths[index])
        ids = self._tokens[self._shard[index]][start : start + length].tolist()
        # a document whose instructions fill the row still has its last token scored
        n_prompt = min(int(self._prompts[index]), length - 1) if self.scored == "story" else 0
        return Encoded(tuple(ids), n_prompt, int(self._full[index]) - length)


def _mapped(folder: Path, number: int, tokens: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    path = folder / f"{shard_name(number)}.bin"
    actual = path.stat().st_size if path.is_file() else None
    if actual != tokens * dtype.itemsize:
        state = "is not there" if actual is None else f"has {actual} bytes, not {tokens * dtype.itemsize}"
        raise DataError(f"{path} {state}; make the data set again")
    return np.memmap(path, dtype, mode="r")
