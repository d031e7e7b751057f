"""What scoring stores and metrics read, as columns: one table for each kind of record.

Token records hold one line per scored answer token, text records one per generation, gradient records one per answer,
agreement records one per scored answer token, similarity records one per generation. All are sorted, so that equal
inputs give equal files.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

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
        ("n_bytes", pa.int32()),  # bytes of the answer's scored text without leading blanks, UTF-8
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

GRADS = pa.schema(
    [
        ("row_id", pa.int32()),
        ("variant", pa.string()),
        ("l1", pa.float64()),  # norms of the whole gradient of the answer's mean token loss, its last token left out
        ("l2", pa.float64()),
        ("linf", pa.float64()),
        ("tensor_mean", pa.float64()),  # mean over parameter tensors of each one's 2-norm
    ]
)

AGREEMENT = pa.schema(
    [
        ("row_id", pa.int32()),
        ("variant", pa.string()),
        ("position", pa.int32()),
        ("kl", pa.float32()),  # KL(original || model) over the vocabulary at this token, in nats
        ("same_argmax", pa.bool_()),  # both models' first choice is the same token
    ]
)

SIMILARITY = pa.schema(
    [
        ("row_id", pa.int32()),
        ("sample", pa.int32()),
        ("variant", pa.string()),  # the answer the generation is held against
        ("cosine", pa.float64()),  # of the embeddings of generation and answer; NaN where either is empty
    ]
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class AnswerTokens:
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

    def by_row(self, values_N: npt.NDArray[Number]) -> list[npt.NDArray[Number]]:
        """One value per token, cut into R arrays, one per row."""
        return [values_N[start:end] for start, end in itertools.pairwise(self.offsets)]

    def of_rows(self, ids: Collection[int]) -> AnswerTokens:
        """The same answers, of the given rows only."""
        keep_R = np.isin(self.row_ids, np.fromiter(ids, dtype=np.int64, count=len(ids)))
        keep_N = np.repeat(keep_R, self.n_tokens)
        return AnswerTokens(
            row_ids=self.row_ids[keep_R],
            offsets=np.concatenate([[0], np.cumsum(self.n_tokens[keep_R])]).astype(np.int64),
            zlib=self.zlib[keep_R],
            n_bytes=self.n_bytes[keep_R],
            **{c: getattr(self, c)[keep_N] for c in _COLUMNS},
        )

    def without_last(self) -> AnswerTokens:
        """The same rows without each row's last token."""
        last = self.offsets[1:][self.n_tokens > 0] - 1
        keep = np.ones(len(self.logp), dtype=bool)
        keep[last] = False
        counts = np.maximum(self.n_tokens - 1, 0)
        return AnswerTokens(
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

    by_variant: Mapping[str, AnswerTokens]

    def __getitem__(self, variant: str) -> AnswerTokens:
        return self.by_variant[variant]

    def of_rows(self, ids: Collection[int]) -> TokenRecords:
        """The same records, of the given rows only; a variant that none of them has is left out."""
        cut = {name: answers.of_rows(ids) for name, answers in self.by_variant.items()}
        return TokenRecords({name: answers for name, answers in cut.items() if len(answers.row_ids)})

    def family(self, stem: str) -> list[AnswerTokens]:
        """All variants `stem_0`, `stem_1`, ... in order (the perturbed answers of a row)."""
        names = [v for v in self.by_variant if v.rpartition("_")[0] == stem and v.rpartition("_")[2].isdigit()]
        return [self.by_variant[v] for v in sorted(names, key=lambda v: int(v.rpartition("_")[2]))]


def token_records(table: pa.Table) -> TokenRecords:
    """Group a TOKENS table by variant and row. Lines may come in any order."""
    out: dict[str, AnswerTokens] = {}
    variants = np.asarray(table["variant"].to_pylist(), dtype=object)
    row_id, position = (table[c].to_numpy().astype(np.int64) for c in ("row_id", "position"))
    for variant in sorted(set(variants.tolist())):
        pick = np.flatnonzero(variants == variant)
        pick = pick[np.lexsort((position[pick], row_id[pick]))]
        ids, first, counts = np.unique(row_id[pick], return_index=True, return_counts=True)
        columns: dict[str, Any] = {c: table[c].to_numpy(zero_copy_only=False)[pick] for c in _COLUMNS}
        out[variant] = AnswerTokens(
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
class GeneratedText:
    """One generation."""

    row_id: int
    sample: int
    prompt: str
    generation: str
    reference: str
    n_new_tokens: int
    stopped: bool
    similarity: float | None = None  # to the reference, where an embedding model has read both


def text_records(table: pa.Table) -> list[GeneratedText]:
    """A TEXTS table as a list, sorted by row and sample."""
    return sorted((GeneratedText(**line) for line in table.to_pylist()), key=lambda t: (t.row_id, t.sample))


def texts_table(texts: Iterable[GeneratedText]) -> pa.Table:
    """The TEXTS table of a list of generations, sorted by row and sample."""
    ordered = sorted(texts, key=lambda t: (t.row_id, t.sample))
    return pa.Table.from_pylist([vars(t) for t in ordered], schema=TEXTS)


@dataclass(frozen=True)
class ExampleNumbers:
    """Named numbers of R rows: `columns[name]` has shape (R,), NaN where a row has none. Row ids ascend."""

    row_ids: Ints
    columns: Mapping[str, Floats]

    def of_rows(self, ids: Collection[int]) -> ExampleNumbers:
        """The same numbers, of the given rows only."""
        keep_R = np.isin(self.row_ids, np.fromiter(ids, dtype=np.int64, count=len(ids)))
        return ExampleNumbers(self.row_ids[keep_R], {name: column[keep_R] for name, column in self.columns.items()})


def grad_records(table: pa.Table) -> dict[str, ExampleNumbers]:
    """A GRADS table by variant: the columns l1, l2, linf and tensor_mean."""
    return {v: ExampleNumbers(ids, columns) for v, ids, columns in _by_variant(table, GRADS.names[2:])}


def agreement_records(table: pa.Table) -> dict[str, ExampleNumbers]:
    """An AGREEMENT table by variant: kl and same_argmax, each the mean over a row's tokens."""
    out: dict[str, ExampleNumbers] = {}
    for variant, ids, columns in _by_variant(table, ("kl", "same_argmax")):
        rows, first, counts = np.unique(ids, return_index=True, return_counts=True)
        means = {name: np.add.reduceat(column, first) / counts for name, column in columns.items()}
        out[variant] = ExampleNumbers(rows, means)
    return out


def _by_variant(table: pa.Table, names: Iterable[str]) -> list[tuple[str, Ints, dict[str, Floats]]]:
    """Each variant with its lines' row ids, ascending, and their columns as float64."""
    variants = np.asarray(table["variant"].to_pylist(), dtype=object)
    row_id = table["row_id"].to_numpy().astype(np.int64)
    columns = {name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names}
    found = []
    for variant in sorted(set(variants.tolist())):
        pick = np.flatnonzero(variants == variant)
        pick = pick[np.argsort(row_id[pick], kind="stable")]
        found.append((variant, row_id[pick], {name: column[pick] for name, column in columns.items()}))
    return found


def similarity_records(table: pa.Table) -> dict[str, dict[tuple[int, int], float]]:
    """A SIMILARITY table as variant -> (row, sample) -> cosine."""
    out: dict[str, dict[tuple[int, int], float]] = {}
    for line in table.to_pylist():
        out.setdefault(line["variant"], {})[line["row_id"], line["sample"]] = line["cosine"]
    return out
