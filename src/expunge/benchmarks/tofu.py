from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.metric_suite import tofu_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import ExampleSet, qa_rows
from expunge.data.granularity import (
    AUTHORS,
    QUESTIONS,
    Sampling,
    TofuChoice,
    row_set,
    spread,
    tofu_forgotten,
    with_wrong_answers,
)
from expunge.data.loaders.tofu import FORGET, HUB_ID, load_tofu, retain_for
from expunge.data.source import load_raw

MOST_RETAIN = 400  # as many as TOFU's own retain_perturbed has
PART = ("forget_authors", "retain_authors", "evaluation_rows")


@strict
@dataclass(frozen=True, kw_only=True)
class TofuArgs:
    """Settings of `benchmark=tofu`: a part of TOFU's splits, or own splits after arcsf in place of forget01/05/10."""

    forget_authors: int | None = None
    """Number of authors to forget: the first ones of the forget split. None: all."""
    retain_authors: int | None = None
    """Number of authors to retain: the first ones, which TOFU evaluates. The target model learns no others. None: all.
    """
    evaluation_rows: int | None = None
    """Largest number of rows of each evaluation set except the forget rows, evenly spaced. None: all."""

    granularity: Literal["question", "author"] | None = None
    """Unit to forget; null uses TOFU's own splits."""
    stratified: bool = True
    """Whether forgotten questions come from the forgotten authors only."""
    forget_random: bool = True
    """Whether an author's forgotten questions are random; if false, the first four (biographical ones)."""
    forgotten_author_fraction: float = 0.2
    """Share of the authors to forget."""
    forgotten_fact_fraction: float = 0.2
    """Share of the questions to forget."""
    seed: int = 42
    """Seed of the split and of the wrong answers."""
    compat: Sampling = "clean"
    """arcsf: a share of authors is rounded up, as in arcsf's own code. The rows of a seed are the same in both."""
    question_key: Literal["question", "paraphrased_question"] = "question"
    """The questions of the forget and the retain examples in evaluations: TOFU's own, or their paraphrases."""

    def __post_init__(self) -> None:
        for key in ("forgotten_author_fraction", "forgotten_fact_fraction"):
            if not 0 < getattr(self, key) <= 1:
                raise ValueError(f"{key} must be a share between 0 and 1")
        for key in PART:
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1")


@benchmark("tofu", about=f"TOFU ({HUB_ID}, arXiv:2401.06121): forget01/05/10 with retain99/95/90", fidelity="files")
def tofu(config: BenchmarkConfig) -> Benchmark:
    """Build TOFU (Maini et al. 2024, arXiv:2401.06121): 200 fictitious authors, of which 1, 5 or 10 % are forgotten.

    forget_split: forget01, forget05 or forget10 (default). retain_split: its partner. holdout_split: holdout01/05/10,
    authors no model has seen; adds the membership attacks. data.root: a folder of its files in place of the hub.
    data.args.question_key=paraphrased_question evaluates with other wordings of the questions.
    data.background=true: target and retain models also learn the real-world answers, which a model from scratch lacks.

    data.args.forget_authors, retain_authors and evaluation_rows take a part of these sets, for a machine that cannot
    train on all 4000 rows. The target model then learns the rows of these authors only.

    data.args.granularity=author|question samples the forget rows from all 4000 rows, as arcsf does, by data.args.seed.
    author: all questions of forgotten_author_fraction of the authors. question: forgotten_fact_fraction of the
    questions of these authors (forget_random=false: the first four, which are biographical), or with stratified=false
    of all questions. TOFU has no wrong answers for such splits. Three other answers of the same author replace them,
    from the same side if it has three, and truth ratios use the answer itself.

    Try: expunge plan study=tofu_tiny data.root=FOLDER
    """
    unused(config, "tofu", "data_split", "forget", "retain")
    args = settings(config, TofuArgs)
    if args.granularity is not None:
        return _sampled(config, args)
    if key := next((key for key in config.args if key not in ("question_key", *PART)), None):
        raise ConfigError(f"data.args.{key}={config.args[key]}: requires data.args.granularity=author|question")
    forget = config.forget_split or "forget10"
    if forget not in FORGET:
        raise ConfigError(f"forget_split={forget}: TOFU has no such split{nearest(forget, FORGET)}")
    retain = config.retain_split or retain_for(forget)
    sets = load_tofu(
        config.root or HUB_ID,
        forget_split=forget,
        retain_split=retain,
        holdout_split=config.holdout_split,
    )
    if args.question_key == "paraphrased_question":
        from expunge.data.variants import paraphrased

        sets |= {name: replace(paraphrased(sets[name]), name=name) for name in ("forget_eval", "retain_eval")}
    sets = _part(sets, args)
    background = ("real_authors", "world_facts") if config.background else ()
    return Benchmark(
        name="tofu",
        split=forget,
        sets=sets,
        panel=tofu_panel(truth_ratio=config.truth_ratio, holdout="holdout" in sets),
        full_sets=("full", *background),
        retain_sets=("retain", *background),
        retain_split=retain,
    )


