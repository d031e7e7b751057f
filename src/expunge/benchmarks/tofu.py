from __future__ import annotations

from expunge.benchmarks.api import Benchmark, Wanted, benchmark, unused
from expunge.benchmarks.panel import tofu_panel
from expunge.core.errors import ConfigError, nearest
from expunge.data.tofu import FORGET, HUB_ID, load_tofu, retain_for


@benchmark("tofu", about=f"TOFU ({HUB_ID}, arXiv:2401.06121): forget01/05/10 with retain99/95/90")
def tofu(wanted: Wanted) -> Benchmark:
    """TOFU (Maini et al. 2024, arXiv:2401.06121): 200 fictitious authors, of which 1, 5 or 10 % are to be forgotten.

    forget_split: forget01, forget05 or forget10 (default). retain_split: its partner. holdout_split: holdout01/05/10,
    authors no model has seen; adds the membership attacks. data.root: a folder of its files in place of the hub.
    data.background=true: full and retain models also learn the real-world answers, which a model from scratch lacks.

    Try: expunge plan study=tofu_tiny data.root=FOLDER
    """
    unused(wanted, "tofu", "data_split", "forget", "retain", "args")
    forget = wanted.forget_split or "forget10"
    if forget not in FORGET:
        raise ConfigError(f"forget_split={forget}: TOFU has no such split{nearest(forget, FORGET)}")
    retain = wanted.retain_split or retain_for(forget)
    sets = load_tofu(
        wanted.root or HUB_ID,
        forget_split=forget,
        retain_split=retain,
        holdout_split=wanted.holdout_split,
    )
    known = ("real_authors", "world_facts") if wanted.background else ()
    return Benchmark(
        name="tofu",
        split=forget,
        sets=sets,
        panel=tofu_panel(truth_ratio=wanted.truth_ratio, holdout="holdout" in sets),
        full_sets=("full", *known),
        retain_sets=("retain", *known),
        retain_split=retain,
    )
