"""The metrics of evaluations during training, their moments, and the choice of the best model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.benchmarks.api import Benchmark
from expunge.core.errors import ConfigError, nearest
from expunge.core.numbers import finite
from expunge.evaluation.kinds import find_kind
from expunge.metrics.api import Metric, MetricResult, families
from expunge.metrics.compute import in_order, with_parents
from expunge.training.evaluate_args import EvaluateArgs, SelectionRule

if TYPE_CHECKING:
    from expunge.core.arithmetic import Arithmetic

FAST = ("probability", "truth_ratio", "extraction_strength")  # families of panel=fast
SIDES = ("forget", "retain")  # first words of the names of its rows
FORWARD = 2.0  # operations per parameter and token of a forward


def suite_metrics(
    panel: Sequence[Metric], args: EvaluateArgs, where: str = "trainer.args.evaluate", losses: Collection[str] = ()
) -> list[Metric]:
    """Return the metrics of a benchmark's suite that are evaluated during training, with the metrics that they read.

    Metrics that read gradients, several samples, an original model, an embedding model or several retain models are
    computed only after training. losses: the names of losses, which the rule may read too. Raises ConfigError for an
    unknown name, for a metric that cannot be evaluated during training, or if the benchmark has no metric for `fast`.
    """
    by_name = {m.name: m for m in panel}
    able = {m.name for m in in_order(panel) if _able(m)}
    excluded = {m.name for m in panel} - able
    for metric in in_order(panel):
        if excluded & set(metric.parents.values()):
            excluded.add(metric.name)
    if isinstance(args.panel, tuple):
        for i, name in enumerate(args.panel):
            if name not in by_name:
                added = f"; eval.metrics=[{name}] adds its metrics; list them here, such as forget_{name}"
                more = added if name in families() and families()[name].reads else nearest(name, by_name)
                raise ConfigError(f"{where}.panel[{i}]: no metric named {name!r}{more}")
            if name in excluded:
                raise ConfigError(
                    f"{where}.panel[{i}]: {name} is computed only after training, because it reads more than answer "
                    "tokens and greedy generations"
                )
        names: Collection[str] = args.panel
    elif args.panel == "full":
        names = [m.name for m in panel if m.name not in excluded]
    else:
        names = [m.name for m in panel if m.name not in excluded and _fast(m)]
        if not names and (panel or not losses):
            raise ConfigError(
                f"{where}.panel: fast selects no metric of this benchmark; list metrics of its suite, or use full"
            )
    metrics = with_parents(panel, names)
    known = {m.name for m in metrics} | set(losses)
    if args.chooses and (panel or args.rule != SelectionRule()):  # with losses alone the lowest is best
        for key, name in rule_metrics(args):
            if name not in known:
                more = f"; set {where}.panel=full" if name in by_name and name not in excluded else nearest(name, known)
                raise ConfigError(f"{where}.rule.{key}: {name!r} is not evaluated during training{more}")
    return metrics


def _able(metric: Metric) -> bool:
    """Return whether a metric reads no more than forwards and greedy generations of the model itself."""
    read = [find_kind(kind) for kind in metric.reads]
    cheap = all(k.needs is None and k.settings != "sampling" and (k.cost <= FORWARD or k.settings) for k in read)
    return cheap and not metric.shadows


def _fast(metric: Metric) -> bool:
    plain = metric.family != "probability" or metric.tokens == ("answer",)
    return metric.family in FAST and plain and set(metric.reads) == {"tokens"} and (metric.rows or "").startswith(SIDES)


def rule_metrics(args: EvaluateArgs) -> list[tuple[str, str]]:
    """Return the metrics that the rule reads, each with the key that names it."""
    if args.rule.formula is not None:
        from expunge.core.arithmetic import parse_arithmetic

        return [("formula", name) for name in parse_arithmetic(args.rule.formula).names]
    return [("utility", utility_of(args)), ("forget", forget_of(args))]


def utility_of(args: EvaluateArgs) -> str:
    """Return the name of the metric that the rule's floor limits."""
    return args.rule.utility or ("model_utility" if args.panel == "full" else "retain_Q_A_Prob")


def forget_of(args: EvaluateArgs) -> str:
    """Return the name of the metric that the rule minimises, maximises or compares with its target."""
    return args.rule.forget or ("forget_quality" if args.panel == "full" else "forget_Q_A_Prob")


@dataclass(frozen=True)
class EvalPoint:
    """One evaluation: the steps, the epochs (passes of its phase) and the phase (from 1; 0: the start) before it."""

    step: int
    epoch: float
    phase: int
    values: Mapping[str, float]

    @property
    def line(self) -> dict[str, Any]:
        """The line of trajectory.jsonl; a missing number is null."""
        values = {name: finite(value) for name, value in self.values.items()}
        return {"step": self.step, "epoch": round(self.epoch, 6), "phase": self.phase, **values}


