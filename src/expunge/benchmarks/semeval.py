from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.benchmarks.mmlu import check_shots, mmlu_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.data.loaders.mmlu import LENGTH as MMLU_LENGTH
from expunge.data.loaders.mmlu import MAX_SHOTS, mmlu_sets
from expunge.data.loaders.semeval import (
    HUB_ID,
    MEMBERS,
    Template,
    by_term,
    first_documents,
    load_members,
    load_semeval,
    load_sides,
    with_template,
)
from expunge.data.source import EXTENSIONS
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

SHOWN = ("semeval_aggregate", "task_aggregate", "mia_score")


@strict
@dataclass(frozen=True, kw_only=True)
class SemEvalArgs:
    """Settings of `benchmark=semeval`."""

    forget_dir: str | None = None
    """Folder or file of the forget rows, as in the task's own interface; replaces data.root and the split."""
    retain_dir: str | None = None
    """Folder or file of the retain rows; required with forget_dir."""
    template: Template = "raw"
    """Text of the rows in training and validation: raw (input, blank, output), or input_output, with "### Input:" and
    "### Output:" before them. The official evaluation always uses the raw input.
    """
    validation: str | None = None
    """Rows to monitor a run: a folder, or `self` for the rows of unlearning."""
    forget_validation: str | None = None
    """Folder or file of the forget rows to monitor a run, in place of validation."""
    retain_validation: str | None = None
    """Folder or file of the retain rows to monitor a run; required with forget_validation."""
    mia: str | None = None
    """Folder of the membership documents; null uses mia/ in the root."""
    members: Literal["all", "forget"] = "all"
    """Member documents to attack: all, or only those among the forget rows."""
    mmlu: str | None = None
    """Folder of MMLU questions, to measure them in the same run."""
    mmlu_shots: int = MAX_SHOTS
    """Number of solved questions before each MMLU question, 0 to 5."""
    mmlu_limit: int = 0
    """Number of MMLU questions per subject (0: all)."""
    mmlu_max_length: int = MMLU_LENGTH
    """Largest number of tokens of an MMLU question with its solved ones; a longer prompt loses its beginning."""
    mmlu_accuracy: float | None = None
    """MMLU accuracy of an external measurement, from 0 to 1."""
    documents: int | None = None
    """Number of documents of each task and side, the first ones; null uses all."""

    def __post_init__(self) -> None:
        if (self.forget_dir is None) != (self.retain_dir is None):
            raise ValueError("forget_dir must be set together with retain_dir")
        if (self.forget_validation is None) != (self.retain_validation is None):
            raise ValueError("forget_validation must be set together with retain_validation")
        if self.forget_validation is not None and self.validation is not None:
            raise ValueError("validation excludes forget_validation and retain_validation")
        check_shots(self.mmlu_shots, "mmlu_shots")
        if self.mmlu_limit < 0:
            raise ValueError("mmlu_limit must be at least 0 (0: all)")
        if self.mmlu_max_length < 2:
            raise ValueError("mmlu_max_length must be at least 2 tokens")
        own = (self.mmlu_shots, self.mmlu_limit, self.mmlu_max_length)
        if self.mmlu is None and own != (MAX_SHOTS, 0, MMLU_LENGTH):
            raise ValueError("mmlu_limit, mmlu_shots and mmlu_max_length need mmlu, the folder of questions")
        if self.mmlu_accuracy is not None and not 0 <= self.mmlu_accuracy <= 1:
            raise ValueError("mmlu_accuracy must be a share from 0 to 1")
        if self.documents is not None and self.documents < 1:
            raise ValueError("documents must be at least 1")


