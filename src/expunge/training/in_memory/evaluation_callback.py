"""Evaluation during training: a suite of metrics over a bounded number of examples, and the choice of the best model.

The caller gives an `Evaluator` with a benchmark's metrics and examples; the training loop calls it. Nothing here
changes the state of a random generator that training draws from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from expunge.core import distributed
from expunge.evaluation.evaluator import Evaluator
from expunge.training.checkpoint import kept_random, put_weights, trained_weights
from expunge.training.eval_losses import GenerationTable
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.model_selection import EvalPoint, ModelSelection


def suite_values(evaluator: Evaluator, model: Any) -> dict[str, float]:
    """Return the value of each metric, NaN if it is missing. The model and all random generators stay unchanged.

    Several processes divide the examples, and all return the same values. A model in shards reads every example in
    each process, because all processes must take part in each of its forwards.
    """
    with kept_random():
        tables = evaluator.score(model, whole=bool(distributed.sharded()))
    return {name: result.value for name, result in evaluator.results(tables).items()}


def _agreed(values: Mapping[str, float]) -> dict[str, float]:
    """Return the first process's values in every process, so that all choose and stop alike."""
    shared = distributed.broadcast({name: repr(value) for name, value in values.items()})
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
            self._choice.last = self.points[-1]
            self._choice.best = next((p for p in self.points[1:] if p.step == state["best"]), None)
        if self._tell is not None:
            self._tell(self.points)
