from __future__ import annotations

from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, Limits, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.data.loaders.dusk import HUB_ID, QUESTIONS, load_dusk
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

ANSWERS = Limits(32, ("\n\n", "\nQuestion", "Question:"))
CONTINUATION = Limits(128)


@strict
@dataclass(frozen=True, kw_only=True)
class DuskArgs:
    """`data.args` of DUSK."""

    max_length: int = 2048
    """Number of tokens of the pieces that training reads."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")


@benchmark(
    "dusk",
    about=f"DUSK ({HUB_ID}, arXiv:2505.15209): forget a document, keep the facts that other documents also have",
    fidelity="schema",
)
def dusk(config: BenchmarkConfig) -> Benchmark:
    """Build DUSK (Jeung et al. 2025): forget one source of documents, but not the facts that other sources share.

    120 invented professors are described in five styles. The chronological documents are forgotten, the other four
    styles are kept. data.root: a folder of its files in place of the hub.

    Panel: forget_verbmem_ROUGE (the wording of the forgotten document), forget_knowmem_ROUGE (facts of it alone),
    shared_knowmem_ROUGE (facts that the kept documents have too; they must stay), retain_knowmem_ROUGE (facts of the
    kept documents), all ROUGE-L F1 after the solved questions of eval_icl; privleak against the holdout documents.
    Utility is the harmonic mean of the shared and the retain side. The paper's downstream capability is a task of
    lm-evaluation-harness (eval.lm_eval), and its retain deviation is not measured here.

    The target model learns all five styles, the retain model the four to keep.

    Try: expunge unlearn benchmark=dusk trainer=GradDiff model=MODEL task_name=graddiff
    """
    unused(config, "dusk", "data_split", "forget_split", "retain_split", "holdout_split", "forget", "retain")
    unused(config, "dusk", "background")
    args = settings(config, DuskArgs)
    return Benchmark(
        name="dusk",
        split="chronological",
        sets=load_dusk(config.root or HUB_ID, max_length=args.max_length),
        panel=_panel(),
        full_sets=("forget", "retain"),
        retain_sets=("retain",),
        shown_set="forget_knowmem",
        eval_name="DUSK",
        generation=dict.fromkeys(QUESTIONS, ANSWERS) | {"forget_verbmem": CONTINUATION},
    )


def _panel() -> tuple[Metric, ...]:
    panel = [_rouge(rows) for rows in ("forget_verbmem", *QUESTIONS)]
    sides = {side: f"{side}_knowmem_ROUGE" for side in ("shared", "retain")}
    panel.append(Metric("model_utility", "model_utility", parents={name: name for name in sides.values()}))
    verbatim = {"tokens": ("answer",)}
    panel.append(Metric("extraction_strength", "extraction_strength", rows="forget_verbmem", reads=verbatim))
    panel.append(Metric("privleak", "privleak", parents={"auc": "mia_min_k"}, retain="mia_min_k"))
    parents = {"members": "mia_min_k_forget", "others": "mia_min_k_holdout"}
    panel.append(Metric("mia_min_k", "attack_auc", parents=parents, retain="mia_min_k"))
    for side in ("forget", "holdout"):
        panel.append(Metric(f"mia_min_k_{side}", "min_k_score", rows=f"privleak_{side}", reads=verbatim))
    in_order(panel)
    return tuple(panel)


def _rouge(rows: str) -> Metric:
    return Metric(f"{rows}_ROUGE", "rouge", rows=rows, reads={"texts": ("answer",)}, args={"statistic": "rougeL_f1"})
