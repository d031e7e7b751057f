from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, unused
from expunge.benchmarks.metric_suite import tofu_panel
from expunge.data.granularity import LINK
from expunge.data.world.generate import build_world


@benchmark(
    "world", about="the embedded world: seeded fictitious authors, books and publishers, in TOFU's roles; no download"
)
def world(config: BenchmarkConfig) -> Benchmark:
    """Build the embedded world: authors, books and publishers generated from a seed, with TOFU's roles and panel.

    data.world: authors, questions_per_author, forget_fraction, seed, granularity, ... Target and retain models also
    learn its background facts, which represent pretraining; unlearning never sees them. Nothing is downloaded.

    data.world.granularity=question|author|book|publisher|relationship selects the unit to forget. The ends of a
    forgotten link stay in other rows: retain_entity_* measures the retain rows that name one of them, retain_other_*
    the rest.

    trainer.args.train_on=trace+answer or trace reads each row with a reasoning trace before its answer, on both sides.
    Metrics read the rows without traces.

    Try: expunge run study=quickstart
    """
    unused(config, "world", "root", "data_split", "forget", "retain", "args")
    sets = build_world(config.world)
    more = []
    if config.world.granularity == LINK:
        from expunge.benchmarks.example_metrics import SUBSETS, subset_panel

        more = [m for name in SUBSETS if name in sets for m in subset_panel(name, name, sets, config.truth_ratio)]
    return Benchmark(
        name="world",
        split=f"seed{config.world.seed}",
        sets=sets,
        panel=(*tofu_panel(truth_ratio=config.truth_ratio, holdout="holdout" in sets), *more),
        full_sets=("full", "background"),
        retain_sets=("retain", "background"),
        traced={"forget": "forget_traces", "retain": "retain_traces"},
    )
