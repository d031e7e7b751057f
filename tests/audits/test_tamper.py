"""The tamper audit: its plan, the choice of tries, and each attack on a tiny model."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from expunge.audits import AuditInputs, AuditOutputs, make_audit
from expunge.audits.tamper import choose, worst_first
from expunge.audits.tampering import (
    TrySettings,
    ablated,
    ablation_results,
    parameter_count,
    prefixed,
    soft_prompt,
    training_results,
)
from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.evaluator import resolve_template
from expunge.interpretability.inputs import analysis_inputs, answer_logps
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import AuditFinding, holm
from expunge.models.build import build_llama, train_tokenizer


def rows(name: str, n: int, key: str = "") -> ExampleSet:
    meta = {"keys": [key]} if key else {}
    return ExampleSet(
        name, tuple(Example(i, f"{name} {i}?", {"answer": f"{name} says {i}."}, None, meta) for i in range(n))
    )


FORGET, RETAIN = rows("forget", 10, "ana"), rows("keep", 6)
INPUTS = AuditInputs(forget=FORGET, retain=RETAIN, holdout=None)
SMALL = {"name": "tamper", "rows": 3, "budget": 8, "steps": [2, 4]}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    tokenizer = train_tokenizer([r.question + r.answer for r in (*FORGET, *RETAIN)], 300, max_length=64)
    return Encoder(resolve_template(Template(), tokenizer), tokenizer)


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> Any:
    return build_llama("llama-64k", encoder.tokenizer, vocab_size=300, seed=0).eval()


def test_the_plan_keeps_hidden_rows_hidden_and_spreads_rates_over_the_budget() -> None:
    audit = make_audit(SMALL)
    plan = audit.expand(INPUTS)
    assert [p.name for p in plan.probes] == [
        "full", "lora", "benign", "other_language", "soft_prompt", "refusal_ablation",
    ]  # fmt: skip
    known = {r.answer for r in plan.sets["audit_known"]}
    hidden = {r.answer for r in plan.sets["audit_hidden"]}
    assert len(known) == 3 and len(hidden) == 7 and not known & hidden
    assert {r.answer for r in plan.sets["audit_known_french"]} == known
    analysis = {p.name: p.change for p in plan.probes}
    assert analysis["full"].rates == (1e-5, 1e-3)  # 8 // 4 tries
    assert analysis["lora"].rates == (1e-4, 1e-2) and analysis["soft_prompt"].rates == (1e-3, 1e-1)
    assert analysis["refusal_ablation"].sets == ("audit_hidden", "audit_known", "audit_benign")
    one = make_audit({**SMALL, "budget": 5}).expand(INPUTS).probes[0].change
    assert one.rates == (pytest.approx(1e-4),)


def test_attacks_without_rows_say_why() -> None:
    plan = make_audit(SMALL).expand(AuditInputs(forget=FORGET, retain=None, holdout=None))
    assert dict(plan.missing) == {
        "benign": "there are no retain rows", "refusal_ablation": "there are no retain rows",
    }  # fmt: skip
    near = AuditInputs(forget=FORGET, retain=rows("near", 4, "ana"), holdout=None)
    assert "shares an entity" in make_audit(SMALL).expand(near).missing["benign"]
    texts = ExampleSet("forget", FORGET.rows, form="text")
    assert "other_language" in make_audit(SMALL).expand(AuditInputs(texts, RETAIN, None)).missing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 3}, "budget: must be at least the last of steps, 4"),
        ({"steps": [4, 2]}, "steps: must start with at least 1"),
        ({"rates": [1e-3, 1e-5]}, "rates: must be two numbers > 0"),
        ({"language": "latin"}, "language: must be one of french, german, spanish, chinese"),
        ({"attacks": ["full", "full"]}, "attacks: must be a list of different names"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_audit({**SMALL, **settings})


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tamper.rows: 9 of 10 forget rows leave too few to score"):
        make_audit({**SMALL, "rows": 9}).expand(INPUTS)


def attempt_of(values: list[float], rate: float, steps: int, flops: float) -> MetricResult:
    return MetricResult(
        sum(values) / len(values),
        per_row={i: {"score": v} for i, v in enumerate(values)},
        extra={"rate": rate, "steps": float(steps), "flops": flops},
    )


def test_a_try_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    # try B is best on rows 0 and 2 (half 0), try A on rows 1 and 3 (half 1): each half gets the other one's choice
    tries = {
        "a": attempt_of([0.1, 0.8, 0.2, 0.6], 1e-3, 4, 40.0),
        "b": attempt_of([0.9, 0.3, 0.7, 0.1], 1e-2, 8, 80.0),
        "c": attempt_of([0.0, 0.0, 0.0, 0.0], 1e-2, 4, 40.0),
    }
    choice = choose(tries, np.array([0, 1, 0, 1]))
    assert choice.values_R.tolist() == [0.1, 0.3, 0.2, 0.1]  # below the best try of all rows, 0.5
    assert (choice.rate, choice.steps, choice.flops) == (1e-2, 8.0, 80.0)
    assert (choice.search_steps, choice.search_flops) == (12.0, 120.0)  # each run to its end: 4 and 8 steps


def test_a_row_or_a_try_without_numbers_chooses_nothing() -> None:
    nan, halves = math.nan, np.array([0, 1, 0, 1])
    table = {"a": [nan, 0.1, 0.2, 0.1], "b": [nan, 0.5, 0.6, 0.5], "c": [nan, nan, nan, 0.9]}
    cost = {"rate": 1.0, "steps": 1.0, "flops": 1.0}
    tries = {
        name: MetricResult(0.1, per_row={i: {"score": v} for i, v in enumerate(column)}, extra=cost)
        for name, column in table.items()
    }
    assert choose(tries, halves).values_R.tolist() == pytest.approx([nan, 0.5, 0.6, 0.5], nan_ok=True)
    assert np.isnan(choose({"c": tries["c"]}, halves).values_R[:3]).all()


def test_the_worst_attack_comes_first_with_its_corrected_p_value() -> None:
    finding = [
        AuditFinding("full", position=0.3, verdict="trace", p_value=0.03, note="x"),
        AuditFinding("lora", position=0.9, verdict="known", p_value=0.01),
        AuditFinding("benign", position=0.0, verdict="no trace", p_value=0.5),
        AuditFinding("soft_prompt", note="no rows"),
    ]
    ranked = worst_first(finding)
    assert [f.name for f in ranked] == ["lora", "full", "benign", "soft_prompt"]
    assert ranked[0].note.startswith("worst case of 3 attacks, p = 0.03 after Holm's correction")
    assert [f.details.get("p_holm") for f in ranked] == [*(holm([0.01, 0.03, 0.5])), None]


def analysed(values: list[float]) -> dict[str, MetricResult]:
    return {"0": attempt_of([v / 2 for v in values], 1e-3, 0, 0.0), "4": attempt_of(values, 1e-3, 4, 7.0)}


def test_a_model_that_comes_back_is_known_and_one_like_retain_has_no_trace() -> None:
    audit = make_audit({**SMALL, "attacks": ["full", "lora"]})
    low, high = [0.1 + 0.01 * i for i in range(7)], [0.9 + 0.01 * i for i in range(7)]
    report = audit.read(
        INPUTS,
        AuditOutputs(
            {"full": analysed(low), "lora": analysed([v - 0.05 for v in high])},
            {"full": analysed(low), "lora": analysed(low)},
            {"full": analysed(high), "lora": analysed(high)},
        ),
    )
    first, second = report.readings
    assert (first.name, first.verdict, second.name, second.verdict) == ("lora", "known", "full", "no trace")
    assert first.position == pytest.approx(0.75 / 0.8)
    assert (first.details["steps"], first.details["flops"], first.details["retain_steps"]) == (4.0, 7.0, 4.0)
    assert "cost 4 steps, 7 FLOPs (retain model: 4 steps" in first.note
    assert len(report.rows["row_id"]) == 14 and set(report.rows["attack"]) == {"full", "lora"}
    unlearned = {"full": analysed(low), "lora": analysed(high)}
    lacking = audit.read(
        INPUTS, AuditOutputs(unlearned, None, {"full": analysed(high), "lora": analysed(high)})
    ).readings
    assert all(one.verdict == "not measurable" and "no retain model" in one.note for one in lacking)
    assert [(one.value, one.full) for one in lacking] == [pytest.approx((0.13, 0.93)), pytest.approx((0.93, 0.93))]


SETTINGS = TrySettings(rates=(1e-2,), steps=(1, 3), batch_size=2, seed=0, prompt_tokens=4, lora_rank=2)


@pytest.mark.parametrize("attack", ["full", "lora", "soft_prompt"])
def test_a_training_attack_changes_a_copy_and_states_its_cost(model: Any, encoder: Encoder, attack: str) -> None:
    before = copy.deepcopy(model.state_dict())
    known, hidden = rows("forget", 2), rows("forget", 5)
    result = training_results(model, known, hidden, encoder, SETTINGS, attack)
    assert list(result) == ["0.01@0", "0.01@1", "0.01@3"]
    plain = answer_logps(model, analysis_inputs(hidden, encoder))
    offsets = analysis_inputs(hidden, encoder).offsets
    own = [math.exp(plain[offsets[i] : offsets[i + 1]].mean()) for i in range(5)]
    assert [result["0.01@0"].per_row[i]["score"] for i in range(5)] == pytest.approx(own, rel=1e-6)
    assert result["0.01@3"].value > result["0.01@0"].value  # the answers share their words
    lengths = [len(encoder.rows(known, [(row, "answer")])[0].ids) for row in known]
    tokens = 2 * (sum(lengths) / 2 + (4 if attack == "soft_prompt" else 0))
    assert result["0.01@3"].extra["flops"] == pytest.approx(6 * parameter_count(model) * tokens * 3)
    after = model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[k], before[k]) for k in before)


def test_a_soft_prompt_of_placeholder_embeddings_changes_nothing(model: Any, encoder: Encoder) -> None:
    other, pad = copy.deepcopy(model), encoder.tokenizer.pad_token_id
    inputs = analysis_inputs(rows("forget", 3), encoder)
    longer = type(inputs)(tuple(prefixed(inputs.rows, 4, pad)), inputs.pad_id, inputs.row_ids)
    plain = answer_logps(other, longer)
    with soft_prompt(other, 4, seed=0) as prompt:
        assert [n for n, p in other.named_parameters() if p.requires_grad] == ["soft_prompt"]
        moved = answer_logps(other, longer)
        prompt.data[:] = other.get_input_embeddings().weight[pad]
        np.testing.assert_allclose(answer_logps(other, longer), plain, rtol=1e-6)
    assert np.abs(moved - plain).max() > 1e-4
    assert "soft_prompt" not in dict(other.named_parameters())


def test_an_ablated_model_has_no_component_along_the_direction(model: Any, encoder: Encoder) -> None:
    ids = torch.tensor([encoder.rows(FORGET, [(FORGET[0], "answer")])[0].ids])
    direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with ablated(model, 3 * direction), torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        changed = model(input_ids=ids).logits
    r = direction / direction.norm()
    assert all((state @ r).abs().max() < 1e-5 for state in states[:-1])  # the last one is after the norm
    with torch.no_grad():
        assert (model(input_ids=ids).logits - changed).abs().max() > 1e-4


def test_the_ablation_tries_layers_and_reads_both_kinds_of_prompts(model: Any, encoder: Encoder) -> None:
    result = ablation_results(model, rows("forget", 2), RETAIN, rows("forget", 4), encoder, tries=2)
    assert next(iter(result)) == "0@0" and len(result) >= 2
    read = sum(len(encoder.rows(s, [(row, "answer")])[0].ids) for s in (rows("forget", 2), RETAIN) for row in s)
    assert list(result.values())[-1].extra["flops"] == pytest.approx(2 * parameter_count(model) * read)