@benchmark(
    "semeval",
    about="SemEval-2025 Task 4 / LUME (arXiv:2504.02883): the official evaluation, part by part",
    fidelity="files",
)
def semeval(config: BenchmarkConfig) -> Benchmark:
    """Build SemEval-2025 Task 4: stories, synthetic personal data and biographies; half of the documents are forgotten.

    data.root: a folder with train/ and validation/ (jsonl, csv or parquet), the hub's parquet files, or the forget and
    retain files of LUME (forget_split=all). forget_split: train (default), validation or all. Inputs are prompts
    without template; in training the output and an end token follow.

    Panel: the official one. Regurgitation (ROUGE-L recall of document ends) and knowledge (the whole generation is the
    answer) by task and side, their harmonic mean; the loss attack on member and nonmember documents; the aggregate of
    both with MMLU. The documents are in the root's mia/ or at data.args.mia=FOLDER. MMLU comes from an external
    measurement, data.args.mmlu_accuracy=0.49, or from the same run, data.args.mmlu=FOLDER. Settings of the latter:
    mmlu_shots (5), the solved questions before each; mmlu_limit, the questions per subject (0: all); mmlu_max_length,
    the largest number of tokens. Without one of the parts the aggregate is missing, and its reason names the part.

    data.args.documents=N uses the first N documents of each task and side, for a quick run or a small model.
    members=forget attacks only the member documents among the forget rows, for a model trained on these rows alone.
    forget_dir and retain_dir (a folder each, as in the task's interface) replace data.root and the split.

    data.args.validation: rows to monitor a run (`forget_validation_Prob`, `retain_validation_Prob`), never used for
    training: a folder with forget and retain files, or one with a split `validation`. `self`: the rows of unlearning
    themselves, if there are no others. forget_validation and retain_validation name a folder or file for each side.

    data.args.template=input_output trains on "### Input: ... ### Output: ...", a participant's form.

    Use experiment=eval/semeval/default (or unlearn/semeval/...): it sets 256 new tokens.
    Try: expunge eval experiment=eval/semeval/default data.root=FOLDER model=OLMo-7B-0724-Instruct-hf task_name=olmo
    """
    unused(config, "semeval", "retain_split", "holdout_split", "data_split", "forget", "retain", "background")
    args = settings(config, SemEvalArgs)
    root, split = config.root or HUB_ID, config.forget_split or "train"
    if args.forget_dir is not None and args.retain_dir is not None:
        unused(config, "semeval with data.args.forget_dir", "root", "forget_split")
        sets, root, split = load_sides({"forget": args.forget_dir, "retain": args.retain_dir}), args.forget_dir, "given"
    else:
        sets = load_semeval(root, split)
    if args.documents is not None:
        sets = first_documents(sets, args.documents)
    terms = by_term(sets)
    if args.mmlu and args.mmlu_accuracy is not None:
        raise ConfigError(f"data.args.mmlu_accuracy={args.mmlu_accuracy}: remove it, or data.args.mmlu")
    questions = (
        mmlu_sets(args.mmlu, n_shots=args.mmlu_shots, limit=args.mmlu_limit, max_length=args.mmlu_max_length)
        if args.mmlu
        else {}
    )
    among = sets["forget"] if args.members == "forget" else None
    members = load_members(args.mia or root, split, named=args.mia is not None, among=among)
    watched = {f"{side}_validation": rows for side, rows in with_template(_watched(args, sets), args.template).items()}
    watched = {name: replace(rows, name=name) for name, rows in watched.items()}
    trained = with_template(sets, args.template)
    every = {**trained, "forget_eval": sets["forget"], **terms, **members, **questions, **watched}
    return Benchmark(
        name="semeval",
        split=split,
        sets=every,
        panel=semeval_panel(terms, members, args.mmlu_accuracy, questions, watched),
        full_sets=("forget", "retain"),
        retain_sets=("retain",),
        shown_set=next(iter(terms)),
        eval_name="LUME",
        generation={term: Limits(256) for term in terms},
        shown=(*SHOWN, "mmlu") if questions else SHOWN,
    )


def _watched(args: SemEvalArgs, sets: Mapping[str, ExampleSet]) -> Mapping[str, ExampleSet]:
    """Return the validation rows by side; none by default."""
    if args.forget_validation is not None and args.retain_validation is not None:
        return load_sides({"forget": args.forget_validation, "retain": args.retain_validation})
    if args.validation is None:
        return {}
    if args.validation == "self":
        return sets
    if any((Path(args.validation).expanduser() / f"forget{e}").is_file() for e in EXTENSIONS):
        return load_semeval(args.validation, "all")
    return load_semeval(args.validation, "validation")


def semeval_panel(
    terms: Collection[str],
    members: Collection[str] = (),
    mmlu_accuracy: float | None = None,
    mmlu: Collection[str] = (),
    watched: Collection[str] = (),
) -> tuple[Metric, ...]:
    """Return the official metrics over the sets `terms` (`forget_Task1_knowledge`, ...) and the membership documents.

    mmlu: the sets of its questions, if they are measured in the same run. watched: the sets of validation rows.
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
    panel += [Metric(term, family[term.rpartition("_")[2]], rows=term, reads={"texts": ("answer",)}) for term in terms]
    if members:
        panel.append(Metric("mia_auc", "attack_auc", parents={"members": "mia_member", "others": "mia_nonmember"}))
        panel += [Metric(f"mia_{name}", "loss_score", rows=name, reads={"tokens": ("answer",)}) for name in MEMBERS]
    if mmlu:
        panel += mmlu_panel(mmlu)
    panel += [Metric(f"{name}_Prob", "probability", rows=name, reads={"tokens": ("answer",)}) for name in watched]
    in_order(panel)
    return tuple(panel)
