"""Measure a model: compute the records that metrics read, once for all metrics, then the metrics.

Evaluation jobs, evaluations during training, audits and `expunge.evaluate` all score through `Evaluator`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pyarrow as pa

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, as_list, kind_of, nearest
from expunge.core.fingerprints import fingerprint
from expunge.core.records import Absent, Records
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import TRUNCATED, Generation, check_backend
from expunge.evaluation.kinds import GREEDY, RecordKind, RecordPart, ScoringInputs, parts
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import compute, with_parents
from expunge.models.capabilities import kept_modes, observed_capabilities
from expunge.models.config import check_source
from expunge.models.load import load_named, load_named_tokenizer, require_tokenizer

if TYPE_CHECKING:
    from expunge.evaluation.result import EvalResult

TOKENIZER = "tokenizer"  # in the metadata of records and results: the mark of the model's tokenizer
SAMPLING = Generation(temperature=1.0, samples=8)
RetainResults: TypeAlias = "EvalResult | Mapping[str, MetricResult] | str | Path"
Tables = Mapping[tuple[str, str], pa.Table]  # (rows, kind) -> records


class GenerationLimits(Protocol):
    """The limits of a benchmark on the generations of one set."""

    @property
    def max_new_tokens(self) -> int:
        """The largest number of new tokens."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end a generation."""
        ...


class EvalTask(Protocol):
    """Named examples and metrics to measure. Every `benchmarks.Benchmark` is one."""

    @property
    def name(self) -> str:
        """The benchmark's name."""
        ...

    @property
    def split(self) -> str:
        """The name of the split."""
        ...

    @property
    def eval_name(self) -> str:
        """The start of the names of its result files."""
        ...

    @property
    def sets(self) -> Mapping[str, ExampleSet]:
        """The examples by name."""
        ...

    @property
    def panel(self) -> tuple[Metric, ...]:
        """The metrics."""
        ...

    @property
    def generation(self) -> Mapping[str, Any]:
        """Limits on generations, by set."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Metrics with the examples they read and the settings of scoring, for any number of models."""

    metrics: Sequence[Metric]
    """The metrics to compute, with the metrics that they read."""
    sets: Mapping[str, ExampleSet]
    """The examples by name."""
    encoder: Encoder
    """The template and the tokenizer."""
    generation: Generation = GREEDY
    """How greedy texts are generated."""
    sampling: Generation = SAMPLING
    """How several samples per question are generated."""
    limits: Mapping[str, GenerationLimits] = field(default_factory=dict)
    """The benchmark's limits on generations, by set."""
    original: Callable[[], Any] | None = None
    """Returns the model that agreement compares with."""
    embedder: Any = None
    """The embedding model of similarity: a name, or an `evaluation.similarity.Embedder`."""
    judge: Any = None
    """Returns the scores of generations (`ScoringInputs.judge`)."""
    batch_tokens: int | None = None
    """The maximum number of tokens of a padded batch. None: the device's default."""
    n_rows: int | None = None
    """The number of examples of each set that are read, from the first. None: all."""
    retain: Mapping[str, MetricResult] | None = None
    """The retain model's results on the same examples, if there is one."""

    def score(self, model: Any, *, whole: bool = False) -> dict[tuple[str, str], pa.Table]:
        """Compute all records that the metrics read: (rows, kind) -> table. The model's mode is restored.

        whole: every process reads all examples, which a model in shards requires.
        """
        tables: dict[tuple[str, str], pa.Table] = {}
        with kept_modes(model):
            model.eval()
            for part in parts(self.metrics):
                if self._lacks(part.spec):
                    continue
                inputs = ScoringInputs(
                    model=model,
                    examples=self.examples(part.rows),
                    names=part.names,
                    encoder=self.encoder,
                    generation=self.settings(part),
                    original=self.original,
                    embedder=self.embedder,
                    judge=self.judge,
                    source=tables.get((part.rows, part.of or "")),
                    tokens=tables.get((part.rows, "tokens")),
                    batch_tokens=self.batch_tokens,
                    whole=whole,
                )
                tables[part.rows, part.kind] = part.spec.table(inputs)
        return tables

    def results(self, tables: Tables, shadows: Sequence[Mapping[str, MetricResult]] = ()) -> dict[str, MetricResult]:
        """Compute the metrics from records, cut to the examples of `n_rows`."""
        return results_of(self.metrics, tables, self.sets, self.retain, shadows, n_rows=self.n_rows)

    def examples(self, rows: str) -> ExampleSet:
        """Return the examples of a set that are read."""
        whole = self.sets[rows]
        return whole if self.n_rows is None else dataclasses.replace(whole, rows=whole.rows[: self.n_rows])

    def settings(self, part: RecordPart) -> Generation:
        """Return the generation settings of a part, within the benchmark's limits."""
        how = self.sampling if part.spec.settings == "sampling" else self.generation
        return limited(how, self.limits.get(part.rows))

    def _lacks(self, kind: RecordKind) -> bool:
        """Return whether the additional model of a kind is missing."""
        return kind.needs is not None and getattr(self, kind.needs) is None


