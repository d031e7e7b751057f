"""Evaluation during training: a suite of metrics over a bounded number of examples, and the choice of the best model.

The caller makes a `MetricSuite` from a benchmark's metrics and examples; the training loop calls it. Nothing here
changes the state of a random generator that training draws from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from expunge.core import distributed
from expunge.core.errors import ConfigError, nearest
from expunge.core.numbers import finite
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator, GenerationLimits, Tables
from expunge.evaluation.kinds import find_kind
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import in_order, requests, with_parents
from expunge.training.checkpoint import put_weights, trained_weights
from expunge.training.config import EvaluateArgs, SelectionRule
from expunge.training.eval_losses import GenerationTable
from expunge.training.randomness import kept_random

FAST = ("probability", "truth_ratio", "extraction_strength")  # families of panel=fast
SIDES = ("forget", "retain")  # first words of the names of its rows
FORWARD = 2.0  # operations per parameter and token of a forward


def suite_metrics(panel: Sequence[Metric], args: EvaluateArgs, where: str = "trainer.args.evaluate") -> list[Metric]:
    """Return the metrics of a benchmark's suite that are evaluated during training, with the metrics that they read.

    Metrics that read gradients, several samples, an original model, an embedding model or several retain models are
    computed only after training. Raises ConfigError for an unknown name, for a metric that cannot be evaluated during
    training, or if the benchmark has no metric for `fast`.
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
                raise ConfigError(f"{where}.panel[{i}]: no metric named {name!r}{nearest(name, by_name)}")
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
        if not names:
            raise ConfigError(
                f"{where}.panel: fast selects no metric of this benchmark; list metrics of its suite, or use full"
            )
    metrics = with_parents(panel, names)
    known = {m.name for m in metrics}
    if args.chooses:
        for key, name in (("utility", utility_of(args)), ("forget", forget_of(args))):
            if name not in known:
                raise ConfigError(
                    f"{where}.rule.{key}: {name!r} is not evaluated during training{nearest(name, known)}"
                )
    return metrics


def _able(metric: Metric) -> bool:
    """Return whether a metric reads no more than forwards and greedy generations of the model itself."""
    read = [find_kind(kind) for kind in metric.reads]
    cheap = all(k.needs is None and k.settings != "sampling" and (k.cost <= FORWARD or k.settings) for k in read)
    return cheap and not metric.shadows


def _fast(metric: Metric) -> bool:
    plain = metric.family != "probability" or metric.tokens == ("answer",)
    return metric.family in FAST and plain and set(metric.reads) == {"tokens"} and (metric.rows or "").startswith(SIDES)


def utility_of(args: EvaluateArgs) -> str:
    """Return the name of the metric that the rule's floor limits."""
    return args.rule.utility or ("model_utility" if args.panel == "full" else "retain_Q_A_Prob")


def forget_of(args: EvaluateArgs) -> str:
    """Return the name of the metric that the rule minimises, maximises or compares with its target."""
    return args.rule.forget or ("forget_quality" if args.panel == "full" else "forget_Q_A_Prob")


