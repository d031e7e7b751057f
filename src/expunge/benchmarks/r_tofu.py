from __future__ import annotations

from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.benchmarks.example_metrics import trace_panel
from expunge.benchmarks.metric_suite import FORGET, RETAIN, tofu_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.loaders.r_tofu import load_r_tofu, retain_file

NEW_TOKENS = 1024  # the authors' limit of prompt and generation together


@strict
@dataclass(frozen=True, kw_only=True)
class RTofuArgs:
    """Settings of `benchmark=r_tofu`."""

    task: int = 1
    """The task whose rows are forgotten: 1 to 10, or 1 to 9 of forget10."""


@benchmark(
    "r_tofu",
    about="R-TOFU (arXiv:2505.15214): TOFU with a reasoning trace before each answer, for reasoning models",
    fidelity="schema",
)
def r_tofu(config: BenchmarkConfig) -> Benchmark:
    """Build R-TOFU (Yoon et al. 2025): a reasoning model forgets its traces and its answers.

    data.root: a folder of the files (`data/tofu` of the authors' repository), required. forget_split: forget01
    (default), forget05 or forget10; a forget file has several tasks, and data.args.task (1) names the one to forget.
    The retain side is the rest of all rows. trainer.args.train_on names the span that the forget loss reads:
    trace+answer, answer or trace are the authors' three variants of gradient ascent.

    Suite: TOFU's metrics, whose answers follow an empty thought in the published evaluation files, and trace_Prob and
    trace_ROUGE of the forget and the retain traces. The authors' utility and efficacy also use an entailment model and
    an embedding model; they are not built in. eval.extras and eval.judge add measures of these kinds.

    A template that opens a thought itself (DeepSeek-R1) needs model.template_args.thought=empty.

    Try: expunge unlearn experiment=unlearn/r_tofu/default data.root=FOLDER task_name=mine \
trainer.args.train_on=trace+answer
    """
    unused(config, "r_tofu", "retain_split", "holdout_split", "data_split", "forget", "retain", "background")
    args = settings(config, RTofuArgs)
    if config.root is None:
        raise ConfigError("data.root: missing; name the folder of R-TOFU's files (data/tofu of its repository)")
    split = config.forget_split or "forget01"
    sets = load_r_tofu(config.root, split, args.task)
    panel = (
        *tofu_panel(truth_ratio=config.truth_ratio),
        *trace_panel("forget", "forget"),
        *trace_panel("retain", RETAIN),
    )
    return Benchmark(
        name="r_tofu",
        split=f"{split}-{args.task}",
        sets=sets,
        panel=panel,
        full_sets=("full",),
        retain_sets=("retain",),
        retain_split=retain_file(split),
        generation={name: Limits(NEW_TOKENS) for name in (FORGET, RETAIN, "forget", "real_authors", "world_facts")},
        eval_name="R_TOFU",
    )
