"""The erasure report: what it must say, and what it must not show."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.report.erasure import Erasure, ErasureRequest, Finding, erasure_report, summary

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
    made = erasure_report(erasure)
    return made.html, made.markdown


def test_says_what_was_asked_done_and_found(erasure: Erasure) -> None:
    for text in both(erasure):
        for part in (
            "400", "ab" * 32, "NPO", "beta", "61.2 s", "ef" * 32, "0.300 (95 % interval 0.250 to 0.350)",
            "no holdout rows", "out of memory", "model utility", "No test can prove",
        ):  # fmt: skip
            assert part in text, part
        assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("value", "low", "high", "place"),
    [
        (0.3, 0.25, 0.35, "Near a model that never saw the data."),
        (0.8, math.nan, math.nan, "Nearer to the model before unlearning."),
        (0.55, math.nan, math.nan, "Nearer to the model before unlearning."),  # 0.5 lies in the middle of 0.2 and 0.8
        (0.0, math.nan, math.nan, "Near a model that never saw the data."),  # a third of the gap past it
        (-0.2, math.nan, math.nan, "Well beyond a model that never saw the data, which is no better."),
        (0.45, 0.4, 0.55, "The interval is too wide"),
    ],
)
def test_where_a_value_lies_in_words(erasure: Erasure, value: float, low: float, high: float, place: str) -> None:
    found = Finding("x", "y", value, low, high, full=0.8, retain=0.2)
    for text in both(dataclasses.replace(erasure, findings=(found,))):
        assert place in text
    turned = Finding("x", "y", -value, -high, -low, full=-0.8, retain=-0.2)  # a score that is high where forgotten
    assert place in erasure_report(dataclasses.replace(erasure, findings=(turned,))).markdown


def test_the_summary_counts_each_place(erasure: Erasure) -> None:
    past = Finding("p", "m", 0.0, full=0.6, retain=0.5)  # nearer to the retain model than to the full one, and no good
    text = summary(dataclasses.replace(erasure, findings=(NEAR, FAR, BEYOND, past)))
    assert text.startswith("Of 4 findings with a position: 2 near a model that never saw the data, 1 nearer to the")
    assert "1 well beyond" in text


def test_without_a_retain_model_says_what_is_impossible(erasure: Erasure) -> None:
    alone = dataclasses.replace(NEAR, retain=math.nan)
    for text in both(dataclasses.replace(erasure, findings=(alone,), has_retain=False)):
        assert "There is no retain model" in text and "impossible here" in text
        assert "No finding has a position" in text
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


def test_models_that_hardly_differ_place_nothing(erasure: Erasure) -> None:
    # an attack that knows both models' rows alike (a gap of 0.008) does not say that 0.5 is far past anything
    page, text = both(dataclasses.replace(erasure, findings=(Finding("m", "w", 0.496, full=1.0, retain=0.992),)))
    for said in (page, text):
        assert "Well past" not in said and "hardly differ" in said


def test_hashes_are_called_so_and_names_are_not(erasure: Erasure) -> None:
    asked = (ErasureRequest("rows", 2, "ab" * 32, (), "12" * 32),)
    models = (("the model before", "org/name revision main"), ("the weights after", f"{'ef' * 32} {'01' * 32}"))
    for said in both(dataclasses.replace(erasure, asked=asked, models=models)):
        assert "12" * 32 in said and "SHA-256 of the model before" not in said and "The model before" in said
        assert "SHA-256 of the weights after" in said
