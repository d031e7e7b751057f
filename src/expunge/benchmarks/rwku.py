from __future__ import annotations

from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.core.errors import nearest
from expunge.data.custom import WORLD, retain_rows
from expunge.data.examples import ExampleSet
from expunge.data.rwku import (
    CORPORA,
    FORGET_LEVELS,
    HUB_ID,
    MEMBERS,
    NEIGHBOR_LEVELS,
    check_targets,
    probes,
    texts,
)
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

LEVELS = (*FORGET_LEVELS, *NEIGHBOR_LEVELS)


@strict
@dataclass(frozen=True, kw_only=True)
class RwkuArgs:
    """Settings of `benchmark=rwku`."""

    targets: tuple[str, ...] = ("Stephen King",)
    """The people to forget. An empty list: all 200."""
    corpus: str = "train_original_passage"
    """The texts to unlearn from, by RWKU's name."""
    blank_prompt: str = "Fill in the blank: {query}"
    """How a blank is asked; {query} stands for the sentence."""
    question_prompt: str = "{query}"
    """How a question is asked; {query} stands for it."""
    members: bool = True
    """Whether the loss of texts that models have seen is measured."""

    def __post_init__(self) -> None:
        if self.corpus not in CORPORA:
            raise ValueError(f"corpus has no such choice{nearest(self.corpus, CORPORA)}")
        for key in ("blank_prompt", "question_prompt"):
            if "{query}" not in getattr(self, key):
                raise ValueError(f"{key} must hold {{query}}")


@benchmark(
    "rwku", about=f"RWKU ({HUB_ID}, arXiv:2406.10890): famous people, probed directly, by questions and by attacks"
)
def rwku(wanted: BenchmarkConfig) -> Benchmark:
    """RWKU (Jin et al. 2024): make a model forget famous people that it learned of in pretraining.

    data.args.targets: the people, by default Stephen King; [] for all 200. data.root: a folder of its files in place of
    the hub. The benchmark gives no rows to forget; data.args.corpus is one of the texts it was tested with:
    train_original_passage (default) or what two models wrote about the target, train_positive_llama3, ..._phi3. Retain
    rows are the same kind of text about everybody else, or the package's plain facts where there is nobody else. The
    full model is the given one; there is no retain model.

    Panel: ROUGE-L recall and probability of the probes, on blanks (level1), questions (level2) and adversarial
    questions (level3) about the targets, and on blanks and questions about their neighbours; utility is the harmonic
    mean of the neighbours' ROUGE. forget_mia_loss and retain_mia_loss: the loss of texts about the targets and about
    others, both of which models have seen (members=false leaves them out).
    Probes are asked as data.args.blank_prompt and question_prompt say, by the model's template. RWKU's own code words
    its instructions otherwise and begins the answer for the model, so numbers compare within this package.

    Try: expunge eval experiment=eval/rwku/default task_name=rwku
    """
    unused(wanted, "rwku", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain")
    unused(wanted, "rwku", "background")
    args = settings(wanted, RwkuArgs)
    root = wanted.root or HUB_ID
    check_targets(root, args.targets)
    sets: dict[str, ExampleSet] = {}
    for level in LEVELS:
        prompt = args.blank_prompt if level.endswith("1") else args.question_prompt
        sets[level] = probes(root, level, args.targets, prompt)
    sets["forget"] = texts(root, args.corpus, "forget", args.targets)
    kept = texts(root, args.corpus, "retain", args.targets, others=True) if args.targets else None
    notes: tuple[str, ...] = ()
    if kept is None or not len(kept):
        kept, said = retain_rows(WORLD)
        notes = (said,)
    sets["retain"] = kept
    if args.members:
        sets |= {name: texts(root, name, name, args.targets) for name in MEMBERS}
    sets["forget_eval"] = sets["forget_level2"]
    return Benchmark(
        name="rwku",
        split="+".join(args.targets) if 0 < len(args.targets) < 4 else f"{len(args.targets) or 'all'} people",
        sets=sets,
        panel=rwku_panel(members=args.members),
        full_sets=(),
        retain_sets=(),
        shown_set="forget_level2",
        eval_name="RWKU",
        generation={level: Limits(30) for level in LEVELS},
        notes=notes,
    )


def rwku_panel(*, members: bool) -> tuple[Metric, ...]:
    """ROUGE and probability of each level, utility, and the members' losses."""
    panel: list[Metric] = []
    for level in LEVELS:
        statistic = {"statistic": "rougeL_recall"}
        panel.append(Metric(f"{level}_ROUGE", "rouge", rows=level, texts="answer", args=statistic))
        panel.append(Metric(f"{level}_Prob", "probability", rows=level, tokens=("answer",)))
    parts = [f"{level}_ROUGE" for level in NEIGHBOR_LEVELS]
    panel.append(Metric("model_utility", "model_utility", parents={part: part for part in parts}))
    if members:
        for name, rows in (("forget_mia_loss", "mia_forget"), ("retain_mia_loss", "mia_retain")):
            panel.append(Metric(name, "loss_score", rows=rows, tokens=("answer",)))
    in_order(panel)
    return tuple(panel)
