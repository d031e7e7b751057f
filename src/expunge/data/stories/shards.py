"""A split of a data set of tokens as a set of rows, with a name and a fingerprint, read on demand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from expunge.core.errors import ConfigError, DataError
from expunge.core.fingerprints import fingerprint
from expunge.data.encoder import Encoded
from expunge.data.examples import ExampleSet
from expunge.data.stories.documents import Rows, TokenDocuments, TokenRows
from expunge.data.stories.pretokenize import DATASET, read_dataset
from expunge.data.stories.records import Split
from expunge.data.stories.tokens import load_tokenizer


@dataclass(frozen=True, repr=False)
class TokenDataset(ExampleSet):
    """Rows of tokens. It has no texts: `rows` is empty, so readers of texts get nothing.

    folder: the data set. split, cut, scored: as in `TokenDocuments`; max_length is the width of its rows. tokenizer:
    the folder of the tokenizer that made it.
    """

    folder: Path = Path()
    split: Split = "train"
    cut: Rows = "documents"
    scored: Literal["all", "story"] = "all"
    tokenizer: Path = Path()

    @functools.cached_property
    def documents(self) -> TokenDocuments:
        """The rows, mapped from disk."""
        return self._read(self.cut, self.scored)

    def __len__(self) -> int:
        return len(self.documents)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the data set's origin and its reading settings."""
        return fingerprint(
            {
                "tokens": read_dataset(self.folder)["fingerprint"],
                "read": [self.split, self.cut, self.scored, self.max_length],
            }
        )

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all rows."""
        return int(self.documents.lengths.sum())

    def prompts(self, n: int) -> list[Encoded]:
        """Return the first n documents whose story starts within the width: `n_prompt` ids of instructions, then it."""
        whole = self._read("documents", "story")
        rows = (row for row in whole if 0 < row.n_prompt < len(row.ids) - 1)
        return [row for row, _ in zip(rows, range(n), strict=False)]

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ConfigError unless these ids have the same meaning in a model's tokenizer."""
        if tokenizer.get_vocab() != load_tokenizer(self.tokenizer).core.get_vocab(with_added_tokens=True):
            raise ConfigError(
                f"model.model_args.pretrained_model_name_or_path: the model's tokenizer is not that of {self.folder} "
                f"({self.tokenizer}); make the data set with the model's tokenizer, by --vocab_size 0 --tokenizer"
            )

    def _read(self, cut: Rows, scored: Literal["all", "story"]) -> TokenDocuments:
        return TokenDocuments(self.folder, self.split, max_seq_len=self.max_length or 512, rows=cut, scored=scored)


class JoinedTokenDataset(TokenRows):
    """Several sequences of rows, one after the other, without copies."""

    def __init__(self, parts: Sequence[TokenDocuments]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(p) for p in parts])
        self.lengths = np.concatenate([p.lengths for p in parts])
        self.n_truncated = sum(p.n_truncated for p in parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def row(self, index: int) -> Encoded:
        """Read one row of the part that contains it."""
        index = range(len(self))[index]
        k = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[k][index - int(self._ends[k - 1] if k else 0)]


def joined(sets: Sequence[TokenDataset]) -> TokenDocuments | JoinedTokenDataset:
    """Return the rows of some sets, in order."""
    return sets[0].documents if len(sets) == 1 else JoinedTokenDataset([s.documents for s in sets])


def dataset_folder(root: Path, name: str | None, key: str) -> Path:
    """Return the data set `name` under a folder of data sets, or `root` itself if it is one.

    key: configuration key of the name, for an error. Raises DataError, ConfigError.
    """
    if (root / DATASET).is_file():
        if name in (None, root.name):
            return root
        root = root.parent
    if name is None:
        there = sorted(p.parent.name for p in root.glob(f"*/{DATASET}") if not p.parent.name.startswith("."))
        listed = f" (there are: {', '.join(there[:24])})" if there else f"; {root} contains no data set"
        raise ConfigError(f"{key}: which data set? give its name{listed}")
    read_dataset(root / name)
    return root / name


def tokenizer_folder(dataset: Path, folder_name: str | None) -> Path:
    """Return the tokenizer that made a data set: the user's, or the matching one of the stories' `tokenizers`.

    Raises ConfigError if it is another, or none matches.
    """
    identity = read_dataset(dataset).get("tokenizer")
    if folder_name is not None:
        folder = Path(folder_name).expanduser()
        if load_tokenizer(folder).identity != identity:
            raise ConfigError(f"data.args.tokenizer={folder_name}: {dataset} was made with another tokenizer")
        return folder
    for place in dataset.resolve().parents[:3]:
        for folder in sorted(place.glob("tokenizers/*/tokenizer.json")):
            try:
                if load_tokenizer(folder.parent).identity == identity:
                    return folder.parent
            except DataError:
                continue  # another, broken one is irrelevant for this data set
    raise ConfigError(f"data.args.tokenizer: name the folder of the tokenizer that {dataset} was made with")
