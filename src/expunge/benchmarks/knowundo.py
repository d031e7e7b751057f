from __future__ import annotations

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, unused
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.errors import ConfigError, nearest
from expunge.data.loaders.knowundo import DOMAINS, HUB_ID, load_knowundo


@benchmark(
    "knowundo",
    about=f"KnowUnDo ({HUB_ID}, arXiv:2407.01920): copyright and privacy, knowledge to forget and to keep",
    fidelity="files",
)
def knowundo(config: BenchmarkConfig) -> Benchmark:
    """Build KnowUnDo (Tian et al. 2024): forget protected knowledge of a book or a person, keep public knowledge.

    data_split: copyright (default) or privacy. data.root: a folder with copyright/unlearn.json, retention.json, ... in
    place of the hub. Unlearning trains on the train parts; the panel reads the val parts, other questions about the
    same knowledge. Target models learn both parts of both sides, retain models those of the retention side.

    Panel: probability, ROUGE, exact memorisation and extraction strength of the unlearn side (low is good); probability
    and ROUGE of the retention side (high is good) and their harmonic mean as utility.

    Try: expunge unlearn experiment=unlearn/knowundo/default data_split=privacy task_name=knowundo
    """
    unused(
        config, "knowundo", "forget_split", "retain_split", "holdout_split", "forget", "retain", "args", "background"
    )
    domain = config.data_split or DOMAINS[0]
    if domain not in DOMAINS:
        raise ConfigError(f"data_split={domain}: KnowUnDo has no such part{nearest(domain, DOMAINS)}")
    sets = load_knowundo(config.root or HUB_ID, domain)
    return Benchmark(
        name="knowundo",
        split=domain,
        sets=sets,
        panel=rows_panel(sets, truth_ratio=config.truth_ratio),
        full_sets=("forget", "forget_eval", "retain", "retain_eval"),
        retain_sets=("retain", "retain_eval"),
        eval_name="KNOWUNDO",
    )
