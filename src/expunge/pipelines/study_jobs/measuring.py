"""The work of jobs that measure models: one kind of records of one set each, and the metrics over them.

The jobs load models and store tables; `evaluation.evaluator` scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge.core.files import link
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.engine.job import Progress
from expunge.engine.store import store_around
from expunge.evaluation.config import TRUNCATED, Generation
from expunge.evaluation.evaluator import TOKENIZER, limited, marked, results_of, rows_where, tokenizer_mark
from expunge.evaluation.kinds import RecordPart, ScoringInputs, find_kind, parts, wanted_variants
from expunge.evaluation.loglikelihood import check_context, encode_items
from expunge.evaluation.passport import load_checked
from expunge.evaluation.prompts import make_prompts
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import with_parents
from expunge.metrics.results import write_results
from expunge.models.dtypes import arithmetic_notes
from expunge.models.load import pick_device
from expunge.models.passport import Passport
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs import READING

__all__ = [
    "COLUMNS",
    "ModelCache",
    "RecordPart",
    "check_lengths",
    "compare_texts",
    "gather",
    "limited",
    "measure",
    "open_model",
    "parts",
    "rows_where",
    "score",
    "tokenizer_mark",
    "tokenizer_of",
    "units",
]


class _Columns(dict[str, Sequence[str]]):
    """The part of a job's key for each kind, including kinds of plugins."""

    def __missing__(self, kind: str) -> Sequence[str]:
        return find_kind(kind).key


COLUMNS: Mapping[str, Sequence[str]] = _Columns()


class ModelCache:
    """Cache the last loaded model, so consecutive scoring jobs of one model load it once.

    tokens: its token records of the true answers, by the fingerprint of the examples; generation reads ahead in them.
    """

    def __init__(self) -> None:
        self._source: str | None = None
        self._model: Any = None
        self.notes: tuple[str, ...] = ()  # of its passport
        self.tokens: dict[str, pa.Table] = {}

    def model(self, source: str, setting: TaskContext, encoder: Encoder, folder: Path) -> Any:
        """Return the model of a source, loaded by its passport. folder: of a job in the store with the passports."""
        if source != self._source:
            self.drop()
            self._model, passport = open_model(source, setting, encoder, folder)
            self.notes = passport.notes
            self._source = source
        return self._model

    def drop(self) -> None:
        """Release the model."""
        self._source = self._model = None
        self.tokens.clear()


def open_model(source: str, setting: TaskContext, encoder: Encoder, folder: Path) -> tuple[Any, Passport]:
    """Return the model of a source for scoring, with its passport. folder: of a job in the store with the passports."""
    device = pick_device(setting.model.device)
    store = store_around(folder)
    return load_checked(source, setting.model.model_args, encoder.tokenizer, device=device, store=store)


def score(
    folder: Path,
    source: str,
    setting: TaskContext,
    part: RecordPart,
    generation: Generation,
    cache: ModelCache,
    progress: Progress,
    *,
    original: str | None = None,
) -> dict[str, Any]:
    """Compute the records of one part and write them; return the facts for the job's record.

    original: the model that agreement compares with.
    """
    encoder = setting.encoder(source)
    model = cache.model(source, setting, encoder, folder)
    rows = setting.benchmark.sets[part.rows]
    total = units(part, rows, generation)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    def load_original() -> Any:
        return open_model(str(original), setting, encoder, folder)[0]

    inputs = ScoringInputs(
        model=model,
        examples=rows,
        names=part.names,
        encoder=encoder,
        generation=limited(generation, setting.benchmark.generation.get(part.rows)),
        original=None if original is None else load_original,
        tokens=cache.tokens.get(rows.fingerprint()),
        progress=step,
    )
    table = part.spec.table(inputs)
    weights = next(model.parameters())
    how = arithmetic_notes(weights.device.type, dtype=str(weights.dtype).removeprefix("torch."))
    notes = [*cache.notes, *encoder.notes, *how]
    facts: dict[str, Any] = {"units": total, **({READING: notes} if notes else {})}
    if part.kind == "tokens":
        cache.tokens[rows.fingerprint()] = table.filter(pc.equal(table["variant"], "answer"))
        facts["truncated_answers"] = {part.rows: int(table.schema.metadata[TRUNCATED.encode()])}
    pq.write_table(marked(table, tokenizer_mark(encoder.tokenizer)), folder / part.file)
    return facts


