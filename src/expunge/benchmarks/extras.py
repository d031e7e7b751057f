"""Metrics outside a benchmark's own panel, in groups named by `eval.extras`, with the sets of rows they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expunge.benchmarks.api import Benchmark
from expunge.benchmarks.general import ability, general_panel, items_apart_from
from expunge.benchmarks.metric_suite import FORGET, HOLDOUT, RETAIN
from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.data.variants import REFUSAL, variant_of, with_refusals
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

N_REFUSALS = 8  # number of refusals to score: each costs one answer per row
SIDES = {"forget": FORGET, "holdout": HOLDOUT}


@dataclass(frozen=True)
class MetricGroupRequest:
    """Inputs of a metric group: the benchmark, the number of samples of leak@k, and the refusals."""

    benchmark: Benchmark
    samples: int
    refusals: Sequence[str]


GroupMetrics = tuple[Sequence[Metric], Mapping[str, ExampleSet]]


def with_extras(benchmark: Benchmark, names: Sequence[str], *, samples: int, refusals: Sequence[str]) -> Benchmark:
    """Return the benchmark with further metric groups. Raises ConfigError if it lacks the rows that a group reads."""
    request = MetricGroupRequest(benchmark, samples, refusals)
    panel, sets = list(benchmark.panel), dict(benchmark.sets)
    for name in names:
        for name_of_rows in EXTRAS[name].rows:
            if name_of_rows not in benchmark.sets:
                hint = "; name a holdout_split (benchmark=custom: data.args.holdout)" if name_of_rows == HOLDOUT else ""
                raise ConfigError(
                    f"eval.extras: {name} reads the rows {name_of_rows!r}, which {benchmark.name} lacks{hint}"
                )
        metrics, more = EXTRAS[name].make(request)
        existing = {m.name: m for m in panel}
        panel += [m for m in metrics if existing.get(m.name) != m]
        sets |= more
    in_order(panel)  # rejects an invalid panel before anything is scored
    return dataclasses.replace(benchmark, panel=tuple(panel), sets=sets)


def _gradnorm(request: MetricGroupRequest) -> GroupMetrics:
    sides = [
        Metric(f"mia_gradnorm_{s}", "gradnorm_score", rows=r, reads={"grads": ("answer",)}) for s, r in SIDES.items()
    ]
    return [_auc("mia_gradnorm"), *sides], {}


def _rmia(request: MetricGroupRequest) -> GroupMetrics:
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


def _lira(request: MetricGroupRequest) -> GroupMetrics:
    sides = [
        Metric(f"mia_lira_{side}", "lira_score", parents={"losses": f"mia_loss_{side}"}, shadows=True) for side in SIDES
    ]
    return [_auc("mia_lira"), *sides, *_losses()], {}


def _auc(name: str) -> Metric:
    return Metric(name, "attack_auc", parents={"members": f"{name}_forget", "others": f"{name}_holdout"}, retain=name)


def _losses() -> list[Metric]:
    """Return the loss metrics of the TOFU panel, for benchmarks without them."""
    return [
        Metric(f"mia_loss_{side}", "loss_score", rows=rows, reads={"tokens": ("answer",)})
        for side, rows in SIDES.items()
    ]


def _leak(request: MetricGroupRequest) -> GroupMetrics:
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < request.samples]
    return [
        Metric(f"forget_leak_at_{k}", "leak_at_k", rows=FORGET, reads={"samples": ("answer",)}, args={"k": k})
        for k in (*ks, request.samples)
    ], {}


def _worst_case(request: MetricGroupRequest) -> GroupMetrics:
    rows = request.benchmark.sets[FORGET]
    names = ["direct", "upper", "quoted", "plain"]
    if all(r.paraphrased_question for r in rows):
        names.append("paraphrased")
    sets = {f"{FORGET}_{name}": variant_of(rows, name) for name in names}
    variants = {"as_it_is": FORGET} | {name: f"{FORGET}_{name}" for name in names}
    metrics = []
    for way, of in variants.items():
        metrics.append(Metric(f"forget_Q_A_Prob_{way}", "probability", rows=of, reads={"tokens": ("answer",)}))
        metrics.append(Metric(f"forget_Q_A_ROUGE_{way}", "rouge", rows=of, reads={"texts": ("answer",)}))
    for short in ("Prob", "ROUGE"):
        parents = {way: f"forget_Q_A_{short}_{way}" for way in variants}
        statistic = {"Prob": "prob", "ROUGE": "rougeL_recall"}[short]
        metrics.append(Metric(f"forget_worst_{short}", "worst_case", parents=parents, args={"statistic": statistic}))
    return metrics, sets


def _refusal(request: MetricGroupRequest) -> GroupMetrics:
    name = f"{FORGET}_refusals"
    sets = {name: with_refusals(request.benchmark.sets[FORGET], request.refusals[:N_REFUSALS])}
    return [
        Metric("forget_refusal_Prob", "probability", rows=name, reads={"tokens": (REFUSAL,)}),
        Metric("forget_refusal_Prob_max", "probability", rows=name, reads={"tokens": (REFUSAL,)}, args={"over": "max"}),
        Metric("forget_refusal_loss", "answer_loss", rows=name, reads={"tokens": (REFUSAL,)}),
    ], sets


def _fluency(request: MetricGroupRequest) -> GroupMetrics:
    metrics = []
    for short, rows in (("forget", FORGET), ("retain", RETAIN)):
        for name, statistic in (("repetition", "repetition_4"), ("distinct", "distinct_2"), ("ended", "ended")):
            metrics.append(
                Metric(
                    f"{short}_{name}", "fluency", rows=rows, reads={"texts": ("answer",)}, args={"statistic": statistic}
                )
            )
    return metrics, {}


def _agreement(request: MetricGroupRequest) -> GroupMetrics:
    return [
        Metric(
            f"{short}_{name}", "agreement", rows=rows, reads={"agreement": ("answer",)}, args={"statistic": statistic}
        )
        for short, rows in (("forget", FORGET), ("retain", RETAIN))
        for name, statistic in (("KL_to_original", "kl"), ("top1_as_original", "top1"))
    ], {}


def _similarity(request: MetricGroupRequest) -> GroupMetrics:
    return [
        Metric(
            f"{short}_similarity",
            "semantic_similarity",
            rows=rows,
            reads={"texts": ("answer",), "texts_similarity": ("answer",)},
        )
        for short, rows in (("forget", FORGET), ("retain", RETAIN))
    ], {}


def _entity(request: MetricGroupRequest) -> GroupMetrics:
    """Split retain rows into those with an entity of the forget rows (a publisher, an influence), and the others."""
    keys = sorted({key for row in request.benchmark.sets[FORGET] for key in row.meta.get("keys", ())})
    if not keys:
        name = request.benchmark.name
        raise ConfigError(f"eval.extras: entity reads the entities of rows (meta.keys), which {name} lacks")
    return [
        Metric(f"retain_{short}_Q_A_Prob", "probability", rows=RETAIN, reads={"tokens": ("answer",)}, where={key: keys})
        for short, key in (("entity", "keys"), ("other", "!keys"))
    ], {}


def _general(request: MetricGroupRequest) -> GroupMetrics:
    """Return the package's items of general ability, without items that the forget rows answer."""
    forget = request.benchmark.sets.get(request.benchmark.forget_set)
    sets = items_apart_from(forget.rows if isinstance(forget, ExampleSet) else ())
    panel = general_panel(sets)
    return [ability(panel), *panel], sets


def _arcsf(request: MetricGroupRequest) -> GroupMetrics:
    """Return the metrics of arcsf with its names and arithmetic; its utilities ignore real authors and world facts."""

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
    """A group of metrics: a description, the sets of rows it needs, and its function."""

    about: str
    rows: tuple[str, ...]
    make: Callable[[MetricGroupRequest], GroupMetrics]


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
    "general": MetricGroup("general ability: facts, short reasoning, school subjects, fluency", (), _general),
    "entity": MetricGroup("retain rows that share an entity with forget rows, or not", (FORGET, RETAIN), _entity),
    "arcsf": MetricGroup("the metrics of arcsf, under its names", (FORGET, RETAIN), _arcsf),
}  # fmt: skip
