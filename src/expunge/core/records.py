"""What scoring stores and metrics read: token records and text records, as columns.

Token records hold one line per scored answer token. Text records hold one line per generation. Both are sorted, so
that equal inputs give equal files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TOKENS = pa.schema(
    [
        ("row_id", pa.int32()),  # position of the row in its set
        ("variant", pa.string()),  # which answer: "answer", "paraphrase", "perturbed_0", ...
        ("position", pa.int32()),  # 0 is the first token of the answer
        ("token_id", pa.int32()),
        ("logp", pa.float32()),  # natural log of the model's probability of the token
        ("mean", pa.float32()),  # E_v~p[log p(v)]: minus the entropy, in nats
        ("var", pa.float32()),  # Var_v~p[log p(v)]
        ("is_argmax", pa.bool_()),  # the token is the model's greedy choice
        ("is_eos", pa.bool_()),  # the token ends the sequence (added after the answer's own text)
        ("zlib", pa.int32()),  # bytes of the answer's scored text, compressed; the same on all lines of an answer
        ("n_bytes", pa.int32()),  # bytes of the answer's scored text as UTF-8; the same on all lines of an answer
    ]
)

TEXTS = pa.schema(
    [
        ("row_id", pa.int32()),
        ("sample", pa.int32()),  # 0 for greedy decoding
        ("prompt", pa.string()),
        ("generation", pa.string()),
        ("reference", pa.string()),  # the true answer
        ("n_new_tokens", pa.int32()),  # the end included; 0 only where the model's logits were not numbers
        ("stopped", pa.bool_()),  # the model ended by itself (EOS, or at a stop text), not by the length limit
    ]
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """One variant's answer tokens over a set of rows, ragged.

    Row i's tokens are `logp[offsets[i]:offsets[i + 1]]`. `row_ids`, `zlib` and `n_bytes` have R entries, `offsets`
    R + 1, the other columns N.
    """

    row_ids: Ints
    offsets: Ints
    token_id: Ints
    logp: Floats
    mean: Floats
    var: Floats
    is_argmax: npt.NDArray[np.bool_]
    is_eos: npt.NDArray[np.bool_]
    zlib: Ints
    n_bytes: Ints

    @property
    def n_tokens(self) -> Ints:
        """Scored tokens of each row, shape (R,)."""
        return np.diff(self.offsets)

    def avg_loss(self) -> Floats:
        """Mean negative log-likelihood of each row's answer tokens in nats, shape (R,); NaN for an empty answer."""
        sums = np.add.reduceat(np.append(self.logp, 0.0), self.offsets[:-1]) if len(self.row_ids) else np.zeros(0)
        n = self.n_tokens
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 0, -sums / n, np.nan)

    def by_row(self, values_N: Floats) -> list[Floats]:
        """One value per token, cut into R arrays, one per row."""
        return [values_N[start:end] for start, end in itertools.pairwise(self.offsets)]

    def without_last(self) -> Answers:
        """The same rows without each row's last token."""
        last = self.offsets[1:][self.n_tokens > 0] - 1
        keep = np.ones(len(self.logp), dtype=bool)
        keep[last] = False
        counts = np.maximum(self.n_tokens - 1, 0)
        return Answers(
            row_ids=self.row_ids,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            zlib=self.zlib,
            n_bytes=self.n_bytes,
            **{c: getattr(self, c)[keep] for c in _COLUMNS},
        )


_COLUMNS = ("token_id", "logp", "mean", "var", "is_argmax", "is_eos")


@dataclass(frozen=True)
class TokenRecords:
    """The token records of one set of rows, by variant."""

    by_variant: Mapping[str, Answers]

    def __getitem__(self, variant: str) -> Answers:
        return self.by_variant[variant]

    def family(self, stem: str) -> list[Answers]:
        """All variants `stem_0`, `stem_1`, ... in order (the perturbed answers of a row)."""
        names = [v for v in self.by_variant if v.rpartition("_")[0] == stem and v.rpartition("_")[2].isdigit()]
        return [self.by_variant[v] for v in sorted(names, key=lambda v: int(v.rpartition("_")[2]))]


def token_records(table: pa.Table) -> TokenRecords:
    """Group a TOKENS table by variant and row. Lines may come in any order."""
    out: dict[str, Answers] = {}
    variants = np.asarray(table["variant"].to_pylist(), dtype=object)
    row_id, position = (table[c].to_numpy().astype(np.int64) for c in ("row_id", "position"))
    for variant in sorted(set(variants.tolist())):
        pick = np.flatnonzero(variants == variant)
        pick = pick[np.lexsort((position[pick], row_id[pick]))]
        ids, first, counts = np.unique(row_id[pick], return_index=True, return_counts=True)
        columns: dict[str, Any] = {c: table[c].to_numpy(zero_copy_only=False)[pick] for c in _COLUMNS}
        out[variant] = Answers(
            row_ids=ids,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            token_id=columns["token_id"].astype(np.int64),
            logp=columns["logp"].astype(np.float64),
            mean=columns["mean"].astype(np.float64),
            var=columns["var"].astype(np.float64),
            is_argmax=columns["is_argmax"].astype(bool),
            is_eos=columns["is_eos"].astype(bool),
            zlib=table["zlib"].to_numpy()[pick][first].astype(np.int64),
            n_bytes=table["n_bytes"].to_numpy()[pick][first].astype(np.int64),
        )
    return TokenRecords(out)


@dataclass(frozen=True)
class Text:
    """One generation."""

    row_id: int
    sample: int
    prompt: str
    generation: str
    reference: str
    n_new_tokens: int
    stopped: bool


def text_records(table: pa.Table) -> list[Text]:
    """A TEXTS table as a list, sorted by row and sample."""
    return sorted((Text(**line) for line in table.to_pylist()), key=lambda t: (t.row_id, t.sample))


def texts_table(texts: Iterable[Text]) -> pa.Table:
    """The TEXTS table of a list of generations, sorted by row and sample."""
    ordered = sorted(texts, key=lambda t: (t.row_id, t.sample))
    return pa.Table.from_pylist([vars(t) for t in ordered], schema=TEXTS)