def check_lengths(
    context: int, setting: TaskContext, encoder: Encoder, part: RecordPart, generation: Generation
) -> None:
    """Raise DataError for a row of a part that is longer than a model's context."""
    rows = setting.benchmark.sets[part.rows]
    if part.spec.settings is not None:
        make_prompts(rows, encoder, generation, context, None)
    else:
        check_context(context, rows, encode_items(rows, part.names, encoder))


def compare_texts(
    folder: Path, texts: Path, setting: TaskContext, part: RecordPart, embedder: str, progress: Progress
) -> dict[str, Any]:
    """Write the similarity of stored generations to the named answers. Reads no model."""
    from expunge.evaluation.similarity import Embedder

    inputs = ScoringInputs(
        model=None,
        examples=setting.benchmark.sets[part.rows],
        names=part.names,
        encoder=None,  # type: ignore[arg-type]  # compares texts, without a model
        embedder=Embedder(embedder, pick_device(setting.model.device)),
        source=pq.read_table(_records_file(texts)),
    )
    table = part.spec.table(inputs)
    pq.write_table(table, folder / part.file)
    progress(1, 1)
    return {"compared": table.num_rows}


def judge_generations(
    folder: Path, texts: Path, setting: TaskContext, part: RecordPart, judge: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Write a judge's scores of stored generations. Reads no model that is measured."""
    from expunge.pipelines.study_jobs.judging import generation_judge

    inputs = ScoringInputs(
        model=None,
        examples=setting.benchmark.sets[part.rows],
        names=part.names,
        encoder=None,  # type: ignore[arg-type]  # scores texts, without a model
        judge=generation_judge(judge, "eval.judge"),
        source=pq.read_table(_records_file(texts)),
    )
    table = part.spec.table(inputs)
    pq.write_table(table, folder / part.file)
    progress(1, 1)
    return {"judged": table.num_rows, "without_score": int(sum(math.isnan(x) for x in table["score"].to_pylist()))}


def gather(folder: Path, parents: Mapping[str, Path]) -> dict[str, Any]:
    """Collect all records of one model in one folder, as links to the files of its parts.

    parents: name of a part's file -> the folder of its job. Equal rows are scored once under any set name, so the
    file in that folder may have the name of another set.
    """
    for name, parent in parents.items():
        link(_records_file(parent), folder / name)
    return {"parts": sorted(parents)}


def _records_file(folder: Path) -> Path:
    """Return the one file of records in a part's folder."""
    (file,) = folder.glob("*.parquet")
    return file


def units(part: RecordPart, rows: ExampleSet, generation: Generation) -> int:
    """Return the number of answers or prompts a part reads."""
    if part.spec.settings is not None:
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
    """Compute the metric suite over stored records, and write EVAL and SUMMARY files. Reads no model.

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
    """Compute the metric suite over the records of a folder."""
    tables = {(p.rows, p.kind): pq.read_table(records / p.file) for p in parts(panel) if (records / p.file).is_file()}
    return results_of(panel, tables, setting.benchmark.sets, retain, shadows)


def tokenizer_of(records: Path) -> str | None:
    """Return the tokenizer mark of stored records, if any."""
    for file in sorted(records.glob("*.parquet")):
        mark = (pq.read_schema(file).metadata or {}).get(TOKENIZER.encode())
        if mark:
            return str(mark.decode())
    return None
