from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.loaders.blur import HUB_ID, TASKS, load_blur
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

SIDES = ("forget", "retain", "combined")


@strict
@dataclass(frozen=True, kw_only=True)
class BlurArgs:
    """`data.args` of BLUR."""

    max_length: int = 512
    """Largest number of tokens of a question or text."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")


@benchmark(
    "blur",
    about=f"BLUR ({HUB_ID}, arXiv:2506.15699): questions about both sides at the same time",
    fidelity="schema",
)
def blur(config: BenchmarkConfig) -> Benchmark:
    """Build BLUR (Hu et al. 2025): how far does a model move on questions that mix forgotten and kept knowledge?

    data_split: whp (default), rwku, wmdp or tofu; tofu has the combined questions only, so it is evaluated and not
    unlearned. data.root: a folder of its files in place of the hub. The published questions have no true answers. So
    the panel compares the model with the original one on the tokens of the questions: SIDE_agreement (share of equal
    first choices; 1 is unchanged, which retain should be) and SIDE_kl, for forget, retain and combined, and SIDE_loss,
    the mean loss of the questions. Utility is retain_agreement. The paper lets a model judge the answers: add `judge=`.

    relearn_hi, relearn_mid and relearn_lo are the texts of the paper's relearning attacks, from close to the forget set
    to far from it. They are in no panel; relearn on them with `expunge train data.train=FILE`. There is no training set
    of a target model: the initial model is the target model.

    Try: expunge eval benchmark=blur data_split=rwku model=MODEL eval.original=ORIGINAL task_name=blur
    """
    unused(config, "blur", "forget_split", "retain_split", "holdout_split", "forget", "retain", "background")
    args = settings(config, BlurArgs)
    task = config.data_split or TASKS[0]
    if task not in TASKS:
        raise ConfigError(f"data_split={task}: BLUR has no such task{nearest(task, TASKS)}")
    sets, absent = load_blur(config.root or HUB_ID, task, max_length=args.max_length)
    notes = (f"BLUR {task}: without {', '.join(absent)}, which the source lacks",) if absent else ()
    return Benchmark(
        name="blur",
        split=task,
        sets=sets,
        panel=_panel(sets),
        full_sets=(),
        retain_sets=(),
        shown_set=None,
        eval_name="BLUR",
        utility="retain_agreement",
        notes=notes,
    )


def _panel(sets: Collection[str]) -> tuple[Metric, ...]:
    panel: list[Metric] = []
    for side in SIDES:
        if side in sets:
            both = {"agreement": ("answer",)}
            top = {"statistic": "top1"}
            panel.append(Metric(f"{side}_agreement", "agreement", rows=side, reads=both, args=top))
            panel.append(Metric(f"{side}_kl", "agreement", rows=side, reads=both))
            panel.append(Metric(f"{side}_loss", "loss_score", rows=side, reads={"tokens": ("answer",)}))
    in_order(panel)
    return tuple(panel)