@dataclass
class ModelSelection:
    """The best of a run's evaluations so far, by the rule. goal: the target value of the forget metric.

    enough: a distance from it that suffices. formula: its largest value is best; the metrics, the floor and the goal
    then have no effect.
    """

    utility: str
    forget: str
    floor: float
    goal: float
    enough: float = -math.inf
    start: EvalPoint | None = None
    best: EvalPoint | None = None
    last: EvalPoint | None = None
    since: int = 0  # evaluations after the best one, without those whose utility returns towards the floor
    formula: Arithmetic | None = None

    def add(self, point: EvalPoint) -> bool:
        """Add an evaluation; return whether it is the best so far. The first one is the start, and no candidate."""
        before, self.last = self.last, point
        if self.start is None:
            self.start = point
            return False
        if self.passes(point) and (self.best is None or self._rank(point) < self._rank(self.best)):
            self.best, self.since = point, 0
            return True
        self.since += not self._returns(before, point)
        return False

    def _returns(self, before: EvalPoint | None, point: EvalPoint) -> bool:
        """Return whether utility is under the floor and higher than one evaluation ago.

        Many methods lower utility in their first steps, and the retain loss then brings it back.
        """
        if before is None or self.formula is not None:
            return False
        return before.values[self.utility] < point.values[self.utility] < self._least

    def passes(self, point: EvalPoint) -> bool:
        """Return whether an evaluation's utility is at least the floor; False if a number is missing."""
        if self.formula is not None:
            return math.isfinite(self.formula.value(point.values))
        return point.values[self.utility] >= self._least and math.isfinite(point.values[self.forget])

    @property
    def _least(self) -> float:
        """The smallest utility that the floor allows."""
        return self.floor * self.start.values[self.utility] if self.start else math.nan

    def away(self, point: EvalPoint) -> float:
        """Return the distance of an evaluation from the goal; less is better."""
        if self.formula is not None:
            return -self.formula.value(point.values)
        value = point.values[self.forget]
        return math.copysign(1, -self.goal) * value if math.isinf(self.goal) else abs(value - self.goal)

    def _rank(self, point: EvalPoint) -> tuple[float, float, int]:
        if self.formula:
            return self.away(point), 0.0, point.step
        return max(self.away(point), self.enough), -point.values[self.utility], point.step

    def facts(self) -> dict[str, Any]:
        """Return the choice for the job's record."""
        if self.formula is not None:
            return self._formula_facts(self.formula)
        target = {math.inf: "high", -math.inf: "low"}.get(self.goal, self.goal)
        rule = {"utility": self.utility, "floor": self.floor, "forget": self.forget, "target": target}
        if math.isfinite(self.enough):
            rule["enough"] = self.enough
        if self.best is None:
            note = (
                f"no evaluation had {self.utility} of at least {self.floor:g} times the start's; the last model counts"
            )
            return {"rule": rule, "best_step": None, "note": note}
        value = self.best.values[self.forget]
        note = f"step {self.best.step}: {self.forget} {value:.4g} is the best of those with enough {self.utility}"
        return {"rule": rule, "best_step": self.best.step, "note": note}

    def _formula_facts(self, formula: Arithmetic) -> dict[str, Any]:
        rule = {"formula": formula.text}
        if self.best is None:
            note = f"no evaluation had a value of {formula.text}; the last model counts"
            return {"rule": rule, "best_step": None, "note": note}
        note = f"step {self.best.step}: {formula.text} = {formula.value(self.best.values):.4g} is the largest value"
        return {"rule": rule, "best_step": self.best.step, "note": note}


def model_selection(
    args: EvaluateArgs, retain: Mapping[str, MetricResult] | None, loss: str | None = None
) -> ModelSelection:
    """Return the rule of these settings with its goal: the retain model's value if the rule names it and it exists.

    loss: the name of a loss, of which the lowest value is best if the rule has no formula.
    """
    rule: SelectionRule = args.rule
    forget = forget_of(args)
    goal = math.inf if forget == "forget_quality" or rule.target == "high" else -math.inf
    if not isinstance(rule.target, str):
        goal = rule.target
    elif rule.target == "retain" and forget != "forget_quality" and retain and forget in retain:
        goal = retain[forget].value if math.isfinite(retain[forget].value) else goal
    formula, text = None, f'-"{loss}"' if rule.formula is None and loss else rule.formula
    if text is not None:
        from expunge.core.arithmetic import parse_arithmetic

        formula = parse_arithmetic(text)
    enough = -math.inf if rule.enough is None or goal == math.inf else rule.enough
    return ModelSelection(utility_of(args), forget, rule.floor, goal, enough=enough, formula=formula)


def loss_sets(benchmark: Benchmark, args: EvaluateArgs, where: str = "trainer.args.evaluate") -> tuple[str, ...]:
    """Return the sets whose mean token loss is read during training. Raises ConfigError for an unknown set."""
    named = benchmark.loss_sets if args.losses is None else args.losses
    for i, name in enumerate(named):
        if name not in benchmark.sets:
            raise ConfigError(f"{where}.losses[{i}]: no set named {name!r}{nearest(name, benchmark.sets)}")
    if args.prompts and not named:
        raise ConfigError(f"{where}.prompts: prompts need sets; list them in {where}.losses")
    return named


def watched_metrics(benchmark: Benchmark, args: EvaluateArgs) -> list[Metric]:
    """Return the metrics of evaluations during training; none if the benchmark has only losses. Raises ConfigError."""
    return suite_metrics(benchmark.panel, args, losses=[f"loss/{name}" for name in loss_sets(benchmark, args)])
