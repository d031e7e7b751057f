from __future__ import annotations

from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.mmlu import check_shots, choice_metric, mmlu_panel
from expunge.core.decode import strict
from expunge.data.choices import Style
from expunge.data.mmlu import mmlu_sets
from expunge.data.source import is_hub_id
from expunge.data.wmdp import CORPORA_ID, FORGET, HUB_ID, RETAIN, wmdp_corpus, wmdp_questions
from expunge.metrics.compute import in_order


@strict
@dataclass(frozen=True, kw_only=True)
class WmdpArgs:
    """Settings of `benchmark=wmdp`."""

    subjects: tuple[str, ...] = ("bio", "cyber")
    """Subjects whose questions are asked: bio, chem, cyber."""
    style: Style = "letters"
    """letters (answers are A to D) or options (answers are the options' texts)."""
    limit: int = 0
    """Questions of each subject, the first ones. 0: all."""
    questions_only: bool = False
    """Measure without reading a corpus."""
    corpora: str | None = None
    """A folder or hub id of the corpora. None: data.root, or the hub."""
    texts: int = 0
    """Texts of a corpus, the first ones. 0: all."""
    max_length: int = 512
    """Tokens of the pieces that texts are trained in."""
    mmlu: str | None = None
    """A folder or hub id of MMLU, to measure it as well."""
    mmlu_subjects: tuple[str, ...] = ()
    """Subjects of MMLU. None given: all."""
    mmlu_shots: int = 0
    """Solved examples before each MMLU question."""
    mmlu_limit: int = 0
    """MMLU questions of each subject. 0: all."""
    question_length: int = 4096
    """Tokens of a question with its examples at most."""

    def __post_init__(self) -> None:
        check_shots(self.mmlu_shots, "mmlu_shots")
        for key in ("limit", "texts", "mmlu_limit"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be at least 0 (0: all)")
        for key in ("max_length", "question_length"):
            if getattr(self, key) < 2:
                raise ValueError(f"{key} must be at least 2 tokens")
        if not self.subjects or len(set(self.subjects)) != len(self.subjects):
            raise ValueError("subjects must be a list of different subjects")


@benchmark("wmdp", about=f"WMDP ({HUB_ID}, arXiv:2403.03218): forget hazardous texts; multiple-choice questions")
def wmdp(wanted: BenchmarkConfig) -> Benchmark:
    """WMDP (Li et al. 2024, arXiv:2403.03218): forget what a corpus teaches about weapons of mass destruction.

    Unlearning reads the texts of a corpus, in pieces of data.args.max_length tokens (512). forget_split:
    cyber-forget-corpus (default), bio-forget-corpus (asked for on the hub) or a file of your own with a column `text`;
    retain_split: cyber-retain-corpus (default), bio-retain-corpus or a file. Scoring asks the questions wmdp_bio and
    wmdp_cyber (data.args.subjects: bio, chem, cyber), and MMLU where data.args.mmlu names its folder or hub id.

    data.root: a folder of the questions and corpora in place of the hub; data.args.corpora: the corpora alone.
    data.args.questions_only=true: measure without reading a corpus. There is no training set: a study starts from the
    given model, which is the full one, and has no retain model.

    Try: expunge unlearn experiment=unlearn/wmdp/default trainer=RMU model=Llama-3.2-1B-Instruct task_name=rmu
    """
    unused(wanted, "wmdp", "holdout_split", "data_split", "forget", "retain", "background")
    args = settings(wanted, WmdpArgs)
    root = wanted.root or HUB_ID
    sets = wmdp_questions(root, args.subjects, style=args.style, limit=args.limit, max_length=args.question_length)
    panel = tuple(choice_metric(name) for name in sets)
    if args.mmlu is not None:
        general = mmlu_sets(
            args.mmlu,
            subjects=args.mmlu_subjects,
            n_shots=args.mmlu_shots,
            style=args.style,
            limit=args.mmlu_limit,
            max_length=args.question_length,
            where="data.args.mmlu_subjects",
        )
        sets |= general
        panel += mmlu_panel(general)
    forget, retain = wanted.forget_split or FORGET[0], wanted.retain_split or RETAIN[0]
    if not args.questions_only:
        place = args.corpora or (CORPORA_ID if is_hub_id(root) else root)
        for name, corpus in (("forget", forget), ("retain", retain)):
            sets[name] = wmdp_corpus(place, corpus, name=name, limit=args.texts, max_length=args.max_length)
    in_order(panel)
    return Benchmark(
        name="wmdp",
        split=forget,
        sets=sets,
        panel=panel,
        full_sets=(),
        retain_sets=(),
        shown_set=None,
        retain_split=retain,
        eval_name="WMDP",
        shown=(*(f"wmdp_{s}" for s in args.subjects), *(("mmlu",) if args.mmlu else ())),
        utility="mmlu",
    )
