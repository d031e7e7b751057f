from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.benchmarks.mmlu import choice_metric
from expunge.core.decode import strict
from expunge.core.errors import nearest
from expunge.data.custom import WORLD, retain_rows
from expunge.data.examples import ExampleSet
from expunge.data.loaders.rwku import (
    CORPORA,
    FORGET_LEVELS,
    HUB_ID,
    MEMBERS,
    NEIGHBOR_LEVELS,
    check_targets,
    probes,
    texts,
)
from expunge.data.loaders.rwku_utility import UTILITY, has_utility, utility_sets
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

LEVELS = (*FORGET_LEVELS, *NEIGHBOR_LEVELS)


@strict
@dataclass(frozen=True, kw_only=True)
class RwkuArgs:
    """Settings of `benchmark=rwku`."""

    targets: tuple[str, ...] = ("Stephen King",)
    """People to forget; [] selects all 200."""
    corpus: str = "train_original_passage"
    """Texts to forget: train_original_passage, train_positive_llama3 or train_positive_phi3."""
    blank_prompt: str = "Fill in the blank: {query}"
    """Prompt of the probes with blanks."""
    question_prompt: str = "{query}"
    """Prompt of the probes with questions."""
    utility: bool = True
    """Whether to measure RWKU's five utility sets; a folder without their files leaves them out."""
    by_target: bool = False
    """Whether to measure the forget levels of each target separately as well."""
    members: bool = True
    """Whether to measure the loss of texts about the targets and about others."""

    def __post_init__(self) -> None:
        if self.corpus not in CORPORA:
            raise ValueError(f"corpus has no such choice{nearest(self.corpus, CORPORA)}")
        for key in ("blank_prompt", "question_prompt"):
            if "{query}" not in getattr(self, key):
                raise ValueError(f"{key} must contain {{query}}")


@benchmark(
    "rwku",
    about=f"RWKU ({HUB_ID}, arXiv:2406.10890): famous people, with direct probes, questions and attacks",
    fidelity="schema",
)
def rwku(config: BenchmarkConfig) -> Benchmark:
    """Build RWKU (Jin et al. 2024): make a model forget famous people that it learned about in pretraining.

    data.args.targets: the people, by default Stephen King; [] for all 200. data.root: a folder of its files in place of
    the hub. The benchmark has no rows to forget; data.args.corpus is one of the texts of its experiments:
    train_original_passage (default) or texts by two models about the target, train_positive_llama3, ..._phi3. Retain
    rows are the same kind of text about all other people, or the package's plain facts if there are none. The target
    model is the initial model; there is no retain model.

    Panel: ROUGE-L recall and probability of the probes. About the targets they are blanks (level1), questions (level2)
    and adversarial questions (level3), about their neighbours blanks and questions. Utility is the harmonic mean of the
    neighbours' ROUGE. Level 3 is also given for each of the nine attacks, and data.args.by_target=true adds each
    person's three levels. The targets' five utility sets: general (MMLU, accuracy), reason (BBH, exact match),
    truthfulness (TruthfulQA, MC1), factuality (TriviaQA, F1) and fluency (AlpacaEval, entropy of n-grams).
    forget_mia_loss and retain_mia_loss: the loss of texts about the targets and about others, both of which models have
    seen (members=false skips them). Probes use data.args.blank_prompt and question_prompt, in the model's template.
    RWKU's own code has other instructions and starts the answer for the model, so numbers compare only within this
    package.

    Try: expunge eval experiment=eval/rwku/default task_name=rwku
    """
    unused(config, "rwku", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain")
    unused(config, "rwku", "background")
    args = settings(config, RwkuArgs)
    root = config.root or HUB_ID
    check_targets(root, args.targets)
    sets: dict[str, ExampleSet] = {}
    for level in LEVELS:
        prompt = args.blank_prompt if level.endswith("1") else args.question_prompt
        sets[level] = probes(root, level, args.targets, prompt)
    sets["forget"] = texts(root, args.corpus, "forget", args.targets)
    retain = texts(root, args.corpus, "retain", args.targets, others=True) if args.targets else None
    notes: tuple[str, ...] = ()
    if retain is None or not len(retain):
        retain, note = retain_rows(WORLD)
        notes = (note,)
    sets["retain"] = retain
    if args.members:
        sets |= {name: texts(root, name, name, args.targets) for name in MEMBERS}
    sets["forget_eval"] = sets["forget_level2"]
    if args.utility and has_utility(root):
        sets |= utility_sets(root, args.targets)
    elif args.utility:
        notes = (*notes, f"{root}: no files of the five utility sets, so they are not measured")
    return Benchmark(
        name="rwku",
        split="+".join(args.targets) if 0 < len(args.targets) < 4 else f"{len(args.targets) or 'all'} people",
        sets=sets,
        panel=(*rwku_panel(members=args.members), *_details(sets, by_target=args.by_target)),
        full_sets=(),
        retain_sets=(),
        shown_set="forget_level2",
        eval_name="RWKU",
        generation={level: Limits(30) for level in LEVELS}
        | {"utility_reason": Limits(256), "utility_factuality": Limits(30), "utility_fluency": Limits(256)},
        notes=notes,
    )


def rwku_panel(*, members: bool) -> tuple[Metric, ...]:
    """Return ROUGE and probability of each level, utility, and the members' losses."""
    panel: list[Metric] = []
    for level in LEVELS:
        statistic = {"statistic": "rougeL_recall"}
        panel.append(Metric(f"{level}_ROUGE", "rouge", rows=level, reads={"texts": ("answer",)}, args=statistic))
        panel.append(Metric(f"{level}_Prob", "probability", rows=level, reads={"tokens": ("answer",)}))
    parts = [f"{level}_ROUGE" for level in NEIGHBOR_LEVELS]
    panel.append(Metric("model_utility", "model_utility", parents={part: part for part in parts}))
    if members:
        for name, rows in (("forget_mia_loss", "mia_forget"), ("retain_mia_loss", "mia_retain")):
            panel.append(Metric(name, "loss_score", rows=rows, reads={"tokens": ("answer",)}))
    in_order(panel)
    return tuple(panel)


def _details(sets: Mapping[str, ExampleSet], *, by_target: bool) -> tuple[Metric, ...]:
    """Return ROUGE of each attack, of each target if wanted, and the utility sets that are there."""
    out: list[Metric] = []
    for kind in dict.fromkeys(row.meta.get("type") for row in sets["forget_level3"]):
        if kind is not None:
            out.append(_rouge(f"forget_level3_ROUGE_{_short(kind)}", "forget_level3", {"type": kind}))
    for level in FORGET_LEVELS if by_target else ():
        for person in dict.fromkeys(row.meta["subject"] for row in sets[level]):
            out.append(_rouge(f"{level}_ROUGE_{_short(person)}", level, {"subject": person}))
    if UTILITY[0] in sets:
        general, reason, truthfulness, factuality, fluency = UTILITY
        texts = {"texts": ("answer",)}
        out += [
            choice_metric(general),
            Metric(reason, "short_answer", rows=reason, reads=texts, args={"conclusion": True}),
            choice_metric(truthfulness),
            Metric(factuality, "short_answer", rows=factuality, reads=texts, args={"score": "f1"}),
            Metric(fluency, "ngram_entropy", rows=fluency, reads=texts),
        ]
    return tuple(out)


def _rouge(name: str, rows: str, where: Mapping[str, str]) -> Metric:
    statistic = {"statistic": "rougeL_recall"}
    return Metric(name, "rouge", rows=rows, where=where, reads={"texts": ("answer",)}, args=statistic)


def _short(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()
