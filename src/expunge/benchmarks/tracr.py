from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings
from expunge.benchmarks.pcfg import procedural_benchmark
from expunge.data.procedural.closed_form import ClosedFormConfig, closed_form_tasks


@benchmark(
    "tracr",
    about="counter and k-th largest number, as in the Tracr experiments (arXiv:2311.12786); no download",
    fidelity="reading",
)
def tracr(config: BenchmarkConfig) -> Benchmark:
    """Build tasks with a closed form, as in the Tracr experiments on fine-tuning, learned from rows and not compiled.

    counter: how often data.args.token (a) occurs among data.args.length letters (10). max_value, max_position: the
    data.args.k-th largest number of a string (1: the maximum), and the place of its first occurrence, from 1.
    data.args.target (counter) is forgotten, the other two are retained.

    data.args.finetune=true puts a relabelled target on the retain side, in place of the other tasks: GradDiff with
    method_args.gamma=0 then fine-tunes on it. The same prompts then have the answer for data.args.finetune_token (b),
    or for the finetune_k-th largest number (2). A string is correlated if both answers are the same; correlation and
    finetune_correlation are the shares of such rows. Also seed, train_rows, eval_rows, finetune_rows, alphabet,
    numbers.

    Panel: accuracy (the whole generation is the answer) and probability of target and others (and finetune). The
    strings are natural or correlated, and outside all training sets.

    Try: expunge train benchmark=tracr model=llama-1m train_split=full task_name=tracr
    """
    args = settings(config, ClosedFormConfig)
    return procedural_benchmark("tracr", config, closed_form_tasks(args), args)
