"""What audits ask for and how they read what was found, on results made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from expunge.audits import AuditInputs, AuditOutputs, RelearnSpec, audit_registry, make_audit
from expunge.audits.api import keys_of
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import MetricResult


def rows(name: str, n: int, *keys: str) -> ExampleSet:
    product = (
        Example(i, f"{name} {i}?", {"answer": f"{name} says {i} now"}, None, {"keys": list(keys)}) for i in range(n)
    )
    return ExampleSet(name, tuple(product))


RETAIN = ExampleSet(
    "retain", (*rows("near", 2, "city").rows, *(Example(2 + i, f"f {i}?", {"answer": "far"}) for i in range(3)))
)
GROUND = AuditInputs(forget=rows("forget", 10, "ana", "city"), retain=RETAIN, holdout=rows("new", 4))


def result(values: list[float], name: str = "prob") -> MetricResult:
    return MetricResult(sum(values) / len(values), per_row={i: {name: v} for i, v in enumerate(values)})


def test_every_audit_has_a_page_with_a_command() -> None:
    known = {
        "relearn",
        "quantize",
        "prompting",
        "exposure",
        "probe",
        "lens",
        "depth",
        "forensic",
        "tamper",
        "generated",
        "three_class",
    }
    assert set(audit_registry()) == known
    for spec in audit_registry().values():
        assert "Try: expunge run" in spec.page and "Cost:" in spec.page


def test_relearning_never_scores_a_row_it_trains_on_and_tells_near_from_far() -> None:
    plan = make_audit({"name": "relearn", "rows": 2}).expand(GROUND)
    assert [p.name for p in plan.probes] == ["same_rows", "entity_rows", "unrelated"]
    taught = {r.question for r in plan.sets["audit_same_rows"]}
    scored = {r.question for r in plan.sets["audit_rest"]}
    assert len(taught) == 2 and len(scored) == 8 and not taught & scored
    assert keys_of(plan.sets["audit_entity_rows"].rows) == {"city"}
    assert {r.answer for r in plan.sets["audit_unrelated"]} == {"far"}
    assert all(isinstance(p.change, RelearnSpec) for p in plan.probes)


def test_relearning_without_entities_says_so() -> None:
    plain = AuditInputs(forget=rows("forget", 6), retain=rows("retain", 3), holdout=None)
    plan = make_audit({"name": "relearn", "rows": 2}).expand(plain)
    assert [p.name for p in plan.probes] == ["same_rows", "unrelated"]
    assert "name no entities" in plan.missing["entity_rows"]


def relearned(curves: dict[int, float]) -> dict[str, dict[str, MetricResult]]:
    return {f"same_rows@{step}": {"rest": result([v] * 8)} for step, v in curves.items()}


def test_a_relearning_curve_is_read_between_those_of_the_controls() -> None:
    audit = make_audit({"name": "relearn", "rows": 2, "ways": ["same_rows"], "steps": [0, 1, 2]})
    outputs = AuditOutputs(
        relearned({0: 0.2, 1: 0.4, 2: 0.6}), relearned({0: 0.0, 1: 0.0, 2: 0.0}), relearned({0: 0.8, 1: 0.8, 2: 0.8})
    )
    findings = audit.read(GROUND, outputs)
    (reading,) = findings.readings
    # both numbers are traces, and the end of the curve comes first; half of 0.8 - 0.2 back is 0.5, at step 1.5
    assert (reading.value, reading.retain, reading.full) == pytest.approx((0.6, 0.0, 0.8))
    assert (reading.position, reading.verdict) == (pytest.approx(0.75), "trace")
    # mean height: the model's 0.4, the retain model's 0, the full one's 0.8
    assert (reading.details["mean_height_value"], reading.details["mean_height_position"]) == pytest.approx((0.4, 0.5))
    assert reading.details["recovery_steps"] == pytest.approx(1.5)
    assert reading.details["recovery_steps_retain"] == math.inf
    assert "1.5 steps (retain model: not within 2 steps)" in reading.note
    assert len(findings.rows["row_id"]) == 3 * 8


@pytest.mark.parametrize(
    ("model", "word", "by"),
    [
        ({0: 0.1, 1: 0.1, 2: 0.39}, "trace", "end of the curve"),
        ({0: 0.1, 1: 0.7, 2: 0.13}, "trace", "mean height"),  # back sooner than the retain model, and not higher
        ({0: 0.0, 1: 0.1, 2: 0.3}, "trace", "end of the curve"),  # pushed below at first: no credit for that
        ({0: 0.05, 1: 0.06, 2: 0.07}, "over-forgotten", "end of the curve"),
        ({0: 0.1, 1: 0.11, 2: 0.13}, "no trace", "end of the curve"),
    ],
)
def test_a_curve_is_judged_by_its_end_and_by_its_height(model: dict[int, float], word: str, by: str) -> None:
    audit = make_audit({"name": "relearn", "rows": 2, "ways": ["same_rows"], "steps": [0, 1, 2]})
    retain, full = {0: 0.1, 1: 0.11, 2: 0.13}, {0: 0.9, 1: 0.9, 2: 0.9}
    (reading,) = audit.read(GROUND, AuditOutputs(relearned(model), relearned(retain), relearned(full))).readings
    assert reading.verdict == word and f"judged by the {by}" in reading.note
    assert reading.details["model_at_2"] == pytest.approx(model[2])


ALONE = {
    "relearn": ({"name": "relearn", "rows": 2, "ways": ["same_rows"], "steps": [0, 1]}, "same_rows@1", "rest"),
    "quantize": ({"name": "quantize", "forms": ["int4"]}, "int4", "forget"),
    "prompting": ({"name": "prompting", "ways": ["upper"], "rouge": False}, "as_it_is", "worst_prob"),
    "generated": ({"name": "generated", "kinds": ["multi_turn"]}, "as_it_is", "multi_turn_prob"),
}


@pytest.mark.parametrize("lacks", ["retain", "full"])
@pytest.mark.parametrize("name", list(ALONE))
def test_without_a_control_there_is_a_number_and_no_verdict(name: str, lacks: str) -> None:
    settings, probe, metric = ALONE[name]
    score = "score" if name == "prompting" else "prob"  # of the worst form of a row
    # mean 0.4, variance 0.1^2 * 4 / 3; t(0.975, 3 degrees) = 3.182446
    model = {probe: {metric: result([0.3, 0.5, 0.3, 0.5], score)}}
    other = {probe: {metric: result([0.9] * 4, score)}}
    sides: dict[str, Any] = {"model": model, "retain": other, "full": other, lacks: None}
    (reading,) = make_audit(settings).read(GROUND, AuditOutputs(**sides)).readings
    half = 3.182446 * math.sqrt(0.04 / 3) / 2
    assert (reading.value, reading.low, reading.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-6)
    assert reading.verdict == "not measurable" and math.isnan(reading.position) and math.isnan(reading.p_value)
    assert math.isnan(getattr(reading, lacks)) and reading.rows == 4
    assert getattr(reading, "full" if lacks == "retain" else "retain") == pytest.approx(0.9)
    assert f"no {({'full': 'target'}).get(lacks, lacks)} model" in reading.note


def test_quantisation_that_brings_knowledge_back_is_seen() -> None:
    audit = make_audit({"name": "quantize", "forms": ["int4"]})
    retain, full = [0.1, 0.2] * 4, [0.9, 0.8] * 4
    sides = {"retain": retain, "full": full}

    def of(values: list[float]) -> dict[str, MetricResult]:
        return {"forget": result(values)}

    outputs = AuditOutputs(
        {"as_it_is": of(retain), "int4": of([0.8, 0.7] * 4)},
        *({"as_it_is": of(sides[s]), "int4": of(sides[s])} for s in ("retain", "full")),
    )
    (reading,) = audit.read(GROUND, outputs).readings
    # 0.75 between 0.15 and 0.85: 0.6 / 0.7
    assert reading.position == pytest.approx(0.6 / 0.7)
    assert reading.verdict == "known"
    assert reading.details == {"before": pytest.approx(0.15), "before_position": 0.0}


def test_prompting_asks_what_the_rows_allow() -> None:
    plan = make_audit({"name": "prompting", "rouge": False, "leak": True}).expand(GROUND)
    assert "forget_shots" in plan.sets and len(plan.sets["forget_shots"].shots) == 3
    assert plan.sets["forget_begun"][0].answer == "0 now"
    assert set(plan.missing) == {"way paraphrased", "leak"}
    other = make_audit({"name": "prompting", "ways": ["german", "chinese"], "rouge": False}).expand(GROUND).sets
    assert other["forget_german"][0].question.endswith("gestellt ist: forget 0?")
    assert other["forget_chinese"][0].answer == GROUND.forget[0].answer
    texts = AuditInputs(forget=ExampleSet("forget", GROUND.forget.rows, form="text"), retain=None, holdout=None)
    assert set(make_audit("prompting").expand(texts).sets) == {"forget"}


def exposed(forget: list[float], unseen: list[float]) -> dict[str, dict[str, MetricResult]]:
    of = {
        "loss_score": result(forget, "score"),
        "loss_score_unseen": result(unseen, "score"),
        "extraction_strength": result([0.5] * len(forget), "score"),
        "min_k_score": result(forget, "score"),
        "worst_prob": result([0.1] * len(forget), "score"),
    }
    return {"as_it_is": of}


def test_exposure_ranks_rows_and_finds_those_still_known() -> None:
    unseen = [2.0, 3.0, 2.5, 3.5]
    inputs = AuditInputs(forget=rows("forget", 6), retain=RETAIN, holdout=rows("new", 4))
    retain = exposed([2.0, 3.0, 2.5, 3.5, 2.2, 3.2], unseen)
    model = exposed([2.0, 3.0, 2.5, 0.1, 2.2, 1.0], unseen)  # rows 3 and 5 are still known
    full = exposed([0.1] * 6, unseen)
    result = make_audit("exposure").read(inputs, AuditOutputs(model, retain, full))
    known, erased = result.readings
    assert (known.name, known.value, known.retain, known.full) == ("known_rows", pytest.approx(1 / 3), 0.0, 1.0)
    assert known.position == pytest.approx(1 / 3) and known.note.endswith("2 of 6 rows")
    assert result.rows["known"] == [0.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert [result.rows["rank"][i] for i in (3, 5)] == [1, 2]
    assert result.rows["gap"] == pytest.approx([0, 0, 0, 3.4, 0, 2.2])
    assert result.rows["percentile"][3] == 1.0
    assert erased.name == "erased_rows" and erased.value > erased.retain


def test_rows_pushed_far_down_are_told_from_unseen_ones() -> None:
    unseen = [2.0 + i / 10 for i in range(20)]
    retain = exposed([2.05 + i / 10 for i in range(20)], unseen)
    model = exposed([30.0 + i for i in range(20)], unseen)
    ground = AuditInputs(forget=rows("forget", 20), retain=RETAIN, holdout=rows("new", 20))
    audit = make_audit("exposure")
    erased = audit.read(ground, AuditOutputs(model, retain, retain)).readings[1]
    assert (erased.value, erased.verdict) == (1.0, "trace")
    assert erased.details["auc_high_loss"] == 1.0
    same = audit.read(ground, AuditOutputs(retain, retain, retain)).readings[1]
    assert (same.verdict, same.details["difference"]) == ("no trace", 0.0)
    unlike = exposed([9.0 + i / 10 for i in range(20)], unseen)
    odd = audit.read(ground, AuditOutputs(model, unlike, retain)).readings[1]
    assert odd.verdict == "not measurable" and "not alike" in odd.note
    bare = AuditInputs(forget=ground.forget, retain=RETAIN, holdout=None)
    assert "holdout" in audit.read(bare, AuditOutputs(model, retain, retain)).readings[1].note


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("relern", "did you mean 'relearn'"),
        ({"rows": 3}, "audits.name: missing"),
        ({"name": "relearn", "stepss": []}, "audits.stepss: unknown key; did you mean 'steps'"),
        ({"name": "relearn", "steps": [0, 2, 1]}, "audits.steps: must start with 0 and rise"),
        ({"name": "relearn", "known": 0.05}, "audits.known: must be above margin"),
        ({"name": "quantize", "forms": ["int3"]}, "int3"),
        ({"name": "prompting", "ways": ["rolle"]}, "did you mean 'role'"),
        ({"name": "exposure", "percentile": 0.2}, "audits.percentile: must be above 0.5"),
    ],
)
def test_wrong_settings_are_told_in_one_line(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_audit(entry)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_too_few_rows_to_relearn_from_are_told() -> None:
    with pytest.raises(ConfigError, match=r"relearn\.rows: 9 of 10"):
        make_audit({"name": "relearn", "rows": 9}).expand(GROUND)
