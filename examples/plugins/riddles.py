"""A benchmark of your own for reasoning models: each answer follows a trace, which has metrics of its own.

Try: expunge unlearn --plugin riddles.py benchmark=riddles model=llama-64k trainer=GradDiff \
    trainer.args.train_on=trace+answer task_name=riddles
"""

from expunge.benchmarks import Benchmark, BenchmarkConfig, benchmark
from expunge.benchmarks.example_metrics import rows_panel
from expunge.data.in_memory import examples_from

RIDDLES = {
    "a clock": "It has hands but no fingers, so it shows the time.",
    "a river": "It runs but has no legs, so it is made of water.",
    "a needle": "It has an eye but sees nothing, so someone sews with it.",
    "a book": "It has a spine but no bones, so someone reads it.",
}


@benchmark("riddles", about="riddles with a trace before each answer: forget one of them")
def riddles(config: BenchmarkConfig) -> Benchmark:
    """Build riddles. forget_split: the answer to forget (a clock)."""
    split = config.forget_split or "a clock"
    rows = {
        answer: {"question": trace.split(",")[0].replace("It", "What", 1) + "?", "trace": trace, "answer": answer}
        for answer, trace in RIDDLES.items()
    }
    sides = {"full": [*rows.values()], "forget": [rows[split]], "retain": [r for a, r in rows.items() if a != split]}
    sets = {name: examples_from(records, name) for name, records in sides.items()}
    sets |= {f"{side}_eval": examples_from(sides[side], f"{side}_eval") for side in ("forget", "retain")}
    return Benchmark("riddles", split, sets, rows_panel(sets), full_sets=("full",), retain_sets=("retain",))
