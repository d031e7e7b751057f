from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.example_metrics import SUBSETS, rows_panel, subset_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.examples import Example
from expunge.data.granularity import ENTITIES, Sampling, row_set, split_by, spread
from expunge.data.loaders.gen_tofu import load_graph, load_graph_rows

MOST_RETAIN = 400


@strict
@dataclass(frozen=True, kw_only=True)
class GenTofuArgs:
    """Settings of `benchmark=gen_tofu`."""

    granularity: Literal["question", "book", "author", "publisher", "relationship"] = "question"
    """Unit to forget."""
    forget_fraction: float = 0.05
    """Share of the units to forget, between 0 and 1."""
    seed: int = 42
    """Seed of the split."""
    compat: Sampling = "clean"
    """arcsf: the seed draws the same rows as in arcsf's own code."""
    train_set_eval: bool = False
    """Whether evaluation uses the training questions instead of the paraphrased ones."""

    def __post_init__(self) -> None:
        if not 0 < self.forget_fraction < 1:
            raise ValueError("forget_fraction must be a number between 0 and 1")


@benchmark(
    "gen_tofu",
    about="arcsf's entity graph and its question rows: question, book, author, publisher, link",
    fidelity="schema",
)
def gen_tofu(config: BenchmarkConfig) -> Benchmark:
    """Build arcsf's entity graph (authors, books, publishers), with rows that name their entities.

    data.root: arcsf's folder data/gen_tofu, with all_items.json, all_connections.csv and the rows: its saved data set
    (`dataset`, as its code reads), or questions.json (jsonl, csv, parquet, arrow). Rows have keys, question, answer,
    perturbed_answers and the same three with the prefix paraphrased_. compat=arcsf draws the same rows as arcsf with
    the same seed. data.args.granularity: question, book, author or publisher samples forget_fraction of these, rounded
    down, and forgets every row that names one. With relationship it samples links and forgets the rows that name both
    ends; retain_entity_* then measures the retain rows that name one end, retain_other_* the rest. Training uses
    question and answer, evaluation the paraphrased ones (train_set_eval=true: the same as training).

    Try: expunge plan study=quickstart benchmark=gen_tofu data.root=FOLDER data.args.granularity=book
    """
    unused(config, "gen_tofu", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain")
    args = settings(config, GenTofuArgs)
    if not config.root:
        raise ConfigError("data.root: missing; benchmark=gen_tofu reads a folder with all_items.json and its rows")
    folder = Path(config.root).expanduser()
    graph = load_graph(folder)
    rows, eval_rows = load_graph_rows(folder, graph, training_words=args.train_set_eval)
    split = split_by(
        rows,
        args.granularity,
        args.forget_fraction,
        entities={name: graph.of_type(name) for name in ENTITIES},
        links=graph.links,
        seed=args.seed,
        where="data.args.",
        compat=args.compat,
    )
    evaluated = {"forget_eval": split.forget, "retain_eval": spread(split.retain, MOST_RETAIN)}
    if split.entity and split.other:
        evaluated |= {
            name: spread(part, MOST_RETAIN) for name, part in zip(SUBSETS, (split.entity, split.other), strict=True)
        }
    trained = {"full": rows, "forget": split.forget, "retain": split.retain}
    sets = {name: row_set(name, part) for name, part in trained.items()}
    sets |= {name: row_set(name, _for_evaluation(part, eval_rows)) for name, part in evaluated.items()}
    more = [m for name in SUBSETS if name in sets for m in subset_panel(name, name, sets, config.truth_ratio)]
    return Benchmark(
        name="gen_tofu",
        split=f"{args.granularity}-{args.forget_fraction:g}",
        sets=sets,
        panel=(*rows_panel(sets, truth_ratio=config.truth_ratio), *more),
        full_sets=("full",),
        retain_sets=("retain",),
    )


def _for_evaluation(rows: Sequence[Example], eval_rows: list[Example]) -> list[Example]:
    """Return the same rows in the wording of evaluation."""
    return [eval_rows[row.row_id] for row in rows]