@dataclass(frozen=True)
class MetricSuite:
    """Metrics with the examples they read, for a model that is evaluated again and again during training."""

    metrics: Sequence[Metric]
    """The metrics, with the metrics that they read."""
    sets: Mapping[str, ExampleSet]
    """The examples by name."""
    encoder: Encoder
    """The template and the tokenizer."""
    generation: Generation
    """How texts are generated."""
    rows: int | None = None
    """The maximum number of examples per set. None: all."""
    retain: Mapping[str, MetricResult] | None = field(default=None, kw_only=True)
    """The retain model's results on the same examples, if there is one."""
    limits: Mapping[str, GenerationLimits] = field(default_factory=dict, kw_only=True)
    """The benchmark's limits on generations, by set."""

    @property
    def evaluator(self) -> Evaluator:
        """Return the evaluator that scores the model, the one that evaluation jobs use."""
        return Evaluator(
            metrics=self.metrics,
            sets=self.sets,
            encoder=self.encoder,
            generation=self.generation,
            limits=self.limits,
            n_rows=self.rows,
        )

    def __call__(self, model: Any) -> dict[str, float]:
        """Return each metric's value, NaN if it is missing. The model and all random generators stay unchanged.

        Several processes divide the examples, and all return the same values. A model in shards reads every example in
        each process, because all processes must take part in each of its forwards.
        """
        with kept_random():
            tables = self.evaluator.score(model, whole=bool(distributed.sharded()))
        return {name: result.value for name, result in self.results(tables).items()}

    def results(self, tables: Tables) -> dict[str, MetricResult]:
        """Return the metrics over (rows, kind) -> records, cut to the examples of this suite."""
        return self.evaluator.results(tables, self.retain)

    @property
    def read(self) -> dict[str, int]:
        """Return the sets that are read, and the number of examples of each."""
        return {rows: len(self.evaluator.examples(rows)) for rows in sorted(requests(self.metrics).rows)}


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
    """The best of a run's evaluations so far, by the rule. goal: the target value of the forget metric."""

    utility: str
    forget: str
    floor: float
    goal: float
    start: EvalPoint | None = None
    best: EvalPoint | None = None
    since: int = 0  # evaluations after the best one

    def add(self, point: EvalPoint) -> bool:
        """Add an evaluation; return whether it is the best so far. The first one is the start, and no candidate."""
        if self.start is None:
            self.start = point
            return False
        if self.passes(point) and (self.best is None or self._rank(point) < self._rank(self.best)):
            self.best, self.since = point, 0
            return True
        self.since += 1
        return False

    def passes(self, point: EvalPoint) -> bool:
        """Return whether an evaluation's utility is at least the floor; False if a number is missing."""
        least = self.floor * self.start.values[self.utility] if self.start else math.nan
        return point.values[self.utility] >= least and math.isfinite(point.values[self.forget])

    def away(self, point: EvalPoint) -> float:
        """Return the distance of an evaluation from the goal; less is better."""
        value = point.values[self.forget]
        return math.copysign(1, -self.goal) * value if math.isinf(self.goal) else abs(value - self.goal)

    def _rank(self, point: EvalPoint) -> tuple[float, float, int]:
        return self.away(point), -point.values[self.utility], point.step

    def facts(self) -> dict[str, Any]:
        """Return the choice for the job's record."""
        target = {math.inf: "high", -math.inf: "low"}.get(self.goal, self.goal)
        rule = {"utility": self.utility, "floor": self.floor, "forget": self.forget, "target": target}
        if self.best is None:
            note = (
                f"no evaluation had {self.utility} of at least {self.floor:g} times the start's; the last model counts"
            )
            return {"rule": rule, "best_step": None, "note": note}
        value = self.best.values[self.forget]
        note = f"step {self.best.step}: {self.forget} {value:.4g} is the best of those with enough {self.utility}"
        return {"rule": rule, "best_step": self.best.step, "note": note}


def model_selection(args: EvaluateArgs, retain: Mapping[str, MetricResult] | None) -> ModelSelection:
    """Return the rule of these settings with its goal: the retain model's value if the rule names it and it exists."""
    rule: SelectionRule = args.rule
    forget = forget_of(args)
    goal = math.inf if forget == "forget_quality" or rule.target == "high" else -math.inf
    if not isinstance(rule.target, str):
        goal = rule.target
    elif rule.target == "retain" and forget != "forget_quality" and retain and forget in retain:
        goal = retain[forget].value if math.isfinite(retain[forget].value) else goal
    return ModelSelection(utility_of(args), forget, rule.floor, goal)


