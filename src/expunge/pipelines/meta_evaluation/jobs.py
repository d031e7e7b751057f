"""The jobs of a meta-evaluation: pools of models, relearned and quantised models, and the table of metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from expunge.benchmarks import Benchmark
from expunge.benchmarks.metric_suite import FORGET
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.files import write_text
from expunge.core.names import PartName
from expunge.engine.job import Job, JobContext, unkeyed
from expunge.engine.show import show
from expunge.engine.store import Store
from expunge.methods.objective import objective
from expunge.methods.weight_edits import make_weight_edit
from expunge.metrics.compute import in_order
from expunge.metrics.results import read_results
from expunge.pipelines.meta_evaluation.config import MetaEvaluationConfig
from expunge.pipelines.meta_evaluation.formulas import (
    HEADS,
    TITLE,
    AttackedModel,
    Formula,
    MetaLine,
    cells,
    from_csv,
    meta_line,
    to_csv,
    to_markdown,
)
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.report.section import GridSection, Section
from expunge.training.config import TrainArgs
from expunge.training.phases import names_of_args

TABLES = ("meta.csv", "meta.md")
FORMULAS: Mapping[Formula, str] = {"openunlearning": "arXiv:2506.12618", "two_sided": "two-sided, arXiv:2605.24614"}
WAYS = ("before", "relearned", "quantized")


class MeasuredModel(Protocol):
    """A model of the study's graph."""

    @property
    def role(self) -> str:
        """Role in the study."""

    @property
    def train_seed(self) -> int:
        """Seed of training."""

    @property
    def model(self) -> Job | None:
        """Its training job."""

    @property
    def metrics(self) -> Job:
        """Its metrics job."""


@dataclass(frozen=True)
class _NamedModel:
    name: str
    model: Job


def check_meta(study: StudyConfig) -> None:
    """Raise ConfigError if a study's pools are too small, or it is of a kind without pools."""
    if study.meta is None:
        return
    if study.requests != 1:
        raise ConfigError("meta: not together with `requests`; the pools know or lack all forget rows")
    n = len(study.seeds.train) * (1 + len(study.meta.variations))
    if n < 3:
        raise ConfigError(
            f"meta: {n} retain models, one of which is the control; give at least 3 by seeds.train or meta.variations"
        )
    seen = [study.train]
    for i in range(len(study.meta.variations)):
        args = dataclasses.replace(_varied(study, i), seed=study.train.seed)
        if args in seen:
            raise ConfigError(f"meta.variations[{i}]: trains as `train` or an earlier variation does; change something")
        seen.append(args)
    _relearning(study)


def _varied(study: StudyConfig, i: int) -> TrainArgs:
    """Return the training settings of a variation."""
    meta = study.meta or MetaEvaluationConfig()
    where = f"meta.variations[{i}]"
    change = dict(meta.variations[i])
    if "seed" in change:
        raise ConfigError(f"{where}.seed: seeds are an axis of the study; list them in seeds.train")
    return decode(TrainArgs, {**dataclasses.asdict(study.train), **change}, where=where)


def _relearning(study: StudyConfig) -> TrainArgs:
    """Return the settings of one epoch on the forget rows: the study's `unlearn` with the changes of `meta.relearn`."""
    meta = study.meta or MetaEvaluationConfig()
    return decode(TrainArgs, {**study.unlearn, "num_train_epochs": 1, **meta.relearn}, where="meta.relearn")


def meta_part_names(study: StudyConfig) -> list[PartName]:
    """Return the names of parts of the model in the settings of the pools and of relearning, with their keys."""
    count = len(study.meta.variations) if study.meta else 0
    varied = {f"meta.variations[{i}]": _varied(study, i) for i in range(count)} | {"meta.relearn": _relearning(study)}
    return [name for key, args in varied.items() for name in names_of_args(args, key)]


