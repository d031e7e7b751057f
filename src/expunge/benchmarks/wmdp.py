from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.mmlu import check_shots, choice_metric, mmlu_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.choices import Style
from expunge.data.examples import ExampleSet
from expunge.data.loaders.mmlu import mmlu_sets
from expunge.data.loaders.wmdp import (
    CORPORA_ID,
    HUB_ID,
    ROBUST_ID,
    deduplicated_questions,
    robust_questions,
    wmdp_corpus,
    wmdp_questions,
)
from expunge.data.source import is_hub_id
from expunge.metrics.compute import in_order

PARTS = ("cyber", "bio")  # subjects with corpora to forget and to retain


@strict
@dataclass(frozen=True, kw_only=True)
class WmdpArgs:
    """`data.args` of WMDP."""

    subjects: tuple[str, ...] = ()
    """Subjects of the questions: bio, chem, cyber. Empty: that of data_split, or bio and cyber."""
    questions: Literal["original", "robust", "deduplicated"] = "original"
    """original; robust: WMDP-bio split by whether superficial clues give the answer away; or deduplicated."""
    style: Style = "letters"
    """Options as letters, or as their own texts (options)."""
    limit: int = 0
    """Number of questions per subject, the first ones (0: all)."""
    questions_only: bool = False
    """Whether to evaluate without a corpus to unlearn."""
    corpora: str | None = None
    """Folder or hub id of the corpora; null uses that of the questions."""
    texts: int = 0
    """Number of texts of each corpus, the first ones (0: all)."""
    max_length: int = 512
    """Number of tokens of the pieces that training reads."""
    mmlu: str | None = None
    """Folder or hub id of MMLU, to measure it too; null skips it."""
    mmlu_subjects: tuple[str, ...] = ()
    """Subjects of MMLU; empty uses all 57."""
    mmlu_shots: int = 0
    """Number of solved questions before each MMLU question, 0 to 5."""
    mmlu_limit: int = 0
    """Number of MMLU questions per subject (0: all)."""
    question_length: int = 4096
    """Largest number of tokens; a longer prompt loses its beginning."""

    def __post_init__(self) -> None:
        check_shots(self.mmlu_shots, "mmlu_shots")
        for key in ("limit", "texts", "mmlu_limit"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be at least 0 (0: all)")
        for key in ("max_length", "question_length"):
            if getattr(self, key) < 2:
                raise ValueError(f"{key} must be at least 2 tokens")
        if self.subjects and self.questions != "original":
            raise ValueError(f"subjects has no effect with questions={self.questions}")
        if len(set(self.subjects)) != len(self.subjects):
            raise ValueError("subjects must be a list of different subjects (allowed: bio, chem, cyber)")


@benchmark(
    "wmdp",
    about=f"WMDP ({HUB_ID}, arXiv:2403.03218): forget hazardous texts; multiple-choice questions",
    fidelity="schema",
)
def wmdp(config: BenchmarkConfig) -> Benchmark:
    """Build WMDP (Li et al. 2024, arXiv:2403.03218): forget a corpus on weapons of mass destruction.

    data_split: cyber or bio selects corpora and questions of one subject. Without it, the corpora are on cybersecurity.

    Unlearning reads the texts of a corpus, in pieces of data.args.max_length tokens (512). forget_split:
    cyber-forget-corpus (default), bio-forget-corpus (on request from the hub) or your own file with a column `text`;
    retain_split: cyber-retain-corpus (default), bio-retain-corpus or a file. Scoring uses the questions wmdp_bio and
    wmdp_cyber (data.args.subjects: bio, chem, cyber), and MMLU if data.args.mmlu names its folder or hub id.

    data.args.questions=robust scores WMDP-bio in two halves: wmdp_bio_robust, and wmdp_bio_shortcut, whose questions
    superficial clues answer without knowledge. data.args.questions=deduplicated reads the authors' five files without
    near-duplicates from data.root. Both keep the corpora of the hub unless data.args.corpora names others.

    data.root: a folder of the questions and corpora in place of the hub; data.args.corpora: the corpora alone.
    data.args.questions_only=true: evaluate without reading a corpus. There is no training set: a study starts from the
    initial model, which is the target model, and has no retain model.

    Try: expunge unlearn experiment=unlearn/wmdp/default trainer=RMU model=Llama-3.2-1B-Instruct task_name=rmu
    """
    unused(config, "wmdp", "holdout_split", "forget", "retain", "background")
    args = settings(config, WmdpArgs)
    part = config.data_split
    if part is not None and part not in PARTS:
        raise ConfigError(f"data_split={part}: WMDP has no corpora of this subject{nearest(part, PARTS)}")
    sets = _questions(config.root, args, args.subjects or ((part,) if part else ("bio", "cyber")))
    names = tuple(sets)
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
    forget = config.forget_split or f"{part or 'cyber'}-forget-corpus"
    retain = config.retain_split or f"{part or 'cyber'}-retain-corpus"
    if not args.questions_only:
        root = config.root or HUB_ID
        at_hub = is_hub_id(root) or args.questions != "original"
        place = args.corpora or (CORPORA_ID if at_hub else root)
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
        shown=(*names, *(("mmlu",) if args.mmlu else ())),
        utility="mmlu",
    )


def _questions(root: str | None, args: WmdpArgs, subjects: Sequence[str]) -> dict[str, ExampleSet]:
    if args.questions == "robust":
        return robust_questions(root or ROBUST_ID, style=args.style, limit=args.limit, max_length=args.question_length)
    if args.questions == "deduplicated":
        return deduplicated_questions(
            root or HUB_ID, style=args.style, limit=args.limit, max_length=args.question_length
        )
    return wmdp_questions(root or HUB_ID, subjects, style=args.style, limit=args.limit, max_length=args.question_length)
