"""What jobs that read models do: records of rows, a part for each kind, and the metrics over them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge.benchmarks import Limits
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import link
from expunge.core.fingerprints import fingerprint
from expunge.core.records import (
    AGREEMENT,
    GRADS,
    TEXTS,
    TOKENS,
    GeneratedText,
    agreement_records,
    grad_records,
    similarity_records,
    text_records,
    texts_table,
    token_records,
)
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.engine.job import Progress
from expunge.evaluation.agreement import score_agreement
from expunge.evaluation.config import Generation
from expunge.evaluation.distributed import generate_texts_sharded, score_tokens_sharded, this_rank_shard
from expunge.evaluation.gradients import score_grads
from expunge.evaluation.loglikelihood import TRUNCATED, check_context, encode_items, wanted_variants
from expunge.evaluation.prompts import make_prompts
from expunge.evaluation.similarity import Embedder, score_similarity
from expunge.evaluation.speculative import DraftTexts, drafts_of
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import OptionalRecords, Texts, compute, requests, with_parents
from expunge.metrics.results import write_results
from expunge.models.load import load_model, pick_device
from expunge.study.task_context import TOKENIZER, TaskContext

COLUMNS: Mapping[str, Sequence[str]] = {
    "tokens": TOKENS.names,
    "texts": TEXTS.names,
    "samples": TEXTS.names,
    "grads": GRADS.names,
    "agreement": AGREEMENT.names,
}


@dataclass(frozen=True)
class RecordPart:
    """One kind of records of one set of rows. Each is a job of its own, so asking for another redoes none.

    kind: tokens, texts, samples, grads, agreement, or the similarity of texts or samples. names: the answers read.
    """

    rows: str
    kind: str
    names: tuple[str, ...]

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.rows}.{self.kind}.parquet"

    @property
    def of(self) -> str | None:
        """The kind of records a similarity is taken of."""
        stem, _, last = self.kind.rpartition("_")
        return stem if last == "similarity" else None


def parts(panel: Sequence[Metric]) -> list[RecordPart]:
    """What the panel reads, a part for each set of rows and kind of records."""
    wanted = requests(panel)
    kinds = {
        "tokens": wanted.tokens,
        "texts": wanted.texts,
        "samples": wanted.samples,
        "grads": wanted.grads,
        "agreement": wanted.agreement,
        "texts_similarity": wanted.similar_texts,
        "samples_similarity": wanted.similar_samples,
    }
    return [RecordPart(rows, kind, names) for kind, of in kinds.items() for rows, names in of.items()]


class ModelCache:
    """The model that was read last for scoring: the parts of one model follow one another, and so read it once.

    drafts: what its scores have shown of its texts, by the fingerprint of the rows.
    """

    def __init__(self) -> None:
        self._source: str | None = None
        self._model: Any = None
        self.drafts: dict[str, DraftTexts] = {}

    def model(self, source: str, setting: TaskContext) -> Any:
        """The model of a source."""
        if source != self._source:
            self.drop()
            self._model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
            self._source = source
        return self._model

    def drop(self) -> None:
        """Let go of it."""
        self._source = self._model = None
        self.drafts.clear()


def score(
    folder: Path,
    source: str,
    setting: TaskContext,
    part: RecordPart,
    generation: Generation,
    held: ModelCache,
    progress: Progress,
    *,
    original: str | None = None,
) -> dict[str, Any]:
    """Records of one part: each answer read once, or each question answered as `generation` says.

    original: the model that agreement compares with.
    """
    encoder = setting.encoder(source)
    model = held.model(source, setting)
    rows = setting.benchmark.sets[part.rows]
    total = units(part, rows, generation)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    facts: dict[str, Any] = {"units": total}
    if part.kind == "tokens":
        table = score_tokens_sharded(model, rows, part.names, encoder, this_rank_shard(), progress=step)
        scored = token_records(table.filter(pc.equal(table["variant"], "answer")))
        held.drafts[rows.fingerprint()] = drafts_of(scored, "answer")
        facts["truncated_answers"] = {part.rows: int(table.schema.metadata[TRUNCATED.encode()])}
    elif part.kind == "grads":
        table = score_grads(model, rows, part.names, encoder, progress=step)
    elif part.kind == "agreement":
        other = load_model(str(original), setting.model.model_args, device=pick_device(setting.model.device))
        table = score_agreement(model, other, rows, part.names, encoder, progress=step)
    else:
        limits = setting.benchmark.generation.get(part.rows)
        how = limited(generation, limits)
        known = held.drafts.get(rows.fingerprint())
        made = generate_texts_sharded(
            model, rows, "answer", encoder, how, this_rank_shard(), progress=step, drafts=known
        )
        table = texts_table(made)
    mark = {TOKENIZER.encode(): tokenizer_mark(encoder.tokenizer).encode()}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **mark}), folder / part.file)
    return facts


def check_lengths(
    context: int, setting: TaskContext, encoder: Encoder, part: RecordPart, generation: Generation
) -> None:
    """Raise DataError for a row of a part that is longer than a model's context."""
    rows = setting.benchmark.sets[part.rows]
    if part.kind in ("texts", "samples"):
        make_prompts(rows, encoder, generation, context, None)
    else:
        check_context(context, rows.name, encode_items(rows, part.names, encoder))


def limited(generation: Generation, limits: Limits | None) -> Generation:
    """How a set is generated from: as the settings say, but no longer than the benchmark allows."""
    if limits is None:
        return generation
    n = min(generation.max_new_tokens, limits.max_new_tokens)
    return dataclasses.replace(generation, max_new_tokens=n, stop=(*generation.stop, *limits.stop))


