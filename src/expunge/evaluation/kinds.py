"""Record kinds: the outputs of a model on examples that an evaluation stores, one registered function per kind.

A kind is one file: the schema of its table, its cost, the function from (model, examples) to the table, and how metrics
read it. The files of this folder and plugins register theirs with `@record_kind`. A metric names the kinds it reads
(`Metric.reads`), and an evaluation computes the union over all metrics, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText, Records, answer_numbers
from expunge.core.registry import Registry
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation.config import Generation
from expunge.metrics.api import Metric
from expunge.metrics.compute import requests

GREEDY = Generation()
NO_EMBEDDER = "no embedding model was named to measure similarity with (eval.embedder)"  # stored with results
NO_JUDGE = "no judge was named to score generations with (eval.judge)"
NO_ORIGINAL = "no original model was given to compare with"


@dataclass(frozen=True, kw_only=True)
class ScoringInputs:
    """The inputs of a kind's function."""

    model: Any
    """The model, in evaluation mode."""
    examples: ExampleSet
    """The examples to read."""
    names: tuple[str, ...]
    """The arguments of the kind: the answers that metrics read."""
    encoder: Encoder
    """The template and the tokenizer."""
    generation: Generation = GREEDY
    """The generation settings, within the benchmark's limits; for kinds with `settings`."""
    original: Callable[[], Any] | None = None
    """Returns the model that agreement compares with."""
    embedder: Any = None
    """The embedding model that similarity uses: a name, or an `evaluation.similarity.Embedder`."""
    judge: Callable[[Sequence[GeneratedText]], Sequence[tuple[float, str | None]]] | None = None
    """Returns the score of each generation, and the reason if it is NaN."""
    source: pa.Table | None = None
    """The table of the kind that this kind `follows`, of the same examples."""
    tokens: pa.Table | None = None
    """The token records of the same model and examples, if they exist. Generation reads ahead in them."""
    batch_tokens: int | None = None
    """The maximum number of tokens of a padded batch. None: the device's default."""
    whole: bool = False
    """Whether every process reads all examples, which a model in shards requires."""
    progress: Callable[[int], None] | None = None
    """Receives the number of answers or prompts of each finished batch."""


Compute = Callable[[ScoringInputs], pa.Table]
Read = Callable[[pa.Table, ExampleSet], Records]


@dataclass(frozen=True)
class RecordKind:
    """A registered kind of records."""

    name: str
    """The name that metrics use in `reads`."""
    schema: pa.Schema
    """The columns of its table. `row_id` and `variant` name the answer that a line belongs to."""
    compute: Compute
    """The function from the inputs to the table."""
    read: Read = lambda table, examples: answer_numbers(table)
    """The function from the table to the records that metrics read. By default the mean of each column by answer."""
    revision: int = 1
    """Raise it when the same model and examples give other records."""
    cost: float = 2.0
    """Floating-point operations per parameter and token: 2 for a forward, 6 with a backward."""
    settings: Literal["generation", "sampling"] | None = None
    """The generation settings that decide its records, if any."""
    needs: Literal["original", "embedder", "judge"] | None = None
    """The additional model or judge that it needs."""
    follows: str | None = None
    """The kind whose table it reads in place of the model."""
    collective: bool = False
    """Whether several processes share the examples. Each then calls `compute` and gets the whole table."""

    def table(self, inputs: ScoringInputs) -> pa.Table:
        """Return the records of `compute`. Raises ConfigError for other columns, or for a row that is not there."""
        table = self.compute(inputs)
        if table.schema.names != self.schema.names:
            raise ConfigError(
                f"record kind {self.name}: its table has the columns {', '.join(table.schema.names)}; its schema has "
                f"{', '.join(self.schema.names)}"
            )
        known = {row.row_id for row in inputs.examples}
        if strange := sorted(set(table["row_id"].unique().to_pylist()) - known):
            raise ConfigError(
                f"record kind {self.name}: row_id {strange[0]} is no row of {inputs.examples.name}; use row.row_id"
            )
        return table

    @property
    def absent(self) -> str | None:
        """Return the reason for missing records if the additional model is missing."""
        return {None: None, "original": NO_ORIGINAL, "embedder": NO_EMBEDDER, "judge": NO_JUDGE}[self.needs]

    @property
    def key(self) -> list[str]:
        """Return its part of a job's key: the columns, and the revision above 1."""
        return [*self.schema.names, *([f"revision {self.revision}"] if self.revision > 1 else [])]


_KINDS: Registry[RecordKind] = Registry(
    "record kind", lambda kind: kind.compute, folder="evaluation", decorator="record_kind"
)


def record_kind(name: str, *, schema: pa.Schema, **declared: Any) -> Callable[[Compute], Compute]:
    """Register the function of a kind: `compute(inputs: ScoringInputs) -> pyarrow.Table`.

    Args:
        name: The name that metrics use in `reads`.
        schema: The columns of the table.
        **declared: Further fields of RecordKind, such as `cost`, `read`, `revision`.
    """

    def register(compute: Compute) -> Compute:
        _KINDS.add(RecordKind(name, schema, compute, **declared))
        return compute

    return register


def kinds() -> Mapping[str, RecordKind]:
    """Return all kinds by name."""
    return _KINDS


def find_kind(name: str, where: str = "") -> RecordKind:
    """Return the kind of a name. Raises ConfigError with the nearest right name."""
    return _KINDS.find(name, where)


@dataclass(frozen=True)
class RecordPart:
    """The records of one kind for one set of examples. names: the arguments that the metrics read."""

    rows: str
    kind: str
    names: tuple[str, ...] = field(default=())

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return f"{self.rows}.{self.kind}.parquet"

    @property
    def spec(self) -> RecordKind:
        """Return its kind."""
        return find_kind(self.kind)

    @property
    def of(self) -> str | None:
        """Return the kind whose table it reads in place of the model."""
        return self.spec.follows


def parts(metrics: Iterable[Metric]) -> list[RecordPart]:
    """Return a part for each kind and set that the metrics read. A part comes after the parts that it can read.

    Raises ConfigError for a kind that is not registered.
    """
    listed = list(metrics)
    for metric in listed:
        for kind in metric.reads:
            find_kind(kind, f"metric {metric.name}: reads")
    by_kind = requests(listed)
    return [RecordPart(rows, kind, names) for kind in _in_order(by_kind) for rows, names in by_kind[kind].items()]


def _in_order(names: Iterable[str]) -> Sequence[str]:
    """Return kinds so that tokens come first (generation reads them) and a kind comes after the one that it follows."""
    return sorted(names, key=lambda name: (find_kind(name).follows is not None, name != "tokens", name))


def wanted_variants(row: Example, names: Sequence[str]) -> list[str]:
    """Return the row's variants and spans among `names`; the stem "perturbed" stands for all `perturbed_i`."""
    out: list[str] = []
    for name in row.names:
        stem, _, index = name.rpartition("_")
        if name in names or (index.isdigit() and stem in names):
            out.append(name)
    return out