def is_due(
    args: EvaluateArgs, step: int, *, before: int, rows: int, n_epoch: int, n_samples: int, finegrained: int = 0
) -> bool:
    """Return whether an evaluation follows this step of a phase (from 1): at each whole multiple of the period.

    before: steps of earlier phases. rows: samples of a step. n_epoch, n_samples: of the phase. finegrained: up to this
    step of the run the period, if it is in steps, is a tenth.
    """
    if args.steps is not None:
        closely = before + step <= finegrained
        return (before + step) % (max(1, args.steps // 10) if closely else args.steps) == 0
    if args.every is None:
        return False
    period = args.every * n_epoch
    done, done_before = (min(k * rows, n_samples) for k in (step, step - 1))
    return math.floor(done / period + 1e-9) > math.floor(done_before / period + 1e-9)


def _agreed(values: Mapping[str, float]) -> dict[str, float]:
    """Return the first process's values in every process, so that all choose and stop alike."""
    shared = distributed.told({name: repr(value) for name, value in values.items()})
    return {name: float(value) for name, value in shared.items()}


class EvalCallback:
    """Evaluates a run between its steps; stores the trajectory and the weights of the best model; may stop the run.

    panel: computes a model's values by metric. choice: the rule; None without a best model. tell: receives the
    trajectory after each evaluation. table: continues prompts after each evaluation.
    """

    def __init__(
        self,
        args: EvaluateArgs,
        panel: Callable[[Any], Mapping[str, float]],
        choice: ModelSelection | None = None,
        tell: Callable[[Sequence[EvalPoint]], None] | None = None,
        table: GenerationTable | None = None,
    ) -> None:
        self.args, self._panel, self._choice, self._tell, self._table = args, panel, choice, tell, table
        self.points: list[EvalPoint] = []
        self._weights: dict[str, Tensor] = {}

    def begin(self, model: Any) -> None:
        """Evaluate the model before its first step if `at_start` is set."""
        if self.args.at_start:
            self.evaluate(model, step=0, epoch=0.0, phase=0)

    def evaluate(self, model: Any, *, step: int, epoch: float, phase: int) -> bool:
        """Evaluate the current model. Return whether the run should stop, because patience is used up."""
        values = _agreed(self._panel(model))
        self.points.append(EvalPoint(step, epoch, phase, values))
        if self._choice is not None and self._choice.add(self.points[-1]) and self.args.keep == "best":
            self._weights = trained_weights(model)
        if self._tell is not None:
            self._tell(self.points)
        if self._table is not None:
            self._table(model, step, len(self.points) - 1)
        patience = self.args.patience
        return patience is not None and self._choice is not None and self._choice.since >= patience

    @property
    def best_step(self) -> int | None:
        """The step of the best model so far with keep=best; None before there is one."""
        if self.args.keep != "best" or self._choice is None or self._choice.best is None:
            return None
        return self._choice.best.step

    def end(self, model: Any) -> dict[str, Any]:
        """Copy the best weights into the model if keep=best; return the choice for the record."""
        facts: dict[str, Any] = {} if self._choice is None else self._choice.facts()
        step = self.points[-1].step if self.points else None
        if self._weights:
            put_weights(model, self._weights)
            step = facts["best_step"]
        return {"evaluations": len(self.points), "kept_step": step, **facts}

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        best = self._choice.best.step if self._choice and self._choice.best else None
        since = self._choice.since if self._choice else 0
        state = {"points": [asdict(p) for p in self.points], "best": best, "since": since, "weights": self._weights}
        return state if self._table is None else {**state, "table": self._table.lines}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a state of a checkpoint."""
        self.points = [EvalPoint(**p) for p in state["points"]]
        self._weights = dict(state["weights"])
        if self._table is not None:
            self._table.lines = [dict(line) for line in state["table"]]
        if self._choice is not None and self.points:
            self._choice.start, self._choice.since = self.points[0], state["since"]
            self._choice.best = next((p for p in self.points[1:] if p.step == state["best"]), None)
        if self._tell is not None:
            self._tell(self.points)
