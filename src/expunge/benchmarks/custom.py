from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.custom import WORLD, Columns, check_file, continuations, load_rows, refuse_shared, retain_rows
from expunge.data.examples import ExampleSet

MOST_RETAIN = 400  # retain rows for evaluation, as many as in TOFU


@strict
@dataclass(frozen=True, kw_only=True)
class CustomArgs:
    """Settings of `benchmark=custom`."""

    question_column: str | None = None
    """Name of the column with questions; null detects it."""
    answer_column: str | None = None
    """Name of the column with answers; null detects it."""
    text_column: str | None = None
    """Name of the column with texts; null detects it."""
    form: Literal["qa", "completion"] | None = None
    """qa: questions in the model's template; completion: prompts without template; null: by the columns' names."""
    retain_source: str = WORLD
    """Source of retain rows if there is no retain file: world, or a folder or hub id with TOFU's retain90."""
    retain_eval_rows: int = MOST_RETAIN
    """Largest number of retain rows to evaluate."""
    holdout: str | None = None
    """File of rows that no model has seen; adds the membership attacks."""
    train_full: bool = False
    """Whether to train the target and the retain model first, for models that do not know the rows yet."""

    def __post_init__(self) -> None:
        if self.retain_eval_rows < 1:
            raise ValueError("retain_eval_rows must be at least 1")
        self.columns  # noqa: B018  # rejects columns that do not fit together

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(question=self.question_column, answer=self.answer_column, text=self.text_column, form=self.form)


@benchmark(
    "custom", about="a file of your own rows to forget (csv, JSON, parquet, txt), with or without rows to retain"
)
def custom(config: BenchmarkConfig) -> Benchmark:
    """Build a benchmark from your own files: forget=FILE, and optionally retain=FILE.

    Columns: question and answer, instruction and response (or output), prompt and completion, input and output, or
    text; name others with data.args.question_column, answer_column, text_column. Optional: paraphrased_answer,
    perturbed_answer (a list) or perturbed_answer_1, ..., id. Questions use the model's template; prompts and inputs are
    used without one (data.args.form=qa|completion reverses this). Training uses a whole text, up to
    model.template_args.max_length tokens. Evaluation splits it in two, with its first half as the prompt. In a .txt
    file each paragraph is a text, or each line if there are no paragraphs.

    Without retain=FILE the retain rows come from data.args.retain_source: world (plain facts in the package, the
    default), or a folder or hub id with TOFU's retain90. A note names the source.

    The target model is the initial model: nothing is trained before unlearning, and there is no retain model. Results
    that need one are missing, with a reason. data.args.train_full=true is for models that do not know the rows yet: it
    first trains the target model on both files and the retain model on the second alone, and requires retain=FILE.
    data.args.holdout=FILE: similar rows that no model has seen; adds the membership attacks.

    Panel: probability, ROUGE, exact memorisation and extraction strength of the forget rows, their truth ratio if every
    row has perturbed answers, probability and ROUGE of the retain rows, and the harmonic mean of these two as utility.

    Try: expunge unlearn benchmark=custom forget=rows.csv model=SmolLM2-135M-Instruct trainer=NPO task_name=mine
    """
    unused(config, "custom", "root", "forget_split", "retain_split", "holdout_split", "data_split", "background")
    args = settings(config, CustomArgs)
    path = check_file("forget", config.forget)
    if config.retain and args.retain_source != WORLD:
        raise ConfigError(f"data.args.retain_source={args.retain_source}: remove it, or retain={config.retain}")
    if args.train_full and not config.retain:
        raise ConfigError("data.args.train_full=true: a retain model needs retain rows; add retain=FILE")
    forget = load_rows(path, "forget", args.columns)
    retain, retain_place, notes = _retain(config, args)
    sets = {"forget": forget, "retain": retain, "forget_eval": continuations(forget, "forget_eval", path)}
    evaluated = ExampleSet("retain", retain.rows[: args.retain_eval_rows], retain.form)
    sets["retain_eval"] = continuations(evaluated, "retain_eval", retain_place)
    refuse_shared(forget, retain, (path, retain_place))
    if args.holdout:
        holdout = load_rows(args.holdout, "holdout", args.columns)
        for rows, place in ((forget, path), (retain, retain_place)):
            refuse_shared(rows, holdout, (place, args.holdout))
        sets["holdout"] = continuations(holdout, "holdout", args.holdout)
    return Benchmark(
        name="custom",
        split=Path(path).name,
        sets=sets,
        panel=rows_panel(sets, truth_ratio=config.truth_ratio),
        full_sets=("forget", "retain") if args.train_full else (),
        retain_sets=("retain",) if args.train_full else (),
        eval_name="CUSTOM",
        notes=notes,
    )


def _retain(config: BenchmarkConfig, args: CustomArgs) -> tuple[ExampleSet, str, tuple[str, ...]]:
    """Return the retain rows, their source, and a note on the source if the user did not name a file."""
    if config.retain:
        return load_rows(config.retain, "retain", args.columns), config.retain, ()
    if args.retain_source != WORLD and Path(args.retain_source).expanduser().is_file():
        rows = load_rows(args.retain_source, "retain", args.columns)
        return rows, args.retain_source, (f"retain rows: {len(rows)} of {args.retain_source}",)
    rows, note = retain_rows(args.retain_source)
    return rows, args.retain_source, (note,)
