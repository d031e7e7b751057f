"""Every family against cases worked out by hand (tests/golden/metrics, where `why` is the derivation)."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from expunge.core.records import AnswerNumbers, ExampleNumbers, GeneratedText, GeneratedTexts
from expunge.metrics import Metric, MetricInputs, MetricResult, families, find_family, missing

FILES = sorted((Path(__file__).resolve().parent.parent / "golden" / "metrics").glob("*.json"))
CASES = [case for file in FILES for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]


def number(value: str | None) -> float:
    return math.nan if value is None else float(Fraction(value))


def numbers(value: list | str | None) -> list[float] | float:
    return [number(v) for v in value] if isinstance(value, list) else number(value)


def ratios(scores: list[str | None] | None) -> MetricResult | None:
    if scores is None:
        return None
    return MetricResult(value=0.5, per_row={i: {"score": number(s)} for i, s in enumerate(scores)})


def losses(probs: list[str]) -> MetricResult:
    return MetricResult(0.5, per_row={i: {"score": -math.log(number(p))} for i, p in enumerate(probs)})


def text_of(sample: int, row: int, message: str, truth: str, more: dict | None = None) -> GeneratedText:
    more = more or {}
    near = number(more["similarity"]) if "similarity" in more else None
    return GeneratedText(row, sample, "", message, truth, more.get("n_new_tokens", 1), more.get("stopped", True), near)


def numbers_of(rows: dict[str, dict[str, str]]) -> ExampleNumbers:
    ids = sorted(int(i) for i in rows)
    names = next(iter(rows.values()))
    return ExampleNumbers(np.array(ids), {n: np.array([number(rows[str(i)][n]) for i in ids]) for n in names})


def by_row(variants: dict[str, dict[str, list]]) -> dict[str, dict[int, list]]:
    """The same with rows numbered; JSON has only texts for keys."""
    return {v: {int(i): values for i, values in rows.items()} for v, rows in variants.items()}


NUMBERS = ("grads", "agreement", "judgements")


def texts_kind(case: dict) -> str:
    return "samples" if case.get("sampled") else "texts"


def reads_of(case: dict) -> dict[str, tuple[str, ...]]:
    reads = {kind: ("answer",) for kind in NUMBERS if kind in case}
    if case.get("tokens"):
        reads["tokens"] = tuple(case["tokens"])
    if "texts" in case:
        reads[texts_kind(case)] = ("answer",)
        if case.get("similar"):
            reads[f"{texts_kind(case)}_similarity"] = ("answer",)
    return reads


def inputs_of(case: dict, records) -> MetricInputs:
    parents: dict[str, MetricResult] = {}
    for role, value in case.get("parents", {}).items():
        parents[role] = missing("not scored") if value is None else MetricResult(value=number(value))
    if "scores" in case:
        parents["truth_ratio"] = ratios(case["scores"])
    for role, scores in case.get("parent_scores", {}).items():
        parents[role] = ratios(scores)
    for role, probs in case.get("parent_probs", {}).items():
        parents[role] = losses(probs)
    tokens = None
    if "probs" in case or "logps" in case:
        logps = case.get("logps") or {
            v: {i: [math.log(number(p)) for p in ps] for i, ps in rows.items()} for v, rows in case["probs"].items()
        }
        tokens = records(by_row(logps), **{c: by_row(v) for c, v in case.get("columns", {}).items()})
    for role, rows in case.get("parent_rows", {}).items():
        parents[role] = MetricResult(
            0.5, per_row={int(i): {n: number(v) for n, v in s.items()} for i, s in rows.items()}
        )
    texts = None
    if "texts" in case:
        texts = [text_of(sample, *inputs) for sample, inputs in enumerate(case["texts"])]
    metric = Metric(
        case["name"],
        case["family"],
        rows="rows",
        reads=reads_of(case),
        args=case.get("args", {}),
        parents=case.get("named", {}) or {role: f"metric_{role}" for role in parents},
    )
    shadows = {role: [losses(probs) for probs in of] for role, of in case.get("shadow_probs", {}).items()}
    retain = ratios(case.get("retain_scores"))
    if "retain_value" in case:
        retain = MetricResult(number(case["retain_value"]))
    records_of = {kind: AnswerNumbers({"answer": numbers_of(case[kind])}) for kind in NUMBERS if kind in case}
    if tokens is not None:
        records_of["tokens"] = tokens
    if texts is not None:
        records_of[texts_kind(case)] = GeneratedTexts(texts)
    return MetricInputs(metric, records_of, parents, retain, shadows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['family']}-{case['name']}")
def test_hand_derived(case: dict, records) -> None:
    result = find_family(case["family"]).compute(inputs_of(case, records), **case.get("args", {}))
    if "missing" in case:
        assert math.isnan(result.value)
        assert case["missing"] in (result.reason or "")
        return
    assert result.reason is None
    assert result.value == pytest.approx(number(case["value"]), rel=1e-12)
    for row, stats in case.get("per_row", {}).items():
        for name, expected in stats.items():
            assert result.per_row[int(row)][name] == pytest.approx(numbers(expected), rel=1e-12, nan_ok=True), (
                row,
                name,
            )
    if "per_row" in case:
        assert list(result.per_row) == sorted(int(row) for row in case["per_row"])
    for name, expected in case.get("extra", {}).items():
        assert result.extra[name] == pytest.approx(number(expected), rel=1e-12), name
    if "p_greater" in case:
        assert math.exp(result.extra["ln_p_greater"]) == pytest.approx(number(case["p_greater"]), rel=1e-12)
        assert 10 ** result.extra["log10_p"] == pytest.approx(result.value, rel=1e-12)
        assert math.exp(result.extra["ln_p"]) == pytest.approx(result.value, rel=1e-12)


def test_every_family_has_cases_and_a_page() -> None:
    assert set(families()) <= {case["family"] for case in CASES}
    for name, family in families().items():
        assert len(family.page) > 200, name
        assert family.revision >= 1
        assert family.higher_is and family.range and family.paper
