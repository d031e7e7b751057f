"""The records that scoring stores and metrics read: the tables of the built-in kinds, and their objects.

Token and agreement records have one line per scored answer token. Text and similarity records have one per
generation, and gradient records one per answer. All are sorted, so that equal
inputs give equal files. `evaluation.kinds` registers each kind with the function that computes it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

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
        ("n_new_tokens", pa.int32()),  # with the end token; 0 only if the model's logits were NaN
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
        ("variant", pa.string()),  # the answer that the generation is compared with
        ("cosine", pa.float64()),  # of the embeddings of generation and answer; NaN if either is empty
    ]
)


JUDGEMENTS = pa.schema(
    [
        ("row_id", pa.int32()),
        ("sample", pa.int32()),
        ("variant", pa.string()),  # "answer"
        ("score", pa.float64()),  # of the judge, 0 to 1; NaN without one
        ("reason", pa.string()),  # for the absence of a score
    ]
)


class Records(Protocol):
    """The records of one kind for one set of examples, as a metric reads them."""

    def of_rows(self, ids: Collection[int]) -> Records:
        """Return the records of the given examples only."""
        ...

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return a missing part of the names a metric reads, such as "'paraphrase' answers"; None if all exist."""
        ...


@dataclass(frozen=True)
class Absent:
    """The reason for records that do not exist, in place of the records."""

    reason: str


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
        """The number of scored tokens of each row, shape (R,)."""
        return np.diff(self.offsets)

    def avg_loss(self) -> Floats:
        """Return the mean negative log-likelihood of each row's answer tokens in nats, shape (R,); NaN if empty."""
        sums = np.add.reduceat(np.append(self.logp, 0.0), self.offsets[:-1]) if len(self.row_ids) else np.zeros(0)
        n = self.n_tokens
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 0, -sums / n, np.nan)

    def by_row(self, values_N: npt.NDArray[Number]) -> list[npt.NDArray[Number]]:
        """Cut one value per token into R arrays, one per row."""
        return [values_N[start:end] for start, end in itertools.pairwise(self.offsets)]

    def of_rows(self, ids: Collection[int]) -> AnswerTokens:
        """Return the answers of the given rows only."""
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
        """Return the rows without each row's last token."""
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
    """The token records of one set of rows, by variant: `records["answer"]`, `records["trace"]`."""

    by_variant: Mapping[str, AnswerTokens]
    __iter__ = None  # a loop over the records raises TypeError, not KeyError: 0

    def __getitem__(self, variant: str) -> AnswerTokens:
        return self.by_variant[variant]

    def of_rows(self, ids: Collection[int]) -> TokenRecords:
        """Return the records of the given rows only; a variant that none of them has is left out."""
        cut = {name: answers.of_rows(ids) for name, answers in self.by_variant.items()}
        return TokenRecords({name: answers for name, answers in cut.items() if len(answers.row_ids)})

    def answers(self, name: str) -> list[AnswerTokens]:
        """Return the answers of a name: the variant of that name, else all of `name_0`, `name_1`, ..."""
        return [self[name]] if name in self.by_variant else self.family(name)

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return the first name that no answer has."""
        return next((f"{name!r} answers" for name in names if not self.answers(name)), None)

    def family(self, stem: str) -> list[AnswerTokens]:
        """Return all variants `stem_0`, `stem_1`, ... in order (the perturbed answers of a row)."""
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
    similarity: float | None = None  # to the reference, by an embedding model


@dataclass(frozen=True)
class GeneratedTexts:
    """The generations of one set of examples.

    references: row -> name -> text, to compare the generations with another answer than the stored reference, or with a
    span. None: the stored references apply to every name. traces: the rows whose generations contain a trace. The name
    "trace" reads the text before its closing tag, a variant of the answer the text after it.
    """

    texts: Sequence[GeneratedText]
    references: Mapping[int, Mapping[str, str]] | None = None
    traces: frozenset[int] = frozenset()

    def of_rows(self, ids: Collection[int]) -> GeneratedTexts:
        """Return the generations of the given examples only."""
        rows = frozenset(ids)
        return GeneratedTexts([t for t in self.texts if t.row_id in rows], self.references, self.traces)

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return the first name that some example has no answer for."""
        if self.references is None:
            return None
        rows = {t.row_id for t in self.texts}
        return next((f"{n!r} answers" for n in names if any(n not in self.references[row] for row in rows)), None)

    def against(self, name: str, similarity: Similarities | None = None) -> list[GeneratedText]:
        """Return the generations with the text of this name as their reference, and their similarity to it.

        Of a generation with a trace, it returns the span that the name names.
        """
        cosine = {} if similarity is None else similarity.by_variant.get(name, {})
        out = []
        for text in self.texts:
            if self.references is not None:
                text = replace(text, reference=self.references[text.row_id][name])
            if text.row_id in self.traces and name != "trace+answer":
                trace, answer = split_trace(text.generation)
                text = replace(text, generation=trace if name == "trace" else answer)
            near = cosine.get((text.row_id, text.sample))
            out.append(text if near is None else replace(text, similarity=near))
        return out

    def naming(self, name: str) -> list[GeneratedText]:
        """Return the generations of the rows that have a text of this name, as `against` does."""
        has = [t for t in self.texts if self.references is None or name in self.references[t.row_id]]
        return replace(self, texts=has).against(name)


