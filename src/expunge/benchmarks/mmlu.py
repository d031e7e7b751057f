from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.data.choices import WRONG, Style
from expunge.data.examples import ANSWER
from expunge.data.loaders.mmlu import HUB_ID, MAX_SHOTS, PREFIX, mmlu_sets
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order
from expunge.metrics.multiple_choice import Score


def check_shots(shots: int, key: str) -> None:
    """Raise ValueError, starting with the key, if MMLU has fewer solved questions per subject."""
    if not 0 <= shots <= MAX_SHOTS:
        raise ValueError(f"{key} must be 0 to {MAX_SHOTS}")


@strict
@dataclass(frozen=True, kw_only=True)
class MmluArgs:
    """`data.args` of MMLU."""

    subjects: tuple[str, ...] = ()
    """Subjects to use; empty uses all 57."""
    shots: int = MAX_SHOTS
    """Number of solved questions before each, 0 to 5."""
    style: Style = "letters"
    """Options as letters, or as their own texts (options)."""
    score: Score = "sum"
    """sum: accuracy; per_byte: accuracy of scores per byte."""
    limit: int = 0
    """Number of questions per subject, the first ones (0: all)."""
    max_length: int = 4096
    """Largest number of tokens; a longer prompt loses its beginning."""

    def __post_init__(self) -> None:
        check_shots(self.shots, "shots")
        if self.limit < 0:
            raise ValueError("limit must be at least 0 (0: all)")
        if self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")


def choice_metric(name: str, score: Score = "sum") -> Metric:
    """Return accuracy over the multiple-choice rows of a set, with the set's name."""
    return Metric(name, "multiple_choice", rows=name, reads={"tokens": (ANSWER, WRONG)}, args={"score": score})


def mmlu_panel(names: Iterable[str], score: Score = "sum") -> tuple[Metric, ...]:
    """Return `mmlu`, the mean over all questions, and each subject's accuracy with the name of its set."""
    subjects = [choice_metric(name, score) for name in names]
    parents = {m.name.removeprefix(PREFIX): m.name for m in subjects}
    statistic = "acc" if score == "sum" else "acc_norm"
    whole = Metric("mmlu", "mean_over_questions", parents=parents, args={"statistic": statistic})
    panel = (whole, *subjects)
    in_order(panel)
    return panel


@benchmark(
    "mmlu",
    about=f"MMLU ({HUB_ID}, arXiv:2009.03300): multiple-choice questions of 57 subjects; measures only",
    fidelity="files",
)
def mmlu(config: BenchmarkConfig) -> Benchmark:
    """Build MMLU (Hendrycks et al. 2021, arXiv:2009.03300): 14042 multiple-choice questions of 57 subjects.

    It only measures; there is nothing to forget. data.root: a folder in place of the hub's `cais/mmlu`. data.args:
    subjects (all), shots (0 to 5, default 5), style (letters, or options: the answers are the options' own texts),
    score (sum: accuracy; per_byte: accuracy of scores per byte), limit (questions per subject), max_length.

    `mmlu` is the mean over all questions, with `mean_over_subjects` next to it; each subject has its own number.

    Try: expunge eval benchmark=mmlu data.root=FOLDER data.args.shots=5 task_name=mmlu
    """
    unused(config, "mmlu", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain")
    args = settings(config, MmluArgs)
    sets = mmlu_sets(
        config.root or HUB_ID,
        subjects=args.subjects,
        n_shots=args.shots,
        style=args.style,
        limit=args.limit,
        max_length=args.max_length,
    )
    return Benchmark(
        name="mmlu",
        split="test",
        sets=sets,
        panel=mmlu_panel(sets, args.score),
        full_sets=(),
        retain_sets=(),
        shown_set=None,
        eval_name="MMLU",
        shown=("mmlu", *sets) if len(sets) <= 8 else ("mmlu",),
        utility="mmlu",
    )
