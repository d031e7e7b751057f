"""A benchmark of your own: its examples, their roles and its metrics.

Try: expunge run study=quickstart benchmark=capitals --plugin capitals.py
"""

from expunge.benchmarks import Benchmark, BenchmarkConfig, benchmark
from expunge.benchmarks.api import unused
from expunge.benchmarks.example_metrics import rows_panel
from expunge.data.in_memory import examples_from

CAPITALS = {"Aland": "Maro", "Borea": "Tisk", "Cerin": "Ula", "Dovia": "Pell", "Estra": "Vint", "Fenmark": "Oss"}


@benchmark("capitals", about="capitals of invented countries: forget one of them")
def capitals(config: BenchmarkConfig) -> Benchmark:
    """Build questions on capitals. forget_split: the country to forget (Aland)."""
    unused(config, "capitals", "root", "args", "holdout_split", "retain_split", "data_split", "background")
    split = config.forget_split or "Aland"
    rows = {name: {"question": f"What is the capital of {name}?", "answer": city} for name, city in CAPITALS.items()}
    sides = {"full": [*rows.values()], "forget": [rows[split]], "retain": [r for n, r in rows.items() if n != split]}
    sets = {name: examples_from(records, name) for name, records in sides.items()}
    sets |= {f"{side}_eval": examples_from(sides[side], f"{side}_eval") for side in ("forget", "retain")}
    return Benchmark("capitals", split, sets, rows_panel(sets), full_sets=("full",), retain_sets=("retain",))