CLOSED_THOUGHT = re.compile(r"</[^<>]*think[^<>]*>|<\|?END_THINK[^<>]*>|<channel\|>|<\|close\|>think", re.IGNORECASE)
"""The tags of published chat templates that end a reasoning trace."""


def split_trace(generation: str) -> tuple[str, str]:
    """Return the trace and the answer of a generation. Without a closing tag all of it is the trace."""
    tag = CLOSED_THOUGHT.search(generation)
    return (
        (generation.strip(), "")
        if tag is None
        else (generation[: tag.start()].strip(), generation[tag.end() :].strip())
    )


def text_records(table: pa.Table) -> list[GeneratedText]:
    """Return a TEXTS table as a list, sorted by row and sample."""
    return sorted((GeneratedText(**line) for line in table.to_pylist()), key=lambda t: (t.row_id, t.sample))


def texts_table(texts: Iterable[GeneratedText]) -> pa.Table:
    """Return the TEXTS table of a list of generations, sorted by row and sample."""
    ordered = sorted(texts, key=lambda t: (t.row_id, t.sample))
    return pa.Table.from_pylist([vars(t) for t in ordered], schema=TEXTS)


@dataclass(frozen=True)
class ExampleNumbers:
    """Named numbers of R rows: `columns[name]` has shape (R,), NaN for a row without a number. Row ids ascend.

    reasons: the text of a column `reason`, by row, if it has one.
    """

    row_ids: Ints
    columns: Mapping[str, Floats]
    reasons: Mapping[int, str] = field(default_factory=dict)

    def of_rows(self, ids: Collection[int]) -> ExampleNumbers:
        """Return the numbers of the given rows only."""
        keep_R = np.isin(self.row_ids, np.fromiter(ids, dtype=np.int64, count=len(ids)))
        columns = {name: column[keep_R] for name, column in self.columns.items()}
        reasons = {i: reason for i, reason in self.reasons.items() if i in ids}
        return ExampleNumbers(self.row_ids[keep_R], columns, reasons)


@dataclass(frozen=True)
class AnswerNumbers:
    """Named numbers of each answer, by variant."""

    by_variant: Mapping[str, ExampleNumbers]

    def __getitem__(self, variant: str) -> ExampleNumbers:
        return self.by_variant[variant]

    def of_rows(self, ids: Collection[int]) -> AnswerNumbers:
        """Return the numbers of the given examples only."""
        return AnswerNumbers({name: numbers.of_rows(ids) for name, numbers in self.by_variant.items()})

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return the first name that no answer has."""
        return next((f"{name!r} answers" for name in names if name not in self.by_variant), None)


KEYS = ("row_id", "variant", "position", "sample")  # columns that identify the answer, token or sample of a line


def answer_numbers(table: pa.Table) -> AnswerNumbers:
    """Return the numbers of a table by answer: each column's mean over the lines of the answer.

    The table has the columns row_id and variant. Columns that are not numbers are left out. An answer with one line
    keeps its numbers unchanged.
    """
    names = [field.name for field in table.schema if field.name not in KEYS and _is_number(field.type)]
    variants = np.asarray(table["variant"].to_pylist(), dtype=object)
    row_id = table["row_id"].to_numpy().astype(np.int64)
    columns = {name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names}
    reasons = [r or "" for r in table["reason"].to_pylist()] if "reason" in table.column_names else [""] * len(row_id)
    out: dict[str, ExampleNumbers] = {}
    for variant in sorted(set(variants.tolist())):
        pick = np.flatnonzero(variants == variant)
        pick = pick[np.argsort(row_id[pick], kind="stable")]
        rows, first, counts = np.unique(row_id[pick], return_index=True, return_counts=True)
        means = {name: np.add.reduceat(column[pick], first) / counts for name, column in columns.items()}
        out[variant] = ExampleNumbers(rows, means, {int(row_id[i]): reasons[i] for i in pick if reasons[i]})
    return AnswerNumbers(out)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


@dataclass(frozen=True)
class Similarities:
    """The similarity of generations to answers: variant -> (row, sample) -> cosine."""

    by_variant: Mapping[str, Mapping[tuple[int, int], float]]

    def __getitem__(self, variant: str) -> Mapping[tuple[int, int], float]:
        return self.by_variant[variant]

    def of_rows(self, ids: Collection[int]) -> Similarities:
        """Return the similarities of the given examples only."""
        rows = frozenset(ids)
        return Similarities({v: {k: c for k, c in of.items() if k[0] in rows} for v, of in self.by_variant.items()})

    def lacking(self, names: Sequence[str]) -> str | None:
        """Return the first name without similarities."""
        return next((f"similarities to {name!r}" for name in names if name not in self.by_variant), None)


def similarity_records(table: pa.Table) -> Similarities:
    """Return the similarities of a SIMILARITY table."""
    out: dict[str, dict[tuple[int, int], float]] = {}
    for line in table.to_pylist():
        out.setdefault(line["variant"], {})[line["row_id"], line["sample"]] = line["cosine"]
    return Similarities(out)
