from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.custom import WORLD, Columns, check_file, continuations, load_examples, refuse_shared, retain_rows
from expunge.data.examples import ExampleSet

MOST_RETAIN = 400  # retain rows for evaluation, as many as in TOFU


@strict
@dataclass(frozen=True, kw_only=True)
class CustomArgs:
    """Settings of `benchmark=custom`."""

    question_column: str | None = None
    """The column of the questions. None: found by its name. Goes together with answer_column."""
    answer_column: str | None = None
    """The column of the answers. None: found by its name. Goes together with question_column."""
    text_column: str | None = None
    """The column of plain texts, in place of questions and answers."""
    form: Literal["qa", "completion"] | None = None
    """How a row becomes text: qa (the model's template) or completion (as it stands). None: by the columns' names."""
    retain_source: str = WORLD
    """Examples to retain if no retain file is given: world (plain facts), a file, or a folder or hub id with TOFU's
    retain90.
    """
    retain_eval_rows: int = MOST_RETAIN
    """Retain examples that are evaluated, the first ones."""
    holdout: str | None = None
    """A file of examples like those to forget that no model has seen. It adds the membership attacks."""
    train_full: bool = False
    """Train target and retain model first, for a model that does not know the examples yet."""

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

    Columns: question and answer; instruction (with input) and response or output; prompt and completion; query and
    response; input and output; text and labels; messages; conversations; text. Name others with
    data.args.question_column, answer_column, text_column. A file to retain without these columns is read by the usual
    names. Optional: paraphrased_answer, perturbed_answer (a list) or perturbed_answer_1, ..., id. A note lists the
    columns in use and the others. Questions use the model's template; prompts and inputs are used without one
    (data.args.form=qa|completion reverses this). Training uses a whole text, up to model.template_args.max_length
    tokens. Evaluation splits it in two, with its first half as the prompt. In a .txt file each paragraph is a text, or
    each line if there are no paragraphs.

    Without retain=FILE the retain rows come from data.args.retain_source: world (plain facts in the package, the
    default), or a folder or hub id with TOFU's retain90. A note names the source.

    The target model is the initial model: nothing is trained before unlearning, and there is no retain model. Results
    that need one are missing, with a reason. data.args.train_full=true is for models that do not know the rows yet, and
    requires retain=FILE. It first trains the target model on both files and the retain model on the second alone.
    data.args.holdout=FILE: similar rows that no model has seen; adds the membership attacks.

    Panel: probability, ROUGE, exact memorisation and extraction strength of the forget rows, and their truth ratio if
    every row has perturbed answers; probability and ROUGE of the retain rows, and the harmonic mean as utility.

    Try: expunge unlearn benchmark=custom forget=rows.csv model=SmolLM2-135M-Instruct trainer=NPO task_name=mine
    """
    unused(config, "custom", "root", "forget_split", "retain_split", "holdout_split", "data_split", "background")
    args = settings(config, CustomArgs)
    path = check_file("forget", config.forget)
    if config.retain and args.retain_source != WORLD:
        raise ConfigError(f"data.args.retain_source={args.retain_source}: retain={config.retain} was given as well")
    if args.train_full and not config.retain:
        raise ConfigError("data.args.train_full=true: a retain model needs rows of its own; give retain=FILE")
    loaded = load_examples(path, "forget", args.columns)
    forget = loaded.rows
    retain, retain_place, notes, preview = _retain(config, args)
    notes, preview = (loaded.note, *notes), (loaded.preview, *preview)
    sets = {"forget": forget, "retain": retain, "forget_eval": continuations(forget, "forget_eval", path)}
    evaluated = ExampleSet("retain", retain.rows[: args.retain_eval_rows], retain.form)
    sets["retain_eval"] = continuations(evaluated, "retain_eval", retain_place)
    refuse_shared(forget, retain, (path, retain_place))
    if args.holdout:
        unseen = load_examples(args.holdout, "holdout", args.columns, further=True)
        holdout, notes, preview = unseen.rows, (*notes, unseen.note), (*preview, unseen.preview)
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
        preview=preview,
    )


def _retain(config: BenchmarkConfig, args: CustomArgs) -> tuple[ExampleSet, str, tuple[str, ...], tuple[str, ...]]:
    """Return the retain rows, their source, notes on them, and their first row."""
    if config.retain:
        loaded = load_examples(config.retain, "retain", args.columns, further=True)
        return loaded.rows, config.retain, (loaded.note,), (loaded.preview,)
    if args.retain_source != WORLD and Path(args.retain_source).expanduser().is_file():
        loaded = load_examples(args.retain_source, "retain", args.columns, further=True)
        source = f"retain rows: {len(loaded.rows)} of {args.retain_source}"
        return loaded.rows, args.retain_source, (source, loaded.note), (loaded.preview,)
    rows, note = retain_rows(args.retain_source)
    return rows, args.retain_source, (note,), ()
