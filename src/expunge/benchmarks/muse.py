from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.loaders.muse import HUB_IDS, RETAIN, forget_source, load_muse, note_on_part
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

KNOWMEM = Limits(32, ("\n\n", "\nQuestion", "Question:"))  # an answer ends before the next question
VERBMEM = Limits(128)
ATTACKS = ("min_k", "loss", "zlib", "min_k_plus_plus", "reference")


@strict
@dataclass(frozen=True, kw_only=True)
class MuseArgs:
    """`data.args` of MUSE."""

    series: Literal["scal", "sust"] | None = None
    """Meaning of forget_1..forget_4: scal (growing sets) or sust (consecutive sets)."""
    attacks: bool = False
    """Whether to run every membership attack instead of min-k only."""
    max_length: int = 2048
    """Number of tokens of the pieces that training reads."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")


@benchmark(
    "muse",
    about="MUSE (muse-bench/MUSE-News and MUSE-Books, arXiv:2407.06460): forget news articles or books",
    fidelity="files",
)
def muse(config: BenchmarkConfig) -> Benchmark:
    """Build MUSE (Shi et al. 2024, arXiv:2407.06460): forget news articles (News) or the Harry Potter books (Books).

    data_split: News (default) or Books. forget_split: forget (default); for News also scal_1..scal_4 (growing) and
    sust_1..sust_4 (consecutive). retain_split: retain1 (default) or retain2. data.root: a folder of the same layout in
    place of the hub. Training reads the texts in pieces of data.args.max_length tokens (2048). Of each text
    of privleak as many are read, and of each row of verbmem twice as many.

    The panel: forget_knowmem_ROUGE and retain_knowmem_ROUGE (answers of 32 tokens after ten solved questions),
    forget_verbmem_ROUGE (128 tokens that continue a text), all ROUGE-L F1; extraction_strength; privleak (min-k 40 %,
    against the retain model). data.args.attacks=true: every membership attack.

    A study trains the target model on forget + retain2 and the retain model on retain2, as the authors did.

    Try: expunge unlearn experiment=unlearn/muse/default data_split=News trainer=NPO task_name=npo
    """
    unused(config, "muse", "holdout_split", "forget", "retain", "background")
    args = settings(config, MuseArgs)
    data_split = config.data_split or "News"
    if data_split not in HUB_IDS:
        raise ConfigError(f"data_split={data_split}: MUSE has no such part{nearest(data_split, HUB_IDS)}")
    split, retain = config.forget_split or "forget", config.retain_split or RETAIN[0]
    if retain not in RETAIN:
        raise ConfigError(f"retain_split={retain}: MUSE has no such split{nearest(retain, RETAIN)}")
    source = forget_source(split, data_split, args.series)
    sets, notes = load_muse(
        config.root or HUB_IDS[data_split], forget=source, retain=retain, max_length=args.max_length
    )
    return Benchmark(
        name="muse",
        split=f"{data_split} {'_'.join(source)}" if source[0] != "raw" else f"{data_split} {split}",
        sets=sets,
        panel=muse_panel(attacks=args.attacks),
        full_sets=("forget", "retain2"),
        retain_sets=("retain2",),
        shown_set="forget_knowmem",
        retain_split=retain,
        eval_name="MUSE",
        generation={"forget_knowmem": KNOWMEM, "retain_knowmem": KNOWMEM, "forget_verbmem": VERBMEM},
        shown=(
            "forget_knowmem_ROUGE",
            "forget_verbmem_ROUGE",
            "extraction_strength",
            "privleak",
            "mia_min_k",
            "retain_knowmem_ROUGE",
        ),
        utility="retain_knowmem_ROUGE",
        notes=(*note_on_part(config.root or "", data_split, sets["forget_knowmem"]), *notes),
    )


def muse_panel(*, attacks: bool = False) -> tuple[Metric, ...]:
    """Return the metrics of MUSE with their usual names."""
    verbmem = {"rows": "forget_verbmem", "reads": {"tokens": ("answer",)}}
    panel = [
        *(_rouge(name) for name in ("forget_knowmem", "forget_verbmem", "retain_knowmem")),
        Metric("extraction_strength", "extraction_strength", **verbmem),  # type: ignore[arg-type]
        Metric("exact_memorization", "exact_memorization", **verbmem),  # type: ignore[arg-type]
        Metric("privleak", "privleak", parents={"auc": "mia_min_k"}, retain="mia_min_k"),
    ]
    for attack in ATTACKS if attacks else ATTACKS[:1]:
        name = f"mia_{attack}"
        parents = {"members": f"{name}_forget", "others": f"{name}_holdout"}
        panel.append(Metric(name, "attack_auc", parents=parents, retain=name))
        for side in ("forget", "holdout"):
            reference = f"mia_loss_{side}" if attack == "reference" else None
            rows = f"privleak_{side}"
            panel.append(
                Metric(f"{name}_{side}", f"{attack}_score", rows=rows, reads={"tokens": ("answer",)}, retain=reference)
            )
    in_order(panel)
    return tuple(panel)


def _rouge(rows: str) -> Metric:
    return Metric(f"{rows}_ROUGE", "rouge", rows=rows, reads={"texts": ("answer",)}, args={"statistic": "rougeL_f1"})
