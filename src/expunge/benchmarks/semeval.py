from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, Limits, Wanted, benchmark, settings, unused
from expunge.benchmarks.mmlu import mmlu_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.mmlu import mmlu_sets
from expunge.data.semeval import HUB_ID, MEMBERS, by_term, first_documents, load_members, load_semeval
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order


@strict
@dataclass(frozen=True, kw_only=True)
class SemEvalArgs:
    """Settings of `benchmark=semeval`."""

    mia: str | None = None
    mmlu: str | None = None
    mmlu_accuracy: float | None = None
    documents: int | None = None

    def __post_init__(self) -> None:
        if self.mmlu_accuracy is not None and not 0 <= self.mmlu_accuracy <= 1:
            raise ValueError("mmlu_accuracy must be a share from 0 to 1")
        if self.documents is not None and self.documents < 1:
            raise ValueError("documents must be at least 1")


@benchmark("semeval", about="SemEval-2025 Task 4 / LUME (arXiv:2504.02883): the official evaluation, part by part")
def semeval(wanted: Wanted) -> Benchmark:
    """SemEval-2025 Task 4: stories, made-up personal data and biographies; half of the documents are to be forgotten.

    data.root: a folder with train/ and validation/ (jsonl, csv or parquet), with the hub's parquet files, or with the
    forget and retain files of LUME (forget_split=all). forget_split: train (default), validation or all. Inputs are
    prompts as they stand, without template; in training the output and an end token follow.

    Panel: the official one. Regurgitation (ROUGE-L recall of document ends) and knowledge (the whole generation is the
    answer) by task and side, their harmonic mean; the loss attack on member and nonmember documents; the aggregate of
    both with MMLU. The documents lie in the root's mia/ or at data.args.mia=FOLDER. MMLU is measured elsewhere:
    data.args.mmlu_accuracy=0.49. Without one of the parts there is no aggregate, and it says which is missing.
    data.args.documents=N takes the first N documents of each task and side, for a quick look and nothing else.

    Give experiment=eval/semeval/default (or unlearn/semeval/...): it sets 256 new tokens.
    Try: expunge eval experiment=eval/semeval/default data.root=FOLDER model=OLMo-7B-0724-Instruct-hf task_name=olmo
    """
    unused(wanted, "semeval", "retain_split", "holdout_split", "data_split", "forget", "retain", "background")
    args = settings(wanted, SemEvalArgs)
    split = wanted.forget_split or "train"
    root = wanted.root or HUB_ID
    sets = load_semeval(root, split)
    if args.documents is not None:
        sets = first_documents(sets, args.documents)
    terms = by_term(sets)
    if args.mmlu and args.mmlu_accuracy is not None:
        raise ConfigError(f"data.args.mmlu_accuracy={args.mmlu_accuracy}: data.args.mmlu was given as well")
    questions = mmlu_sets(args.mmlu) if args.mmlu else {}
    members = load_members(args.mia or root, split, named=args.mia is not None)
    every = {**sets, "forget_eval": sets["forget"], **terms, **members, **questions}
    return Benchmark(
        name="semeval",
        split=split,
        sets=every,
        panel=semeval_panel(terms, members, args.mmlu_accuracy, questions),
        full_sets=("forget", "retain"),
        retain_sets=("retain",),
        shown_set=next(iter(terms)),
        eval_name="LUME",
        generation={term: Limits(256) for term in terms},
    )


def semeval_panel(
    terms: Collection[str],
    members: Collection[str] = (),
    mmlu_accuracy: float | None = None,
    mmlu: Collection[str] = (),
) -> tuple[Metric, ...]:
    """The official metrics over the sets `terms` (`forget_Task1_knowledge`, ...) and the membership documents.

    mmlu: the sets of its questions, if they are measured in the same run.
    """
    panel = [
        Metric(
            "semeval_aggregate",
            "semeval_aggregate",
            args={} if mmlu_accuracy is None else {"mmlu_accuracy": mmlu_accuracy},
            parents={"tasks": "task_aggregate", "mia": "mia_score"} | ({"mmlu": "mmlu"} if mmlu else {}),
        ),
        Metric("task_aggregate", "semeval_tasks", parents={term: term for term in terms}),
        Metric("mia_score", "semeval_mia", parents={"auc": "mia_auc"} if members else {}),
    ]
    family = {"regurgitation": "semeval_regurgitation", "knowledge": "exact_match"}
    panel += [Metric(term, family[term.rpartition("_")[2]], rows=term, texts="answer") for term in terms]
    if members:
        panel.append(Metric("mia_auc", "attack_auc", parents={"members": "mia_member", "others": "mia_nonmember"}))
        panel += [Metric(f"mia_{name}", "loss_score", rows=name, tokens=("answer",)) for name in MEMBERS]
    if mmlu:
        panel += mmlu_panel(mmlu)
    in_order(panel)
    return tuple(panel)
