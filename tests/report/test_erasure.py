"""The erasure report: what it must say, and what it must not show."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.metrics.verdict import Verdict, VerdictAnswer
from expunge.report.erasure import Erasure, ErasureRequest, Finding, erasure_report

NEAR = Finding("forget probability", "how likely the true answers are", 0.3, 0.25, 0.35, full=0.9, retain=0.25)
FAR = Finding("extraction", "share said word for word", 0.8, full=0.9, retain=0.25)
BEYOND = Finding("ROUGE", "overlap of answers", 0.1, full=0.9, retain=0.25)


@pytest.fixture
def erasure() -> Erasure:
    return Erasure(
        title="Erasure of <b>authors</b>",
        created="2026-01-01",
        asked=(ErasureRequest("forget10", 400, "ab" * 32),),
        method="NPO",
        settings=(("beta", "0.1"),),
        steps=60,
        seconds=61.25,
        models=(("the model before", "cd" * 32), ("the model after", "ef" * 32)),
        findings=(NEAR, FAR, BEYOND, Finding("leakage", "what an attack sees", math.nan, reason="no holdout rows")),
        kept=(Finding("model utility", "what it can still do", 0.6, full=0.62, retain=0.61),),
        missing=(("relearning", "the job failed: out of memory"),),
    )


def both(erasure: Erasure) -> tuple[str, str]:
    result = erasure_report(erasure)
    return result.html, result.markdown


def test_says_what_was_asked_done_and_found(erasure: Erasure) -> None:
    for text in both(erasure):
        for part in (
            "400", "ab" * 32, "NPO", "beta", "61.2 s", "ef" * 32, "0.300 (95 % interval 0.250 to 0.350)",
            "no holdout rows", "out of memory", "model utility", "No test can prove",
        ):  # fmt: skip
            assert part in text, part
        assert "nan" not in text.lower()


def verdict(**more: str) -> Verdict:
    answer = VerdictAnswer("no trace", "The probability is 0.3 [0.25, 0.35], 0.25 in the retain model.", 0.3)
    return Verdict("m", *[dataclasses.replace(answer, word=w) for w in ("no trace", "kept", "b", "c", "d")], **more)


def test_the_first_paragraph_is_the_verdict(erasure: Erasure) -> None:
    page, text = both(dataclasses.replace(erasure, verdict=verdict()))
    assert "Forgot? <strong>no trace</strong>. The probability is 0.3" in page[: page.index("<main>")]
    assert "- Forgot? **no trace**. The probability" in text[: text.index("## Request")]
    assert "is broken" not in page + text
    for output in both(dataclasses.replace(erasure, verdict=verdict(broken="it <repeats> itself"))):
        assert "The model is broken." in output and "&lt;repeats&gt;" in output


def test_a_finding_shows_its_own_verdict(erasure: Erasure) -> None:
    result = dataclasses.replace(NEAR, verdict="Verdict: trace (smaller than the margin).")
    for output in both(dataclasses.replace(erasure, findings=(result,))):
        assert "never trained on the data: 0.250. Verdict: trace (smaller than the margin)." in output


def test_without_a_retain_model_says_what_is_impossible(erasure: Erasure) -> None:
    alone = dataclasses.replace(NEAR, retain=math.nan)
    for text in both(dataclasses.replace(erasure, findings=(alone,), has_retain=False)):
        assert text.count("There is no retain model") == 1 and "impossible here" in text
    for text in both(erasure):
        assert "There is no retain model" not in text


def test_texts_only_if_given_and_escaped(erasure: Erasure) -> None:
    hostile = "<script>alert(1)</script> *a* [x](y)"
    page, text = both(erasure)
    assert "texts of" not in page
    page, text = both(dataclasses.replace(erasure, asked=(ErasureRequest("f", 1, "00", (hostile,)),)))
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>authors" not in page
    assert "<script>" not in text and r"\*a\* \[x\]" in text


def test_loads_nothing(erasure: Erasure) -> None:
    page = erasure_report(erasure).html
    assert "default-src 'none'" in page and "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_hashes_are_called_so_and_names_are_not(erasure: Erasure) -> None:
    requests = (ErasureRequest("rows", 2, "12" * 32),)
    models = (("the model before", "org/name revision main"), ("the weights after (a.safetensors)", "ef" * 32))
    for output in both(dataclasses.replace(erasure, asked=requests, models=models)):
        assert "12" * 32 in output and "SHA-256 of the model before" not in output and "The model before" in output
        assert "SHA-256 of the weights after (a.safetensors)" in output


def test_a_reason_of_several_measurements_is_said_once() -> None:
    gaps = (("forget quality", "no control"), ("privacy leakage", "no control"), ("fluency", "no texts"))
    report = erasure_report(Erasure("T", "2026-01-01", (), "NPO", missing=gaps))
    for text in (report.html, report.markdown):
        assert text.count("no control") == 1 and "forget quality, privacy leakage" in text and "no texts" in text
