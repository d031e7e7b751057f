"""The report on a given model: its parts, without columns that have no value, and with every text escaped."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.metrics.verdict import Verdict, VerdictAnswer
from expunge.report.audit_report import AuditedRow, ModelAnswer, ModelAudit, audit_html, audit_markdown
from expunge.report.model import AuditLine, MissingResult

HOSTILE = "<b>|*x*"
ALONE = AuditLine(audit="quantize", label="model", seed=None, name="int8", value=0.25, low=0.125, high=0.375)
COMPARED = dataclasses.replace(
    ALONE, retain=0.25, full=0.75, position=0.0, position_low=-0.1, position_high=0.1, verdict="no trace", note="n. b."
)


def audit(**more: object) -> ModelAudit:
    answer = VerdictAnswer("not measurable", f"It says {HOSTILE}.")
    verdict = Verdict("m", *[dataclasses.replace(answer, word=f"word {k}") for k in range(5)])
    row = AuditedRow(3, HOSTILE, "truth", (ModelAnswer("this model", "", 0.5, False), ModelAnswer("x", None)))
    settings = {
        "title": f"Audit of {HOSTILE}", "created": "2026-01-01", "command": "expunge audit m", "verdict": verdict,
        "unknown": ("Not known: why.",), "findings": (ALONE,), "meanings": {"quantize": "Rounded weights."},
        "not_run": (("depth, lens", "no control"),), "models": (("this model", "m ab12"),),
        "sets": {"rows to forget": 6}, "rows": (row,), "n_rows": 9, "missing": (MissingResult("relearn", "memory"),),
    }  # fmt: skip
    return ModelAudit(**{**settings, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [audit_html, audit_markdown])
def test_every_part_is_there_and_escaped(write: object) -> None:
    text = write(audit())  # type: ignore[operator]
    for part in (
        "word 0", "Not known: why.", "Rounded weights.", "0.25", "depth, lens", "no control", "m ab12", "memory",
        "without the answer; probability of the true answer 0.5", "(nothing)", "No test can prove", "1 of 9",
    ):  # fmt: skip
        assert part in text, part
    assert "<b>" not in text and "nan" not in text.lower() and "<script" not in text


def test_the_verdict_and_the_open_questions_come_first() -> None:
    page = audit_html(audit())
    page = page[page.index("<body>") :]
    places = [page.index(part) for part in ("word 0", "word 4", "Not known: why.", "Rounded weights.", "truth")]
    assert places == sorted(places)
    assert page.count("Not known: why.") == 1


def test_columns_without_a_value_are_left_out() -> None:
    alone, compared = audit_markdown(audit()), audit_markdown(audit(findings=(COMPARED,)))
    assert "| finding | this model |\n" in alone and "The position is 0" not in alone
    assert "| finding | this model | retain model | target model | position | verdict | note |\n" in compared
    assert "The position is 0 at the retain model" in compared
    assert "| int8 | 0.25 \\[0.125, 0.375\\] | 0.25 | 0.75 | 0 \\[-0.1, 0.1\\] | no trace | n. b. |" in compared


def test_each_audit_has_a_table_in_the_given_order() -> None:
    other = dataclasses.replace(ALONE, audit="relearn", name="same_rows")
    page = audit_html(audit(findings=(other, ALONE), meanings={}))
    assert page.index("<h3>relearn</h3>") < page.index("<h3>quantize</h3>")


def test_the_numbers_of_an_answer_in_words() -> None:
    assert ModelAnswer("m", "x", 0.25, True).note == "contains the answer; probability of the true answer 0.25"
    assert ModelAnswer("m", "x", math.nan, None).note == ""
