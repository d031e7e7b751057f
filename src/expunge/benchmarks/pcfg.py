from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.core.errors import ConfigError
from expunge.data.procedural.pcfg import PcfgConfig, pcfg_tasks
from expunge.data.procedural.sets import ProceduralTasks, SetSizes, most_common_share, task_sets
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

SUFFIXES = ("uncorrelated", "correlated")
ANSWER_TOKENS = 4  # two digits and a sign, for any tokenizer


def procedural_benchmark(name: str, config: BenchmarkConfig, tasks: ProceduralTasks, sizes: SetSizes) -> Benchmark:
    """Build a benchmark of procedural tasks: the target model learns the mixture, and one task of it is forgotten.

    With a fine-tuning task, its rows replace the mixture's other tasks on the retain side: GradDiff with gamma=0 then
    fine-tunes on them.
    """
    unused(
        config, name, "root", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain",
        "background",
    )  # fmt: skip
    sets = task_sets(tasks, sizes)
    measured = [key for key in sets if key.endswith(SUFFIXES)]
    panel = [Metric(f"{key}_accuracy", "exact_match", rows=key, reads={"texts": ("answer",)}) for key in measured]
    panel += [Metric(f"{key}_Prob", "probability", rows=key, reads={"tokens": ("answer",)}) for key in measured]
    in_order(panel)
    guesses = ", ".join(f"{key} {most_common_share(sets[key]):.3f}" for key in measured)
    return Benchmark(
        name=name,
        split=sizes.target,
        sets=sets,
        panel=tuple(panel),
        full_sets=("full",),
        retain_sets=("retain",),
        notes=(f"accuracy of each task's most frequent answer, for any string: {guesses}",),
        retain_set="retain" if tasks.finetune is None else "finetune",
        shown_set="target_uncorrelated",
        eval_name=name.upper(),
        generation={key: Limits(ANSWER_TOKENS) for key in measured},
        shown=tuple(f"{key}_accuracy" for key in measured),
        utility="others_uncorrelated_accuracy",
    )


@benchmark(
    "pcfg",
    about="counting and indexing letters of a seeded grammar's strings (arXiv:2311.12786); no download",
    fidelity="reading",
)
def pcfg(config: BenchmarkConfig) -> Benchmark:
    """Build questions about strings of a seeded grammar over a, b and c: how does fine-tuning change a capability?

    count_X: how often X occurs in the last data.args.window letters (40), X one of a, b, c, aa, bb, cc. index_X: the
    place, from the end, of its data.args.occurrence-th occurrence (6) from the end, or -1. token_at_40: the letter 40
    from the end. The target model learns the mixture of all; data.args.target (count_a) is forgotten, the others are
    retained; the retain model has never learned the target.

    data.args: seed, train_rows, eval_rows, depth of the grammar, operand_prior ({a: 0.999, b: 0.001}), tasks (only
    these), correlation. The last is the probability that a row of the mixture comes from the strings whose window has
    exactly one a more than b's. finetune=count_b puts that task on the retain side, in place of the mixture's others.
    GradDiff with method_args.gamma=0 then fine-tunes on it. finetune_rows and finetune_correlation apply to it alone.

    Panel: accuracy (the whole generation is the answer) and probability of target and others (and finetune). The
    strings are natural or correlated, and outside all training sets.

    Try: expunge run study=pcfg_tiny
    """
    args = settings(config, PcfgConfig)
    tasks = pcfg_tasks(args)
    if args.finetune == args.target:
        raise ConfigError(f"data.args.finetune={args.finetune}: this is the task to forget (data.args.target)")
    return procedural_benchmark("pcfg", config, tasks, args)