def compare_texts(
    folder: Path, texts: Path, setting: TaskContext, part: RecordPart, embedder: str, progress: Progress
) -> dict[str, Any]:
    """The similarity of stored generations to the named answers. The model itself is not read."""
    made = text_records(pq.read_table(_made(texts)))
    table = score_similarity(
        Embedder(embedder, pick_device(setting.model.device)), made, setting.benchmark.sets[part.rows], part.names
    )
    pq.write_table(table, folder / part.file)
    progress(1, 1)
    return {"compared": table.num_rows}


def gather(folder: Path, parents: Mapping[str, Path]) -> dict[str, Any]:
    """All records of one model in one folder, as links to those of its parts.

    parents: name of a part's file -> the folder of the job that made it. Equal rows are scored once whatever their sets
    are called, so what lies there may bear the name of another set.
    """
    for name, parent in parents.items():
        link(_made(parent), folder / name)
    return {"parts": sorted(parents)}


def _made(folder: Path) -> Path:
    """The one file of records in a part's folder."""
    (file,) = folder.glob("*.parquet")
    return file


def tokenizer_mark(tokenizer: Any) -> str:
    """What makes two tokenizers the same for records: the ids of all tokens, and the one that ends a text."""
    return fingerprint({"vocabulary": dict(tokenizer.get_vocab()), "eos": int(tokenizer.eos_token_id)})


def units(part: RecordPart, rows: ExampleSet, generation: Generation) -> int:
    """How many answers or prompts a part reads."""
    if part.kind in ("texts", "samples"):
        return len(rows.rows) * generation.samples
    return sum(len(wanted_variants(r, part.names)) for r in rows.rows)


def measure(
    folder: Path,
    records: Path,
    setting: TaskContext,
    panel: Sequence[Metric],
    retain: Mapping[str, MetricResult] | None,
    meta: Mapping[str, Any],
    shadows: Sequence[Path] = (),
) -> dict[str, Any]:
    """The panel over stored records, as EVAL and SUMMARY files. No model is read.

    shadows: the records of the retain models that `Metric.shadows` reads.
    """
    read = {parent for m in panel if m.shadows for parent in m.parents.values()}
    fewer = with_parents(panel, read)
    others = [_compute(path, setting, fewer, None) for path in shadows] if fewer else []
    results = _compute(records, setting, panel, retain, others)
    mark = tokenizer_of(records)
    write_results(
        folder, results, {**meta, **({TOKENIZER: mark} if mark else {})}, prefix=f"{setting.benchmark.eval_name}_"
    )
    return {name: None if math.isnan(r.value) else r.value for name, r in results.items()}


def _compute(
    records: Path,
    setting: TaskContext,
    panel: Sequence[Metric],
    retain: Mapping[str, MetricResult] | None,
    shadows: Sequence[Mapping[str, MetricResult]] = (),
) -> dict[str, MetricResult]:
    """The panel over the records that are there; a metric whose records are not is missing, and says so."""
    wanted = requests(panel)
    sets = setting.benchmark.sets
    read = {p: pq.read_table(records / p.file) for p in parts(panel) if (records / p.file).is_file()}
    of = {(p.rows, p.kind): table for p, table in read.items()}
    extra = OptionalRecords(
        samples=_texts(of, "samples", wanted.samples, sets),
        grads={rows: grad_records(of[rows, "grads"]) for rows in wanted.grads if (rows, "grads") in of},
        agreement={
            rows: agreement_records(of[rows, "agreement"]) for rows in wanted.agreement if (rows, "agreement") in of
        },
        kept={m.name: rows_where(sets[m.rows], m) for m in panel if m.rows and m.where},
        shadows=shadows,
    )
    tokens = {rows: token_records(of[rows, "tokens"]) for rows in wanted.tokens if (rows, "tokens") in of}
    return compute(panel, tokens, _texts(of, "texts", wanted.texts, sets), retain, extra)


def _texts(
    of: Mapping[tuple[str, str], Any], kind: str, wanted: Mapping[str, tuple[str, ...]], sets: Mapping[str, ExampleSet]
) -> Texts:
    """Generations by rows and answer held against, beside their similarity to it where that was measured."""
    out: dict[tuple[str, str], list[GeneratedText]] = {}
    for name, references in wanted.items():
        if (name, kind) not in of:
            continue
        made = text_records(of[name, kind])
        near = similarity_records(of[name, f"{kind}_similarity"]) if (name, f"{kind}_similarity") in of else {}
        rows = {r.row_id: r for r in sets[name].rows}
        for variant in references:
            cosine = near.get(variant, {})
            out[name, variant] = [
                dataclasses.replace(
                    t, reference=rows[t.row_id].answers[variant], similarity=cosine.get((t.row_id, t.sample))
                )
                for t in made
            ]
    return out


def tokenizer_of(records: Path) -> str | None:
    """The tokenizer that records say they were made with."""
    for file in sorted(records.glob("*.parquet")):
        found = (pq.read_schema(file).metadata or {}).get(TOKENIZER.encode())
        if found:
            return str(found.decode())
    return None


def rows_where(rows: ExampleSet, metric: Metric) -> frozenset[int]:
    """The rows a metric's `where` leaves. Raises ConfigError for a key that no row's meta has."""
    kept = {r.row_id for r in rows}
    known = sorted({key for r in rows for key in r.meta})
    for written, value in metric.where.items():
        key = written.removeprefix("!")
        if key not in known:
            raise ConfigError(
                f"metric {metric.name}: where.{written}: no row of {rows.name} has such a key{nearest(key, known)}"
            )
        wanted = value if isinstance(value, list | tuple) else [value]
        matched = set()
        for row in rows:
            held = row.meta.get(key)
            matched |= {row.row_id} if any(v in wanted for v in (held if isinstance(held, list) else [held])) else set()
        kept = kept - matched if written.startswith("!") else kept & matched
    return frozenset(kept)
