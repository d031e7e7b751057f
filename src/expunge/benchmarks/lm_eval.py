from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, unused


@benchmark("lm_eval", about="no own rows: only the tasks of lm-evaluation-harness (eval.lm_eval.tasks)")
def lm_eval(config: BenchmarkConfig) -> Benchmark:
    """Build a benchmark without rows and panel: only the tasks of lm-evaluation-harness in eval.lm_eval.tasks.

    Tasks can be added to any other benchmark too, and to studies, which then evaluate each model on them.

    Try: expunge eval benchmark=lm_eval eval.lm_eval.tasks=[arc_easy] eval.lm_eval.num_fewshot=5 task_name=arc
    """
    keys = ("root", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain", "background")
    unused(config, "lm_eval", *keys, "args")
    return Benchmark(
        name="lm_eval",
        split="none",
        sets={},
        panel=(),
        full_sets=(),
        retain_sets=(),
        shown_set=None,
        eval_name="LMEval",
    )
