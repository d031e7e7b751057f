"""Metrics beside a benchmark's own panel, in groups that `eval.extras` names, with the sets of rows they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark
from expunge.benchmarks.metric_suite import FORGET, HOLDOUT, RETAIN
from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.data.variants import REFUSAL, variant_of, with_refusals
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

N_REFUSALS = 8  # refusals whose probability is read: each costs one answer a row
SIDES = {"forget": FORGET, "holdout": HOLDOUT}


@dataclass(frozen=True)
class MetricGroupRequest:
    """What a group is made from: the benchmark, how many samples leak@k has, and the refusals."""

    benchmark: Benchmark
    samples: int
    refusals: Sequence[str]


Made = tuple[Sequence[Metric], Mapping[str, ExampleSet]]


def with_extras(benchmark: Benchmark, names: Sequence[str], *, samples: int, refusals: Sequence[str]) -> Benchmark:
    """The benchmark with further groups of metrics. Raises ConfigError where it lacks the rows that a group reads."""
    wanted = MetricGroupRequest(benchmark, samples, refusals)
    panel, sets = list(benchmark.panel), dict(benchmark.sets)
    for name in names:
        for needed in EXTRAS[name].rows:
            if needed not in benchmark.sets:
                hint = "; name a holdout_split (benchmark=custom: data.args.holdout)" if needed == HOLDOUT else ""
                raise ConfigError(f"eval.extras: {name} reads the rows {needed!r}, which {benchmark.name} lacks{hint}")
        metrics, more = EXTRAS[name].make(wanted)
        known = {m.name: m for m in panel}
        panel += [m for m in metrics if known.get(m.name) != m]
        sets |= more
    in_order(panel)  # what cannot be right ends here, before anything is scored
    return dataclasses.replace(benchmark, panel=tuple(panel), sets=sets)


def _gradnorm(wanted: MetricGroupRequest) -> Made:
    sides = [
        Metric(f"mia_gradnorm_{s}", "gradnorm_score", rows=r, reads={"grads": ("answer",)}) for s, r in SIDES.items()
    ]
    return [_auc("mia_gradnorm"), *sides], {}


def _rmia(wanted: MetricGroupRequest) -> Made:
    sides = [
        Metric(
            f"mia_rmia_{side}",
            "rmia_score",
            parents={"losses": f"mia_loss_{side}", "population": "mia_loss_holdout"},
            shadows=True,
        )
        for side in SIDES
    ]
    return [_auc("mia_rmia"), *sides, *_losses()], {}


def _lira(wanted: MetricGroupRequest) -> Made:
    sides = [
        Metric(f"mia_lira_{side}", "lira_score", parents={"losses": f"mia_loss_{side}"}, shadows=True) for side in SIDES
    ]
    return [_auc("mia_lira"), *sides, *_losses()], {}


def _auc(name: str) -> Metric:
    return Metric(name, "attack_auc", parents={"members": f"{name}_forget", "others": f"{name}_holdout"}, retain=name)


def _losses() -> list[Metric]:
    """As in the TOFU panel, for benchmarks whose panel has none."""
    return [
        Metric(f"mia_loss_{side}", "loss_score", rows=rows, reads={"tokens": ("answer",)})
        for side, rows in SIDES.items()
    ]


def _leak(wanted: MetricGroupRequest) -> Made:
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < wanted.samples]
    return [
        Metric(f"forget_leak_at_{k}", "leak_at_k", rows=FORGET, reads={"samples": ("answer",)}, args={"k": k})
        for k in (*ks, wanted.samples)
    ], {}


def _worst_case(wanted: MetricGroupRequest) -> Made:
    rows = wanted.benchmark.sets[FORGET]
    names = ["direct", "upper", "quoted", "plain"]
    if all(r.paraphrased_question for r in rows):
        names.append("paraphrased")
    sets = {f"{FORGET}_{name}": variant_of(rows, name) for name in names}
    asked = {"as_it_is": FORGET} | {name: f"{FORGET}_{name}" for name in names}
    metrics = []
    for way, of in asked.items():
        metrics.append(Metric(f"forget_Q_A_Prob_{way}", "probability", rows=of, reads={"tokens": ("answer",)}))
        metrics.append(Metric(f"forget_Q_A_ROUGE_{way}", "rouge", rows=of, reads={"texts": ("answer",)}))
    for short in ("Prob", "ROUGE"):
        parents = {way: f"forget_Q_A_{short}_{way}" for way in asked}
        statistic = {"Prob": "prob", "ROUGE": "rougeL_recall"}[short]
        metrics.append(Metric(f"forget_worst_{short}", "worst_case", parents=parents, args={"statistic": statistic}))
    return metrics, sets


def _refusal(wanted: MetricGroupRequest) -> Made:
    name = f"{FORGET}_refusals"
    sets = {name: with_refusals(wanted.benchmark.sets[FORGET], wanted.refusals[:N_REFUSALS])}
    return [
        Metric("forget_refusal_Prob", "probability", rows=name, reads={"tokens": (REFUSAL,)}),
        Metric("forget_refusal_Prob_max", "probability", rows=name, reads={"tokens": (REFUSAL,)}, args={"over": "max"}),
        Metric("forget_refusal_loss", "answer_loss", rows=name, reads={"tokens": (REFUSAL,)}),
    ], sets


def _fluency(wanted: MetricGroupRequest) -> Made:
    metrics = []
    for short, rows in (("forget", FORGET), ("retain", RETAIN)):
        for name, statistic in (("repetition", "repetition_4"), ("distinct", "distinct_2"), ("ended", "ended")):
            metrics.append(
                Metric(
                    f"{short}_{name}", "fluency", rows=rows, reads={"texts": ("answer",)}, args={"statistic": statistic}
                )
            )
    return metrics, {}


def _agreement(wanted: MetricGroupRequest) -> Made:
    return [
        Metric(
            f"{short}_{name}", "agreement", rows=rows, reads={"agreement": ("answer",)}, args={"statistic": statistic}
        )
        for short, rows in (("forget", FORGET), ("retain", RETAIN))
        for name, statistic in (("KL_to_original", "kl"), ("top1_as_original", "top1"))
    ], {}


def _similarity(wanted: MetricGroupRequest) -> Made:
    return [
        Metric(
            f"{short}_similarity",
            "semantic_similarity",
            rows=rows,
            reads={"texts": ("answer",), "texts_similarity": ("answer",)},
        )
        for short, rows in (("forget", FORGET), ("retain", RETAIN))
    ], {}


def _entity(wanted: MetricGroupRequest) -> Made:
    """Retain rows that share an entity with the forget rows (a publisher, an influence), and those that do not."""
    keys = sorted({key for row in wanted.benchmark.sets[FORGET] for key in row.meta.get("keys", ())})
    if not keys:
        name = wanted.benchmark.name
        raise ConfigError(f"eval.extras: entity reads the entities of rows (meta.keys), which {name} lacks")
    return [
        Metric(f"retain_{short}_Q_A_Prob", "probability", rows=RETAIN, reads={"tokens": ("answer",)}, where={key: keys})
        for short, key in (("entity", "keys"), ("other", "!keys"))
    ], {}


def _arcsf(wanted: MetricGroupRequest) -> Made:
    """The names and the arithmetic of arcsf. Its utilities have no real authors and no world facts."""

    def ratio(name: str, rows: str, aggregate: str) -> Metric:
        args = {"aggregate": aggregate, "aggregator": "arithmetic"}
        return Metric(name, "truth_ratio", rows=rows, reads={"tokens": ("answer", "perturbed")}, args=args)

    def utility(name: str, parts: Sequence[str], **args: object) -> Metric:
        return Metric(name, "model_utility", parents={p: p for p in parts}, args=args)

    metrics = [
        ratio("arcsf_forget_mean_tr", FORGET, "raw"),
        ratio("arcsf_forget_mean_clamped_tr", FORGET, "true_better"),
        ratio("arcsf_retain_mean_tr", RETAIN, "true_better"),
    ]
    for i, value in ((1, "ln_p_greater"), (2, "ln_p")):
        metrics.append(
            Metric(
                f"arcsf_forget_quality_{i}",
                "forget_quality",
                parents={"truth_ratio": "arcsf_forget_mean_tr"},
                retain="arcsf_forget_mean_tr",
                args={"value": value},
            )
        )
    for short, rows in (("forget", FORGET), ("retain", RETAIN)):
        complement = {"complement": True} if short == "forget" else {}
        prob, rouge = f"arcsf_{short}_mean_probability_gt", f"arcsf_{short}_mean_rougeL_recall"
        tr = "arcsf_forget_mean_clamped_tr" if short == "forget" else "arcsf_retain_mean_tr"
        metrics += [
            Metric(prob, "probability", rows=rows, reads={"tokens": ("answer",)}),
            Metric(rouge, "rouge", rows=rows, reads={"texts": ("answer",)}),
            Metric(f"arcsf_{short}_mean_loss_gt", "answer_loss", rows=rows, reads={"tokens": ("answer",)}),
            Metric(f"arcsf_{short}_mean_loss_perturbed", "answer_loss", rows=rows, reads={"tokens": ("perturbed",)}),
            utility(f"arcsf_{short}_model_utility", (tr, rouge), **complement),
            utility(f"arcsf_{short}_model_utility_3", (prob, rouge, tr), **complement),
            utility(f"arcsf_{short}_arithmetic_model_utility_3", (prob, rouge, tr), mean="arithmetic", **complement),
        ]
    return metrics, {}


@dataclass(frozen=True)
class MetricGroup:
    """A group of metrics: one line on it, the sets of rows it needs, and how it is made."""

    about: str
    rows: tuple[str, ...]
    make: Callable[[MetricGroupRequest], Made]


EXTRAS: Mapping[str, MetricGroup] = {
    "gradnorm": MetricGroup("the gradient attack: a backward pass for each row", (FORGET, HOLDOUT), _gradnorm),
    "rmia": MetricGroup("RMIA, against the retain models", (FORGET, HOLDOUT), _rmia),
    "lira": MetricGroup("LiRA, from the retain models of two or more training seeds", (FORGET, HOLDOUT), _lira),
    "leak": MetricGroup("leak@k over eval.sampling", (FORGET,), _leak),
    "worst_case": MetricGroup("the forget questions in other wordings, and the worst of them", (FORGET,), _worst_case),
    "refusal": MetricGroup("how likely refusals are as answers to the forget questions", (FORGET,), _refusal),
    "fluency": MetricGroup("do answers repeat themselves, and do they end", (FORGET, RETAIN), _fluency),
    "agreement": MetricGroup("KL and first choices against the original model", (FORGET, RETAIN), _agreement),
    "similarity": MetricGroup("similarity of meaning, by eval.embedder", (FORGET, RETAIN), _similarity),
    "entity": MetricGroup("retain rows that share an entity with forget rows, or not", (FORGET, RETAIN), _entity),
    "arcsf": MetricGroup("the metrics of arcsf, under its names", (FORGET, RETAIN), _arcsf),
}  # fmt: skip