def limited(generation: Generation, limits: GenerationLimits | None) -> Generation:
    """Return the generation settings of a set, within the benchmark's limits."""
    if limits is None:
        return generation
    n = min(generation.max_new_tokens, limits.max_new_tokens)
    return dataclasses.replace(generation, max_new_tokens=n, stop=(*generation.stop, *limits.stop))


def results_of(
    metrics: Sequence[Metric],
    tables: Tables,
    sets: Mapping[str, ExampleSet],
    retain: Mapping[str, MetricResult] | None = None,
    shadows: Sequence[Mapping[str, MetricResult]] = (),
    *,
    n_rows: int | None = None,
) -> dict[str, MetricResult]:
    """Compute metrics from records; a metric whose records do not exist is missing, with the reason.

    Args:
        metrics: The metrics, with the metrics that they read.
        tables: (rows, kind) -> table.
        sets: The examples by name.
        retain: The results of the retain model by metric name.
        shadows: The results of the retain models that are not measured.
        n_rows: The number of examples of each set that count, from the first. None: all.

    Raises:
        ConfigError: If the `where` of a metric names a key that no example has.
    """
    records: dict[str, dict[str, Records | Absent]] = {}
    for part in parts(metrics):
        table = tables.get((part.rows, part.kind))
        of = records.setdefault(part.kind, {})
        if table is not None:
            whole = part.spec.read(table, sets[part.rows])
            of[part.rows] = whole if n_rows is None else whole.of_rows(range(min(n_rows, len(sets[part.rows]))))
        elif part.spec.absent is not None:
            of[part.rows] = Absent(part.spec.absent)
    subsets = {m.name: rows_where(sets[m.rows], m) for m in metrics if m.rows and m.where}
    return compute(metrics, records, retain, subsets=subsets, shadows=shadows)


def rows_where(rows: ExampleSet, metric: Metric) -> frozenset[int]:
    """Return the examples that a metric's `where` selects. Raises ConfigError for a key that no example's meta has."""
    rest = {r.row_id for r in rows}
    known = sorted({key for r in rows for key in r.meta})
    for written, value in metric.where.items():
        key = written.removeprefix("!")
        if key not in known:
            raise ConfigError(
                f"metric {metric.name}: where.{written}: no row of {rows.name} has such a key{nearest(key, known)}"
            )
        values = value if isinstance(value, list | tuple) else [value]
        matched = set()
        for row in rows:
            of_row = row.meta.get(key)
            if any(v in values for v in (of_row if isinstance(of_row, list) else [of_row])):
                matched.add(row.row_id)
        rest = rest - matched if written.startswith("!") else rest & matched
    return frozenset(rest)


def tokenizer_mark(tokenizer: Any) -> str:
    """Return a mark of the ids of all tokens and the end token, equal for tokenizers that give the same records."""
    return fingerprint({"vocabulary": dict(tokenizer.get_vocab()), "eos": int(tokenizer.eos_token_id)})


