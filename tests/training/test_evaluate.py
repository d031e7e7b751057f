"""Evaluations on the way: when, of what, and that training does not feel them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.core.arithmetic import parse_arithmetic
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.methods import objective
from expunge.metrics.api import Metric, MetricResult
from expunge.training.checkpoint import kept_random
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs, SelectionRule, is_due
from expunge.training.in_memory.evaluation_callback import EvalCallback
from expunge.training.loop import TrainResult, train
from expunge.training.model_selection import EvalPoint, ModelSelection, model_selection, suite_metrics
from expunge.training.schedule import Schedule

FAST: dict[str, Any] = {
    "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "logging_steps": 1,
}  # fmt: skip


def point(step: int, u: float, f: float) -> EvalPoint:
    return EvalPoint(step, float(step), 1, {"u": u, "f": f})


def best_of(points: list[tuple[float, float]], goal: float = -math.inf, floor: float = 0.9) -> ModelSelection:
    result = ModelSelection("u", "f", floor, goal)
    for step, (u, f) in enumerate(points):
        result.add(point(step, u, f))
    return result


@pytest.mark.parametrize(
    ("goal", "best"),
    [(-math.inf, 3), (math.inf, 1), (0.5, 2), (0.44, 2), (0.2, 3)],
)
def test_the_rule_by_hand(goal: float, best: int) -> None:
    """The floor is 0.9 * 0.8 = 0.72; the start (f = 0.1) is no candidate, and step 4 lacks utility."""
    points = [(0.8, 0.1), (0.8, 0.9), (0.75, 0.5), (0.73, 0.3), (0.71, 0.0), (0.9, math.nan)]
    result = best_of(points, goal)
    assert result.best is not None and result.best.step == best
    assert result.since == 5 - best


def test_returning_utility_uses_no_patience() -> None:
    """The floor is 0.9: 0.6, 0.5 and 0.5 count, 0.7 and 0.8 do not, and 0.95 is the best."""
    utilities = [1.0, 0.6, 0.5, 0.7, 0.5, 0.8]
    result = best_of([(u / 1.25, 0.1) for u in utilities], -math.inf)
    assert result.best is None and result.since == 3
    assert result.add(point(6, 0.95 / 1.25, 0.1)) and result.since == 0


def test_a_formula_by_hand() -> None:
    """0.5 (u + f): 0.85, 0.625, 0.515, 0.85; the start is no candidate, and the earlier of equals is best."""
    result = ModelSelection("u", "f", 0.9, math.inf, formula=parse_arithmetic("0.5*(u+f)"))
    for step, (u, f) in enumerate([(1.0, 1.0), (0.8, 0.9), (0.75, 0.5), (0.73, 0.3), (0.9, 0.8), (0.9, math.nan)]):
        result.add(point(step, u, f))
    assert result.best is not None and result.best.step == 1 and result.since == 4
    facts = result.facts()
    assert facts == {
        "rule": {"formula": "0.5*(u+f)"}, "best_step": 1, "note": "step 1: 0.5*(u+f) = 0.85 is the largest value",
    }  # fmt: skip
    none = ModelSelection("u", "f", 0.9, math.inf, formula=parse_arithmetic("u/f"))
    none.add(point(0, 1.0, 1.0))
    none.add(point(1, 1.0, 0.0))
    assert none.facts()["best_step"] is None and "the last model counts" in none.facts()["note"]


def test_without_metrics_the_lowest_loss_is_best() -> None:
    args = decode(EvaluateArgs, {"steps": 2, "keep": "best"})
    assert suite_metrics([], args, losses=["loss/test"]) == []
    choice = model_selection(args, None, "loss/test")
    for step, loss in enumerate([1.0, 3.0, 2.0, 2.5]):
        choice.add(EvalPoint(step, 0.0, 1, {"loss/test": loss, "loss/other": -loss}))
    assert choice.facts()["best_step"] == 2
    named = decode(EvaluateArgs, {"steps": 2, "keep": "best", "rule": {"formula": '-"loss/other"'}})
    with pytest.raises(ConfigError, match=r"rule.formula: 'loss/other' is not evaluated"):
        suite_metrics([], named, losses=["loss/test"])
    assert suite_metrics([], named, losses=["loss/test", "loss/other"]) == []
    formula = model_selection(named, None, "loss/test").formula
    assert formula is not None and formula.text == '-"loss/other"'


def test_a_formula_is_part_of_a_key_and_its_absence_is_not() -> None:
    plain = decode(EvaluateArgs, {"every": 1, "keep": "best"})
    assert "formula" not in plain.identity["rule"]
    own = decode(EvaluateArgs, {"every": 1, "keep": "best", "rule": {"formula": "retain_Q_A_Prob - forget_Q_A_Prob"}})
    assert own.identity["rule"]["formula"] == "retain_Q_A_Prob - forget_Q_A_Prob" and not own.reads_retain
    assert {"forget_Q_A_Prob", "retain_Q_A_Prob"} <= {m.name for m in suite_metrics(tofu_panel(), own)}
    assert model_selection(own, None).formula is not None


def test_of_equals_the_higher_utility_then_the_earlier() -> None:
    result = best_of([(1.0, 1.0), (0.95, 0.4), (0.98, 0.6), (0.98, 0.4), (0.98, 0.4)], goal=0.5)
    assert result.best is not None and result.best.step == 2


@pytest.mark.parametrize(
    ("enough", "goal", "best"),
    [
        (-math.inf, -math.inf, 4),  # the lowest
        (0.05, -math.inf, 3),  # 0.04 and 0.01 are low enough: more utility
        (0.3, -math.inf, 2),
        (0.005, -math.inf, 4),  # none is low enough: the lowest
        (0.12, 0.3, 1),  # 0.4 and 0.2 are near enough to 0.3
    ],
)
def test_of_evaluations_that_forget_enough_the_most_useful_is_best(enough: float, goal: float, best: int) -> None:
    result = ModelSelection("u", "f", 0.5, goal, enough)
    for step, (u, f) in enumerate([(1.0, 0.9), (0.98, 0.4), (0.97, 0.2), (0.95, 0.04), (0.9, 0.01)]):
        result.add(point(step, u, f))
    assert result.best is not None and result.best.step == best


def test_the_rule_without_enough_has_the_fingerprint_of_before() -> None:
    assert "enough" not in EvaluateArgs(steps=1).identity["rule"]
    assert EvaluateArgs(steps=1, rule=SelectionRule(enough=0.1)).identity["rule"]["enough"] == 0.1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"enough": -0.1}, "enough: must be a number of at least 0, got -0.1"),
        ({"enough": math.nan}, "enough: should be a finite number, got nan"),
        ({"enough": 0.1, "target": "high"}, "a high target has none"),
        ({"enough": 0.1, "forget": "forget_quality"}, "a high target has none"),
    ],
)
def test_wrong_values_of_enough(keys: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=words):
        SelectionRule(**keys)


def test_none_passes() -> None:
    result = best_of([(1.0, 1.0), (0.5, 0.4), (math.nan, 0.0)])
    assert result.best is None
    facts = result.facts()
    assert facts["best_step"] is None
    assert "the last model counts" in facts["note"]
    assert facts["rule"] == {"utility": "u", "floor": 0.9, "forget": "f", "target": "low"}


@pytest.mark.parametrize(
    ("rule", "retain", "goal"),
    [
        ({}, {"forget_Q_A_Prob": MetricResult(0.25)}, 0.25),
        ({}, None, -math.inf),
        ({}, {"forget_Q_A_Prob": MetricResult(math.nan, "none")}, -math.inf),
        ({"target": "low"}, {"forget_Q_A_Prob": MetricResult(0.25)}, -math.inf),
        ({"target": "high"}, None, math.inf),
        ({"target": 0.1}, {"forget_Q_A_Prob": MetricResult(0.25)}, 0.1),
        ({"forget": "forget_quality"}, {"forget_quality": MetricResult(1.0)}, math.inf),
    ],
)
def test_targets(rule: dict[str, Any], retain: Any, goal: float) -> None:
    args = EvaluateArgs(every=1, keep="best", rule=SelectionRule(**rule))
    assert model_selection(args, retain).goal == goal


def due(args: EvaluateArgs, n_steps: int, **keys: int) -> list[int]:
    return [k for k in range(1, n_steps + 1) if is_due(args, k, **{"before": 0, **keys})]


def test_when() -> None:
    """7 rows an epoch, 2 a step, 21 samples: epochs end within steps 4 and 7, and with step 11."""
    epochs = {"rows": 2, "n_epoch": 7, "n_samples": 21}
    assert due(EvaluateArgs(every=1), 11, **epochs) == [4, 7, 11]
    assert due(EvaluateArgs(every=1.5), 11, **epochs) == [6, 11]
    assert due(EvaluateArgs(every=0.5), 4, **epochs) == [2, 4]
    assert due(EvaluateArgs(steps=4), 11, **epochs) == [4, 8]
    assert due(EvaluateArgs(steps=4), 5, before=3, **epochs) == [1, 5]
    assert due(EvaluateArgs(), 11, **epochs) == []


def test_the_fast_panel_reads_no_texts() -> None:
    result = suite_metrics(tofu_panel(), EvaluateArgs(every=1))
    assert {m.name for m in result} == {
        "forget_Q_A_Prob", "retain_Q_A_Prob", "forget_truth_ratio", "retain_Truth_Ratio", "extraction_strength",
    }  # fmt: skip
    assert all("texts" not in m.reads for m in result)


def test_the_full_panel_and_named_metrics() -> None:
    panel = (*tofu_panel(), Metric("grads", "gradnorm_score", rows="forget_eval", reads={"grads": ("answer",)}))
    assert {m.name for m in suite_metrics(panel[:-1], EvaluateArgs(every=1, panel="full"))} == {
        m.name for m in panel[:-1]
    }
    named = suite_metrics(tofu_panel(), EvaluateArgs(every=1, panel=("forget_quality",)))
    assert [m.name for m in named] == ["forget_truth_ratio", "forget_quality"]  # with what it reads


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"panel": ["forget_Q_A_Pob"]}, r"evaluate.panel\[0\]: no metric named 'forget_Q_A_Pob'; did you mean"),
        (
            {"panel": ["answer_in_text"]},
            r"panel\[0\]: no metric .*; eval.metrics=\[answer_in_text\] adds .*, such as forget_answer_in_text$",
        ),
        ({"keep": "best", "rule": {"forget": "model_utility"}}, r"'model_utility' is not .*; set .*panel=full$"),
        (
            {"keep": "best", "rule": {"formula": "forget_Q_A_Pob + 1"}},
            r"evaluate.rule.formula: 'forget_Q_A_Pob' is not evaluated during training; did you mean",
        ),
        ({"keep": "best", "panel": ["forget_Q_A_Prob"]}, r"evaluate.rule.utility: 'retain_Q_A_Prob' is not evaluated"),
    ],
)
def test_wrong_metrics(keys: dict[str, Any], words: str) -> None:
    args = decode(EvaluateArgs, {"every": 1, **keys})
    with pytest.raises(ConfigError, match=words):
        suite_metrics(tofu_panel(), args)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"every": 0}, r"evaluate.every: must be a number of epochs > 0, got 0"),
        ({"every": 1, "steps": 2}, r"evaluate.every: cannot be set together with steps"),
        ({"keep": "best"}, r"evaluate.keep: is set, .* every \(epochs\) or steps"),
        ({"every": 1, "patience": 0}, r"evaluate.patience: must be at least 1"),
        ({"every": 1, "patience": 1, "at_start": False}, r"evaluate.patience: needs at_start"),
        ({"every": 1, "rows": 0}, r"evaluate.rows: must be at least 1"),
        ({"every": 1, "panel": []}, r"evaluate.panel: must be fast, full or a list"),
        ({"every": 1, "rule": {"floor": 2}}, r"evaluate.rule.floor: must be at least 0 and at most 1"),
        ({"every": 1, "rule": {"formula": "a.b"}}, r"evaluate.rule.formula: must be a formula, and 'a.b' is no part"),
        (
            {"every": 1, "rule": {"formula": "a", "floor": 0.5}},
            r"evaluate.rule.floor: has no effect together with formula",
        ),
        ({"every": 1, "evry": 2}, r"evaluate.evry: unknown key; did you mean 'every'"),
    ],
)
def test_wrong_settings(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decode(TrainArgs, {"evaluate": keys})


def test_evaluations_leave_no_trace_where_they_are_off() -> None:
    assert "evaluate" not in TrainArgs().identity
    assert TrainArgs(evaluate=EvaluateArgs(every=1)).identity["evaluate"]["every"] == 1


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def noisy(model: Any) -> dict[str, float]:
    """A panel that draws from every generator, and leaves them as they were, as `Panel` does."""
    with kept_random():
        random.random()
        np.random.random(3)
        torch.rand(5)
        model.eval()
        value = float(flat(model).abs().sum())
    return {"u": 1.0, "f": value}


def run(make_model: Any, rows: Any, watch: EvalCallback | None, **keys: Any) -> tuple[torch.Tensor, TrainResult]:
    model = make_model(attention_dropout=0.3)
    done = train(model, objective("NPO"), rows, TrainArgs(**{**FAST, **keys}), pad_id=0, watch=watch)
    return flat(model), done


def test_training_does_not_feel_evaluations(make_model, rows) -> None:
    plain, log = run(make_model, rows, None)
    watched, records = run(make_model, rows, EvalCallback(EvaluateArgs(steps=1), noisy))
    assert torch.equal(plain, watched)
    assert records.history == log.history
    assert [p.step for p in records.trajectory] == [0, *range(1, log.n_steps + 1)]
    assert records.trajectory[-1].values["f"] == float(plain.abs().sum())
    assert records.trajectory[-1].epoch == 2.0


def test_the_trajectory_over_phases(make_model, rows) -> None:
    """Chunks of 4 and 3 rows, two passes each: 4 and 3 steps; the last is always evaluated."""
    watch = EvalCallback(EvaluateArgs(steps=3, at_start=False), noisy)
    done = run(make_model, rows, watch, schedule=Schedule(kind="chunks", chunk_size=4))[1]
    assert [(p.step, p.phase) for p in done.trajectory] == [(3, 1), (6, 2), (7, 2)]


def scripted(values: list[float]) -> tuple[list[torch.Tensor], Any]:
    """A panel that reads its forget values from a list, and the weights it saw."""
    calls: list[torch.Tensor] = []

    def panel(model: Any) -> dict[str, float]:
        calls.append(flat(model).clone())
        return {"u": 1.0, "f": values[len(calls) - 1]}

    return calls, panel


def test_the_best_model_is_kept(make_model, rows) -> None:
    records, panel = scripted([9, 5, 2, 4, 3, 6, 7, 8])
    watch = EvalCallback(EvaluateArgs(steps=1, keep="best"), panel, ModelSelection("u", "f", 0.9, -math.inf))
    weights, done = run(make_model, rows, watch)
    assert torch.equal(weights, records[2])
    assert not torch.equal(weights, records[-1])
    assert done.selected["kept_step"] == done.selected["best_step"] == 2
    assert "f 2 is the best" in done.selected["note"]
    assert done.n_steps == 7


def test_patience(make_model, rows) -> None:
    records, panel = scripted([9, 5, 2, 4, 3, 6, 7, 8])
    watch = EvalCallback(EvaluateArgs(steps=1, patience=2), panel, ModelSelection("u", "f", 0.9, -math.inf))
    weights, done = run(make_model, rows, watch)
    assert done.n_steps == 4  # two after the best, at step 2
    assert torch.equal(weights, records[4])  # keep is `last`
    assert done.selected["kept_step"] == 4 and done.selected["best_step"] == 2


def test_patience_ends_later_phases_too(make_model, rows) -> None:
    _, panel = scripted([9, 5, 6, 7, 8])
    watch = EvalCallback(EvaluateArgs(steps=1, patience=1), panel, ModelSelection("u", "f", 0.9, -math.inf))
    done = run(make_model, rows, watch, schedule=Schedule(kind="chunks", chunk_size=2))[1]
    assert done.n_steps == 2
