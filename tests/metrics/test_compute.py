"""What a list of metrics reads, in which order it is computed, and which lists cannot be right."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.core.records import Absent, GeneratedText, GeneratedTexts
from expunge.metrics.api import Metric, find_family
from expunge.metrics.compute import compute, identity, in_order, requests, with_parents

PROB = Metric("prob", "probability", rows="r", reads={"tokens": ("answer",)})
PERT = Metric("pert", "probability", rows="r", reads={"tokens": ("perturbed",)})
ROUGE = Metric("rouge", "rouge", rows="r", reads={"texts": ("answer",)})
PARA = Metric("para", "rouge", rows="r", reads={"texts": ("paraphrase",)})
RATIO = Metric(
    "tr", "truth_ratio", rows="r", reads={"tokens": ("answer", "perturbed")}, args={"aggregate": "true_better"}
)
MEAN = Metric("mean", "model_utility", parents={"a": "prob", "b": "rouge"})


def test_requests_are_the_union() -> None:
    other = Metric("other", "probability", rows="q", reads={"tokens": ("paraphrase",)})
    needs = requests([ROUGE, RATIO, PROB, PARA, PERT, MEAN, other])
    assert needs.tokens == {"q": ("paraphrase",), "r": ("answer", "perturbed")}
    assert needs.texts == {"r": ("answer", "paraphrase")}
    assert requests([]).tokens == requests([]).texts == {}


def test_parents_come_first_and_results_keep_the_given_order(records) -> None:
    texts = {"r": GeneratedTexts([GeneratedText(0, 0, "", "red", "red blue", 1, True)])}
    tokens = {"r": records({"answer": {0: [math.log(0.25)]}})}
    results = compute([MEAN, ROUGE, PROB], {"tokens": tokens, "texts": texts})
    assert list(results) == ["mean", "rouge", "prob"]
    assert results["mean"].value == pytest.approx(2 / (1 / 0.25 + 1 / 0.5))
    order = [m.name for m in in_order([MEAN, ROUGE, PROB])]
    assert order.index("mean") == 2


def test_a_stem_stands_for_all_its_variants(records) -> None:
    tokens = {
        "r": records({"perturbed_0": {0: [0.0]}, "perturbed_1": {0: [math.log(0.5)]}, "perturbed_x": {0: [-9.0]}})
    }
    assert compute([PERT], {"tokens": tokens})["pert"].value == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (PROB, "no 'answer' answers of the rows 'r' were scored"),
        (RATIO, "no 'answer' answers of the rows 'r' were scored"),
        (
            Metric("x", "probability", rows="q", reads={"tokens": ("answer",)}),
            "no tokens records of the rows 'q' were made",
        ),
        (PARA, "no 'paraphrase' answers of the rows 'r' were scored"),
    ],
)
def test_what_was_not_recorded_is_missing_with_a_reason(records, metric: Metric, reason: str) -> None:
    tokens = {"r": records({"perturbed_0": {0: [-1.0]}})}
    texts = GeneratedTexts([GeneratedText(0, 0, "", "red", "red", 1, True)], {0: {"answer": "red"}})
    result = compute([metric], {"tokens": tokens, "texts": {"r": texts}})[metric.name]
    assert math.isnan(result.value)
    assert result.reason == reason


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([PROB, PROB], "metric prob: listed twice"),
        ([Metric("x", "probabilty")], "no metric family named 'probabilty'; did you mean 'probability'"),
        ([Metric("x", "model_utility", parents={"a": "prop"}), PROB], r"parents\.a: no metric named 'prop'.*'prob'"),
        ([Metric("x", "probability", reads={"tokens": ("answer",)})], "`rows` must name a set of rows"),
        ([Metric("x", "rouge", reads={"texts": ("answer",)})], "`rows` must name a set of rows"),
        ([Metric("x", "probability", rows="r")], r"reads tokens \(answers\), got \[\]"),
        (
            [Metric("x", "model_utility", parents={"a": "y"}), Metric("y", "model_utility", parents={"a": "x"})],
            "a cycle of parents: (x <- y <- x|y <- x <- y)",
        ),
    ],
)
def test_lists_that_cannot_be_right(records, metrics: list[Metric], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compute(metrics, {"tokens": {"r": records({"answer": {0: [-1.0]}})}})


def test_a_metric_without_records_says_so() -> None:
    with pytest.raises(ConfigError, match="family probability reads tokens"):
        compute([Metric("x", "probability")], {})


def test_identity_follows_definition_and_revision_not_order() -> None:
    one = fingerprint(identity([PROB, RATIO]))
    assert fingerprint(identity([RATIO, PROB])) == one
    changed = Metric(
        "tr", "truth_ratio", rows="r", reads={"tokens": RATIO.tokens}, args={"aggregate": "closer_to_1_better"}
    )
    assert fingerprint(identity([PROB, changed])) != one
    assert identity([PROB])[0]["revision"] == find_family("probability").revision


def test_other_kinds_of_records_are_asked_for_and_missed_by_name() -> None:
    metrics = [
        Metric("leak", "leak_at_k", rows="r", reads={"samples": ("answer",)}, args={"k": 1}),
        Metric("near", "semantic_similarity", rows="r", reads={"texts": ("answer",), "texts_similarity": ("answer",)}),
        Metric("grad", "gradnorm_score", rows="r", reads={"grads": ("answer",)}),
        Metric("same", "agreement", rows="r", reads={"agreement": ("answer",)}),
    ]
    needs = requests(metrics)
    assert set(needs) == {"samples", "texts", "texts_similarity", "grads", "agreement"}
    assert all(needs[kind] == {"r": ("answer",)} for kind in needs)
    assert needs["samples_similarity"] == {}
    result = {name: r.reason for name, r in compute(metrics, {}).items()}
    assert result == {
        "leak": "no samples records of the rows 'r' were made",
        "near": "no texts records of the rows 'r' were made",
        "grad": "no grads records of the rows 'r' were made",
        "same": "no agreement records of the rows 'r' were made",
    }
    texts = {"r": GeneratedTexts([GeneratedText(0, 0, "", "red", "red", 1, True)])}
    known = {"texts": texts, "texts_similarity": {"r": Absent("no embedding model was named")}}
    assert compute([metrics[1]], known)["near"].reason == "no embedding model was named"


def test_a_kind_without_the_name_of_an_answer() -> None:
    with pytest.raises(ConfigError, match=r"metric m: reads\.tokens: missing; name an answer"):
        in_order([Metric("m", "probability", rows="r", reads={"tokens": ()})])


def test_one_name_may_be_written_as_a_text() -> None:
    assert Metric("m", "rouge", rows="r", reads={"texts": "answer"}).reads == {"texts": ("answer",)}


def test_a_metric_of_some_rows_only(records) -> None:
    tokens = {"r": records({"answer": {0: [math.log(0.5)], 1: [math.log(0.25)], 2: [math.log(0.25)]}})}
    some = Metric("some", "probability", rows="r", reads={"tokens": ("answer",)}, where={"kind": "book"})
    result = compute([some, PROB], {"tokens": tokens}, subsets={"some": {1, 2}})
    assert (result["some"].value, list(result["some"].per_row)) == (pytest.approx(0.25), [1, 2])
    assert result["prob"].value == pytest.approx(1 / 3)
    assert compute([some], {"tokens": tokens})["some"].reason == "no row of 'r' is one of {'kind': 'book'}"


def test_the_ancestors_of_a_metric() -> None:
    listed = [MEAN, RATIO, ROUGE, PROB, PERT]
    assert {m.name for m in with_parents(listed, {"mean"})} == {"mean", "prob", "rouge"}
    assert with_parents(listed, set()) == []


@pytest.mark.parametrize(
    "family", ["probability", "loss_score", "min_k_score", "exact_memorization", "extraction_strength", "answer_loss"]
)
def test_a_row_that_is_not_a_number_is_counted_and_never_averaged(records, family: str) -> None:
    tokens = {"r": records({"answer": {0: [-1.0, -2.0, -0.1], 1: [-1.0, math.nan, -0.1]}})}
    alone = {"r": records({"answer": {0: [-1.0, -2.0, -0.1]}})}
    metric = Metric("m", family, rows="r", reads={"tokens": ("answer",)})
    result = compute([metric], {"tokens": tokens})["m"]
    assert result.extra["n_missing"] == 1
    assert result.value == compute([metric], {"tokens": alone})["m"].value


def test_a_family_that_returns_no_result_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dataclasses.replace(find_family("model_utility"), compute=lambda inputs: 0.5)
    monkeypatch.setattr("expunge.metrics.compute.find_family", lambda name: plain)
    with pytest.raises(
        ConfigError, match=r"^metric m: family model_utility returned float, no MetricResult; return mean"
    ):
        compute([Metric("m", "model_utility")], {})
