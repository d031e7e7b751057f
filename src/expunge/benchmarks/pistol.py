from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, unused
from expunge.benchmarks.example_metrics import rows_panel, subset_panel
from expunge.core.errors import ConfigError, nearest
from expunge.data.loaders.pistol import CONNECTED, HUB_ID, INDEPENDENT, PARTS, load_pistol
from expunge.metrics.compute import in_order

DEFAULT = {"1": "A_C", "2": "0_1"}


@benchmark(
    "pistol",
    about=f"PISTOL ({HUB_ID}, arXiv:2406.16810): contracts that share parties; forget one, keep its neighbours",
    fidelity="schema",
)
def pistol(config: BenchmarkConfig) -> Benchmark:
    """Build PISTOL (Qiu et al. 2024): forget contracts whose parties also stand in contracts to keep.

    Each contract is an edge between two parties and has 20 questions. data_split: 1 (default, 20 contracts of sales and
    of employment) or 2 (75 contracts, with a sparse and a dense part). forget_split: the contracts to forget, such as
    A_C (default) or A_C,A_C2,A_C3. data.root: a folder with sample_data_1.json in place of the hub.

    Panel: probability, ROUGE, exact memorisation and extraction strength of the forgotten contracts; probability and
    ROUGE of all others, of contracts that share a party (connected_...), and of contracts without one
    (independent_...). A method that forgets by entity harms the connected contracts. Utility is the harmonic mean over
    all contracts to keep.

    The target model learns all contracts, the retain model those to keep. The authors train 20 epochs with LoRA.

    Try: expunge unlearn benchmark=pistol forget_split=A_C trainer=NPO model=MODEL task_name=npo
    """
    unused(config, "pistol", "retain_split", "holdout_split", "forget", "retain", "args", "background")
    part = config.data_split or "1"
    if part not in PARTS:
        raise ConfigError(f"data_split={part}: PISTOL has no such part{nearest(part, PARTS)}")
    edges = tuple(edge.strip() for edge in (config.forget_split or DEFAULT[part]).split(",") if edge.strip())
    if not edges:
        raise ConfigError("forget_split names no contract; write A_C, or several with commas")
    sets = load_pistol(config.root or HUB_ID, part, edges)
    panel = list(rows_panel(sets, truth_ratio=config.truth_ratio))
    for short, rows in (("connected", CONNECTED), ("independent", INDEPENDENT)):
        if rows in sets:
            panel += subset_panel(short, rows, sets, config.truth_ratio)
    in_order(panel)
    return Benchmark(
        name="pistol",
        split=",".join(edges),
        sets=sets,
        panel=tuple(panel),
        full_sets=("forget", "retain"),
        retain_sets=("retain",),
        eval_name="PISTOL",
    )