def meta_job(study: StudyConfig, maker: TrainingJobs, start: Job | None, leaves: Sequence[MeasuredModel]) -> Job | None:
    """Return the job that writes the table of metrics, above everything it compares; None without `meta`."""
    if study.meta is None:
        return None
    benchmark = maker.setting.benchmark
    for role in ("full", "retain"):
        if not getattr(benchmark, f"{role}_sets"):
            raise ConfigError(f"meta: benchmark={benchmark.name} trains no {role} model, so there are no pools")
    first = study.seeds.train[0]
    control = next(x for x in leaves if x.role == "retain" and x.train_seed == first)
    full = next(x for x in leaves if x.role == "full" and x.train_seed == first)

    def measured(one: _NamedModel) -> Job:
        return maker.metrics(one.name, maker.records(one.name, one.model, full.model), control.metrics)

    pools = {role: [measured(one) for one in _pool(study, maker, start, leaves, role)] for role in ("full", "retain")}
    parents = {f"{role} {i}": job for role, jobs in pools.items() for i, job in enumerate(jobs)}
    changed: list[str] = []
    for leaf in leaves:
        if (leaf.role != "unlearn" and leaf is not control) or leaf.model is None:
            continue
        name = leaf.metrics.label
        who = "control" if leaf is control else f"unlearned {len(changed)}"
        if leaf is not control:
            changed.append(name)
        sides = {"retain": (benchmark.forget_set,)}
        again = maker.fit(f"{name} relearned", leaf.model, objective("finetune"), sides, _relearning(study))
        rounded = maker.edited(
            f"{name} int{study.meta.bits}", make_weight_edit("quantize", {"bits": study.meta.bits}), leaf.model, ()
        )
        forms = {"before": leaf.model, "relearned": again, "quantized": rounded}
        for way, model in forms.items():
            parents[f"{who} {way}"] = measured(_NamedModel(model.label, model))
    parents["whole"] = measured(_NamedModel(full.metrics.label, parents_model(full)))
    return MetaJob(
        label=study.name,
        parents=parents,
        metrics=tuple(_about_forgetting(benchmark)),
        utility=benchmark.measured_utility,
        utility_floor=study.meta.utility_floor,
        formula=study.meta.formula,
        unlearned=tuple(changed),
        bits=study.meta.bits,
        eval_file=maker.eval_file,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class MetaJob(Job):
    """The table of metrics, from their values on all compared models.

    Parents: metrics of `full <i>` and `retain <i>` (the pools), `control <way>`, `unlearned <i> <way>` and `whole`.
    """

    kind: ClassVar[str] = "meta"

    metrics: tuple[str, ...]
    utility: str
    utility_floor: float
    formula: Formula
    unlearned: tuple[str, ...] = unkeyed()
    """The names of the unlearned models."""
    bits: int = unkeyed()
    eval_file: str = unkeyed()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compute the faithfulness and the robustness of each metric."""
        values = {
            role: {name: result.value for name, result in read_results(path / self.eval_file)[0].items()}
            for role, path in inputs.items()
        }
        n = len(self.unlearned)
        useful = [i for i in range(n) if _useful(values, i, self.utility, self.utility_floor)]
        lines = [_line(name, values, useful, self.formula) for name in self.metrics]
        about = _about(values, n, len(useful), bits=self.bits, floor=self.utility_floor, formula=self.formula)
        write_text(out / TABLES[0], to_csv(lines))
        write_text(out / TABLES[1], to_markdown(lines, about))
        context.progress(1, 1)
        return {"metrics": len(lines), "unlearned": len(useful), "left_out": n - len(useful)}


def _about_forgetting(benchmark: Benchmark) -> list[str]:
    """Return the metrics that read forget rows, directly or not; all but utility if there are none."""
    reads = {FORGET, benchmark.forget_set}
    names: dict[str, None] = {}
    for metric in in_order(benchmark.panel):
        if metric.rows in reads or any(parent in names for parent in metric.parents.values()):
            names[metric.name] = None
    return [m.name for m in benchmark.panel if (m.name in names if names else True) and m.name != benchmark.utility]


def parents_model(leaf: MeasuredModel) -> Job:
    """Return the job of a trained model."""
    if leaf.model is None:
        raise ConfigError("meta: the pools need models that the study trains")
    return leaf.model


def _pool(
    study: StudyConfig, maker: TrainingJobs, start: Job | None, leaves: Sequence[MeasuredModel], role: str
) -> list[_NamedModel]:
    """Return the models of one pool: those of the study but for the control, and those of the variations."""
    first = study.seeds.train[0]
    own = [x for x in leaves if x.role == role and not (role == "retain" and x.train_seed == first)]
    out = [_NamedModel(x.metrics.label, parents_model(x)) for x in own]
    rows = {"retain": getattr(maker.setting.benchmark, f"{role}_sets")}
    for i in range(len(study.meta.variations) if study.meta else 0):
        args = _varied(study, i)
        for seed in study.seeds.train:
            label = f"{role}-v{i + 1}-s{seed}"
            model_job = maker.fit(label, start, objective("finetune"), rows, dataclasses.replace(args, seed=seed))
            out.append(_NamedModel(label, model_job))
    return out


Values = Mapping[str, Mapping[str, float]]  # model -> metric -> value


def _useful(values: Values, i: int, utility: str, floor: float) -> bool:
    """Return whether an unlearned model has enough of the full model's utility; True without a comparison."""
    mine, whole = (values[who].get(utility, math.nan) for who in (f"unlearned {i} before", "whole"))
    return math.isnan(mine) or math.isnan(whole) or mine >= floor * whole


def _line(metric: str, values: Values, useful: Sequence[int], formula: Formula) -> MetaLine:
    def of(who: str) -> float:
        return values[who].get(metric, math.nan)

    def changed(who: str) -> AttackedModel:
        return AttackedModel(*(of(f"{who} {way}") for way in WAYS))

    with_P, without_N = ([of(who) for who in values if who.startswith(f"{role} ")] for role in ("full", "retain"))
    return meta_line(
        metric, with_P, without_N, [changed(f"unlearned {i}") for i in useful], changed("control"), formula
    )


def _about(models: Iterable[str], n: int, n_useful: int, *, bits: int, floor: float, formula: Formula) -> str:
    """Describe the table. models: the names of the compared ones, such as `full 0`."""
    p, without = (sum(who.startswith(f"{role} ") for who in models) for role in ("full", "retain"))
    return (
        f"Faithfulness: the AUC of separating {p} models trained with the forget rows from {without} trained without "
        "them, with its 95 % interval over models. R, Q: the stability of the metric under relearning "
        f"and {bits}-bit weights, 1 at best. They are over {n_useful} of {n} unlearned models (the others are below "
        f"{floor:g} of the full model's utility). Models that by the metric itself still have the knowledge are left "
        f"out; formulas: {FORMULAS[formula]}. Robustness is the harmonic mean of R and Q, overall "
        "that of faithfulness and robustness."
    )


def meta_section(job: Job, record: Mapping[str, Any], store: Store, meta: MetaEvaluationConfig) -> Section:
    """Return the table of a finished meta-evaluation, for the report."""
    facts = record["facts"]
    n_useful, n = facts["unlearned"], facts["unlearned"] + facts["left_out"]
    about = _about(job.parents, n, n_useful, bits=meta.bits, floor=meta.utility_floor, formula=meta.formula)
    lines = from_csv((store.path(job) / TABLES[0]).read_text(encoding="utf-8"))
    grid = GridSection("The metrics, the best first.", HEADS, tuple(cells(lines)), HEADS[0], HEADS[-1:])
    return Section("meta", TITLE, "Meta-evaluation", about, (grid,))


def show_meta(job: Job, store: Store, folder: Path) -> list[Path]:
    """Return the tables of a finished meta-evaluation in a folder; earlier ones are replaced."""
    return show(job, store, folder, names={name: name for name in TABLES}, replace=True)
