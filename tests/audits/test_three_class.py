"""The read-out of three classes: scores by hand, the verdict against the retain model, and reasons."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from expunge.audits import AuditInputs, AuditOutputs, make_audit
from expunge.audits.distinguishability import class_log_odds
from expunge.audits.erasure_detection import SIGNALS
from expunge.audits.three_class import CLASSES, class_scores, confusion, drawn_scores, f1_scores
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import MetricResult

N = 30


def rows(name: str) -> ExampleSet:
    meta = [{"author": f"{name} {i // 3}"} for i in range(N)]
    return ExampleSet(name, tuple(Example(i, f"{name} {i}?", {"answer": "a"}, None, meta[i]) for i in range(N)))


INPUTS = AuditInputs(forget=rows("forget"), retain=rows("keep"), holdout=rows("new"))


def signals(levels: dict[str, float], seed: int) -> dict[str, dict[str, MetricResult]]:
    chance = np.random.default_rng(seed)
    out = {}
    for name, level in levels.items():
        for signal in SIGNALS:
            values = level + 0.3 * chance.normal(size=N)
            out[f"{signal}.{name}"] = MetricResult(
                float(values.mean()), per_row={i: {"score": float(v)} for i, v in enumerate(values)}
            )
    return {"as_it_is": out}


KEPT = {"retain": 0.0, "forget": 3.0, "never_seen": 3.0}  # forget and unseen rows are alike: as the retain model


def test_scores_by_hand_and_as_in_scikit_learn() -> None:
    labels, predictions = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    # TP 1, 2, 1; FP 1, 1, 0; FN 1, 0, 1 -> F1 1/2, 4/5, 2/3
    assert f1_scores(confusion(labels, predictions)).tolist() == pytest.approx([0.5, 0.8, 2 / 3], rel=1e-15)
    result = class_scores(labels, predictions)
    assert result["accuracy"] == pytest.approx(4 / 6, rel=1e-15)
    assert result["macro_f1"] == pytest.approx((0.5 + 0.8 + 2 / 3) / 3, rel=1e-15)
    assert result["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"), rel=1e-14)
    assert class_scores(labels, np.zeros(6, dtype=int))["macro_f1"] == pytest.approx(0.5 / 3)


def test_intervals_contain_the_value_and_draw_within_classes() -> None:
    labels = np.repeat([0, 1, 2], 40)
    predictions = np.where(np.arange(120) % 4 == 0, (labels + 1) % 3, labels)
    sample = drawn_scores(labels, predictions)
    low, high = np.quantile(sample["accuracy"], [0.025, 0.975])
    assert low < 0.75 < high and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 120), rel=0.15)
    perfect = drawn_scores(labels, labels)
    assert set(perfect["accuracy"]) == {1.0} and set(perfect["macro_f1"]) == {1.0}


def test_each_row_is_predicted_without_its_group() -> None:
    # one feature per author names it exactly, so a fit with the author would be perfect; without it there is nothing
    labels = np.repeat([0, 1, 2], 10)
    groups = [f"author {i // 2}" for i in range(30)]
    features = np.eye(15)[np.arange(30) // 2]
    odds = class_log_odds(features, labels, groups, strength=10.0, seed=0)
    assert odds.shape == (30, 3) and np.allclose(np.exp(odds).sum(axis=1), 1)
    assert (odds.argmax(axis=1) == labels).mean() < 0.6


def test_erased_rows_that_stand_out_are_a_trace_and_alike_ones_are_none() -> None:
    audit = make_audit("three_class")
    retain, full = signals(KEPT, 1), signals({"retain": 0.0, "forget": 0.0, "never_seen": 3.0}, 2)
    apart = audit.read(INPUTS, AuditOutputs(signals({**KEPT, "forget": 9.0}, 3), retain, full))
    assert [f.name for f in apart.readings] == ["accuracy", "macro_f1"]
    for finding in apart.readings:
        assert finding.verdict == "trace" and finding.value > 0.95 and finding.retain < 0.85
    details = apart.readings[0].details
    assert details["entity_accuracy"] == 1.0 and details["forget_as_forget"] > 0.95
    assert details["accuracy_low"] <= apart.readings[0].value <= details["accuracy_high"]
    alike = audit.read(INPUTS, AuditOutputs(signals(KEPT, 1), retain, full)).readings
    assert [f.value for f in alike] == [f.retain for f in alike]
    assert {f.verdict for f in alike} == {"no trace"}
    assert len(apart.rows["class"]) == 3 * N and set(apart.rows["predicted"]) <= set(CLASSES)


def test_missing_rows_and_controls_are_named() -> None:
    audit = make_audit("three_class")
    assert "no model has seen" in audit.expand(AuditInputs(rows("forget"), rows("keep"), None)).missing["accuracy"]
    none = audit.expand(AuditInputs(rows("forget"), None, rows("new"))).missing
    assert none["macro_f1"] == "there are no retain rows"
    lacking = audit.read(INPUTS, AuditOutputs(signals(KEPT, 0), None, None)).readings
    assert {f.note for f in lacking} == {"there is no retain model to compare it with"}
    with pytest.raises(ConfigError, match=r"three_class|rows: must be at least 2"):
        make_audit({"name": "three_class", "rows": 1})