def _part(sets: dict[str, ExampleSet], args: TofuArgs) -> dict[str, ExampleSet]:
    """Return the sets with fewer authors and evaluation rows, as the settings say. Raises ConfigError."""
    if all(getattr(args, key) is None for key in PART):
        return sets
    rows = {name: list(one.rows) for name, one in sets.items()}
    for side in ("forget", "retain"):
        n, n_all = getattr(args, f"{side}_authors"), len(rows[side]) // QUESTIONS
        if n is not None and n > n_all:
            raise ConfigError(f"data.args.{side}_authors={n}: the {side} split has {n_all} authors")
        rows[side] = rows[side][: QUESTIONS * (n or n_all)]
    rows["forget_eval"] = rows["forget_eval"][: len(rows["forget"])]
    rows["full"] = [*rows["retain"], *rows["forget"]]
    retained = {row.question for row in rows["retain"]}
    rows["retain_eval"] = [row for row in rows["retain_eval"] if row.question in retained]
    for name in ("retain_eval", "real_authors", "world_facts"):
        rows[name] = list(spread(rows[name], args.evaluation_rows or len(rows[name])))
    return {name: row_set(name, members) for name, members in rows.items()}


def _sampled(config: BenchmarkConfig, args: TofuArgs) -> Benchmark:
    """Build a benchmark with a random split of the full rows."""
    from expunge.benchmarks.example_metrics import rows_panel

    unused(config, "tofu with data.args.granularity", "forget_split", "retain_split", "holdout_split", "background")
    if key := next((key for key in PART if key in config.args), None):
        raise ConfigError(f"data.args.{key}: has no effect with data.args.granularity; remove one of them")
    choice = TofuChoice(
        granularity=args.granularity or "",
        stratified=args.stratified,
        forget_random=args.forget_random,
        author_fraction=args.forgotten_author_fraction,
        fact_fraction=args.forgotten_fact_fraction,
        seed=args.seed,
        compat=args.compat,
    )
    forgotten = set(tofu_forgotten(choice))
    raw, where = load_raw("full", root=config.root or HUB_ID)
    if len(raw) != AUTHORS * QUESTIONS:
        raise DataError(f"{where}: {len(raw)} rows, TOFU's full has {AUTHORS * QUESTIONS}")
    rows = [
        replace(r, meta={"author": r.row_id // QUESTIONS, "question_index": r.row_id})
        for r in qa_rows(raw, name="full", where=where)
    ]
    forget = [row for row in rows if row.row_id in forgotten]
    retain = [row for row in rows if row.row_id not in forgotten]
    sets = {
        "full": ExampleSet("full", tuple(rows)),
        "forget": row_set("forget", forget),
        "retain": row_set("retain", retain),
        "forget_eval": row_set("forget_eval", with_wrong_answers(forget, retain, args.seed)),
        "retain_eval": row_set("retain_eval", spread(with_wrong_answers(retain, forget, args.seed), MOST_RETAIN)),
    }
    return Benchmark(
        name="tofu",
        split=f"{args.granularity}-{len(forget)}",
        sets=sets,
        panel=rows_panel(sets, truth_ratio=config.truth_ratio),
        full_sets=("full",),
        retain_sets=("retain",),
    )