def marked(table: pa.Table, mark: str) -> pa.Table:
    """Return a table whose metadata names the tokenizer."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), TOKENIZER.encode(): mark.encode()})


def evaluate_task(
    model: Any,
    tokenizer: Any,
    task: EvalTask,
    *,
    metrics: Sequence[str | Metric] | None = None,
    retain_results: RetainResults | Sequence[RetainResults] | None = None,
    template: Template | Mapping[str, Any] | None = None,
    generation: Generation | Mapping[str, Any] | None = None,
    sampling: Generation | Mapping[str, Any] | None = None,
    original: Any = None,
    embedder: str | None = None,
    judge: Any = None,
    batch_tokens: int | None = None,
    seed: int = 0,
) -> EvalResult:
    """Measure a model on a task. `expunge.evaluate` documents the arguments."""
    from expunge.evaluation.result import SIDES, EvalResult, other_measurement

    if batch_tokens is not None and (not isinstance(batch_tokens, int) or batch_tokens < 1):
        raise ConfigError(f"batch_tokens: must be a whole number of at least 1, got {batch_tokens!r}")
    suite = choose_metrics(task.panel, metrics, task.sets)
    optional = {"original": original, "embedder": embedder, "judge": judge, "sampling": sampling}
    _refuse_unread(suite, [name for name, value in optional.items() if value is not None])
    how = resolve_generation(generation, seed)
    several = resolve_generation(sampling, seed, default=SAMPLING, where="sampling")
    rows = {n: task.sets[n].fingerprint() for n in sorted({m.rows for m in suite if m.rows})}
    controls = retain_of(retain_results, rows)
    retain = [one.results if isinstance(one, EvalResult) else one for one in controls]
    model, tokenizer = resolve_model(model, tokenizer)
    evaluator = Evaluator(
        metrics=suite,
        sets=task.sets,
        encoder=Encoder(resolve_template(template, tokenizer), tokenizer),
        generation=how,
        sampling=several,
        limits=task.generation,
        original=None if original is None else lambda: load_if_named(original, "original"),
        embedder=embedder,
        judge=judge,
        batch_tokens=batch_tokens,
        retain=retain[0] if retain else None,
    )
    mark = tokenizer_mark(tokenizer)
    tables = {key: marked(table, mark) for key, table in evaluator.score(model).items()}
    meta = {
        "benchmark": task.name,
        "forget_split": task.split,
        "template": fingerprint(dataclasses.replace(evaluator.encoder.template, max_length=2)),
        "rows": rows,
        TOKENIZER: mark,
    }
    other = [note for one in controls for note in other_measurement(meta, one, SIDES["retain"])]
    return EvalResult(
        evaluator.results(tables, retain if len(retain) > 1 else ()),
        meta=meta,
        retain=evaluator.retain,
        examples={m.name: m.rows for m in suite if m.rows},
        records={f"{rows}.{kind}": table for (rows, kind), table in tables.items()},
        prefix=task.eval_name,
        notes=[*reading_notes(evaluator.encoder, tables, model), *dict.fromkeys(other)],
    )


def _refuse_unread(suite: Sequence[Metric], optional: Sequence[str]) -> None:
    """Raise ConfigError for an argument that no metric of the evaluation reads."""
    kinds = [part.spec for part in parts(suite)]
    read = {kind.needs for kind in kinds} | {kind.settings for kind in kinds}
    remedy = {"original": 'extras=["agreement"]', "embedder": 'extras=["similarity"]',
              "judge": 'metrics=["judgement"]', "sampling": 'extras=["leak"]'}  # fmt: skip
    for name in optional:
        if name not in read:
            raise ConfigError(f"{name}: no metric of this evaluation reads it; add {remedy[name]}, or leave it out")


def reading_notes(encoder: Encoder, tables: Tables, model: Any) -> list[str]:
    """Return one line for each thing that decides a number: template, special text, truncation, fallbacks."""
    notes = list(encoder.notes)
    if encoder.text.special_text:
        how = "plain text" if encoder.template.split_special_tokens else "special tokens"
        notes.append(
            f"{len(encoder.text.special_text)} rows contain the text of a special token, encoded as {how}, such as "
            f"{min(encoder.text.special_text)}"
        )
    for (rows, _), table in tables.items():
        cut = int((table.schema.metadata or {}).get(TRUNCATED.encode(), 0))
        if cut:
            notes.append(
                f"{cut} answers of {rows} are truncated at {encoder.max_length} tokens, question included; "
                "template={'max_length': N} sets another limit"
            )
    observed = observed_capabilities(model)
    return [*notes, *(observed.notes if observed else ())]


def resolve_model(model: Any, tokenizer: Any, where: str = "model") -> tuple[Any, Any]:
    """Return the model and the tokenizer, loaded if they are names. Raises ConfigError."""
    if tokenizer is None:
        if not isinstance(model, str | Path):
            raise ConfigError("tokenizer: missing; a model object needs its tokenizer")
        check_source(str(model), where)
        tokenizer = str(model)
    if isinstance(tokenizer, str | Path):
        tokenizer = load_named_tokenizer(tokenizer, "tokenizer")
    else:
        require_tokenizer(tokenizer, "tokenizer")
    return load_if_named(model, where), with_pad_token(tokenizer)


def with_pad_token(tokenizer: Any) -> Any:
    """Return a tokenizer with a pad token: without one a copy that pads with EOS. Padded positions are never read."""
    if tokenizer.pad_token_id is not None or tokenizer.eos_token_id is None:
        return tokenizer
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = padding.eos_token
    return padding


def load_if_named(model: Any, where: str = "model") -> Any:
    """Return an observed model; a name is loaded. Raises ConfigError for another object."""
    loaded = load_named(model, where)
    from expunge.evaluation.observation import capabilities

    capabilities(loaded)  # later forwards read it
    return loaded


def resolve_template(template: Template | Mapping[str, Any] | None, tokenizer: Any) -> Template:
    """Return the template. By default the tokenizer's chat template if it has one, else plain tags."""
    if isinstance(template, Template):
        return template
    if not isinstance(template, Mapping | None):
        raise ConfigError(f"template: expected a Template or a mapping of its fields, got {kind_of(template)}")
    fields = dict(template or {})
    tags = any(key.endswith("_tag") for key in fields)
    if "apply_chat_template" not in fields and not tags and tokenizer.chat_template:
        fields["apply_chat_template"] = True
    return decode(Template, fields, where="template")


