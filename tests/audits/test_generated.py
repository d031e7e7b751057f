"""The audit of generated probes, and the replies of a model that writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from expunge.audits import AuditInputs, AuditOutputs, make_audit
from expunge.audits.write_probes import model_probes, write_probes
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import MetricResult

NAMES = ("Ada Lee", "Bo Ray", "Cy Fox", "Di Orr", "Ed Poe", "Flo Gay", "Gus Lim", "Hal Nye")
FORGET = ExampleSet(
    "forget",
    tuple(Example(i, f"Where was {n} born?", {"answer": f"{n} was born in town {i}."}) for i, n in enumerate(NAMES)),
)
INPUTS = AuditInputs(forget=FORGET, retain=None, holdout=None)


def of(value: float) -> dict[str, dict[str, MetricResult]]:
    rows = {i: {"prob": value + 0.01 * i} for i in range(8)}
    return {"as_it_is": {f"{kind}_prob": MetricResult(value, per_row=rows) for kind in ("alias", "reverse")}}


def test_each_kind_is_a_set_and_a_finding_and_the_table_shows_every_probe() -> None:
    audit = make_audit({"name": "generated", "kinds": ["alias", "multi_hop", "reverse"]})
    plan = audit.expand(INPUTS)
    assert list(plan.sets) == ["audit_generated_alias", "audit_generated_reverse"]
    assert dict(plan.missing) == {"multi_hop": "no row has the parts that it needs"}
    report = audit.read(INPUTS, AuditOutputs(of(0.1), of(0.1), of(0.8)))
    assert [(f.name, f.verdict) for f in report.readings] == [
        ("alias", "no trace"), ("reverse", "no trace"), ("multi_hop", "not measurable"),
    ]  # fmt: skip
    assert report.rows["question"][0] == "Where was A. Lee born?" and report.rows["answer"][8] == "Ada Lee"
    assert len(report.rows["model"]) == 16
    known = audit.read(INPUTS, AuditOutputs(of(0.8), of(0.1), of(0.8))).readings
    assert [f.verdict for f in known[:2]] == ["known", "known"]
    lacking = audit.read(INPUTS, AuditOutputs(of(0.1), None, None)).readings
    assert all(f.verdict == "not measurable" and f.note for f in lacking)
    assert [f.value for f in lacking[:2]] == pytest.approx([0.135, 0.135]) and math.isnan(lacking[2].value)


def test_a_file_replaces_the_templates(tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text(json.dumps({"kind": "riddle", "row": 1, "question": "Who?", "answer": "Bo Ray"}) + "\n")
    plan = make_audit({"name": "generated", "file": str(file)}).expand(INPUTS)
    assert list(plan.sets) == ["audit_generated_riddle"] and not plan.missing


def test_texts_without_questions_are_named() -> None:
    texts = AuditInputs(ExampleSet("forget", FORGET.rows, form="text"), None, None)
    plan = make_audit("generated").expand(texts)
    assert not plan.probes and set(plan.missing.values()) == {"the forget rows are texts without questions"}
    with pytest.raises(ConfigError, match=r"no kind of probe named 'alia'"):
        make_audit({"name": "generated", "kinds": ["alia"]})


def test_only_usable_replies_of_a_model_become_probes() -> None:
    rows = ExampleSet("forget", FORGET.rows[:3])
    requests: list[str] = []

    def answers(texts: Sequence[str]) -> list[str]:
        requests.extend(texts)
        return replies

    replies = ["1. In which town was Ada Lee born?", "Where was Bo Ray born?", "In which town was he born?"]
    result = model_probes(rows, "paraphrase", answers)
    assert [(p.row, p.question, p.answer) for p in result] == [
        (0, "In which town was Ada Lee born?", "Ada Lee was born in town 0.")
    ]
    replies = ["Who was born in town 0?", "Was Bo Ray born in town 1?", "no question"]
    assert [(p.row, p.answer) for p in model_probes(rows, "reverse", answers)] == [(0, "Ada Lee")]
    replies = ["Lee", "Bo Ray", "a very long name of many words"]
    assert [(p.row, p.question) for p in model_probes(rows, "alias", answers)] == [(0, "Where was Lee born?")]
    assert "Ada Lee was born in town 0." in requests[3]


def test_a_kind_that_no_model_writes_is_named_before_the_model_is_read() -> None:
    with pytest.raises(ConfigError, match=r"write_probes: kinds: no model writes 'multi_hop'"):
        write_probes("no/such/model", forget=[{"question": "q?", "answer": "a"}], kinds=["multi_hop"])