def resolve_generation(
    settings: Generation | Mapping[str, Any] | None,
    seed: int = 0,
    *,
    default: Generation = GREEDY,
    where: str = "generation",
) -> Generation:
    """Return generation settings; a mapping replaces some defaults. Raises ConfigError at the key."""
    if not isinstance(settings, Generation | Mapping | None):
        raise ConfigError(f"{where}: expected a Generation or a mapping of its fields, got {kind_of(settings)}")
    if not isinstance(settings, Generation):
        known = {"temperature": default.temperature, "samples": default.samples, "seed": seed}
        settings = decode(Generation, {**known, **(settings or {})}, where=where)
    check_backend(settings, where=where)
    return settings


def choose_metrics(
    panel: Sequence[Metric], names: Sequence[str | Metric] | None, sets: Collection[str]
) -> list[Metric]:
    """Return the metrics to compute: the whole panel, or the named ones with the metrics that they read.

    names: names in the panel, names of families that declare the records they read (a plugin's), or Metric objects.
    """
    if names is None:
        return list(panel)
    if not as_list(names, "metrics"):
        raise ConfigError("metrics: names no metric; name one or more, or leave it out for all")
    selected: list[str] = []
    known = {m.name: m for m in panel}
    for metric in names:
        if isinstance(metric, Metric):
            own = [metric]
        elif metric in known:
            own = [known[metric]]
        else:
            from expunge.metrics.added import added_metrics

            own = added_metrics([metric], panel, sets, where="metrics")
        known |= {m.name: m for m in own}
        selected += [m.name for m in own]
    for name in selected:
        rows = known[name].rows
        if rows is not None and rows not in sets:
            raise ConfigError(f"metrics: {name} reads the examples {rows!r}, which do not exist{nearest(rows, sets)}")
    return with_parents(list(known.values()), selected)


def retain_of(
    results: RetainResults | Sequence[RetainResults] | None, rows: Mapping[str, Any] | None = None
) -> list[EvalResult | Mapping[str, MetricResult]]:
    """Return the results of each retain model: none, one, or one for each training seed. Paths are read.

    rows: the fingerprints of the measured sets by name. Raises ConfigError for results of other examples.
    """
    if results is None:
        return []
    from expunge.evaluation.result import EvalResult, check_examples

    several: list[Any] = list(results) if isinstance(results, list | tuple) else [results]
    loaded = [EvalResult.load(one) if isinstance(one, str | Path) else one for one in several]
    for one in loaded:
        values = one.values() if isinstance(one, Mapping) and not isinstance(one, EvalResult) else [one]
        if not all(isinstance(value, EvalResult | MetricResult) for value in values):
            raise ConfigError(f"retain_results: expected an EvalResult, or the path of one, got {kind_of(one)}")
        check_examples(rows, one, "retain_results")
    return loaded
