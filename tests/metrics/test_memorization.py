"""What the memorisation families read and refuse; their numbers are in the golden cases."""

from __future__ import annotations

import itertools

import pytest

from expunge.core.errors import ConfigError
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute


def strength(records, right: tuple[bool, ...], **args) -> float:
    tokens = records({"answer": {0: [-1.0] * (len(right) + 1)}}, is_argmax={"answer": {0: [*right, False]}})
    metric = Metric("m", "extraction_strength", rows="r", reads={"tokens": ("answer",)}, args=args)
    return compute([metric], {"tokens": {"r": tokens}})["m"].value


def test_every_pattern_of_five_tokens_against_the_definition(records) -> None:
    for right in itertools.product((False, True), repeat=5):
        k = next(k for k in range(6) if all(right[k:]))
        assert strength(records, right) == pytest.approx(1 - k / 5)
        assert strength(records, right, compat="openunlearning") == pytest.approx(1 - min(k, 4) / 5)


def test_a_right_token_more_never_lowers_it(records) -> None:
    for right in itertools.product((False, True), repeat=4):
        for i in range(4):
            more = (*right[:i], True, *right[i + 1 :])
            assert strength(records, more) >= strength(records, right)


@pytest.mark.parametrize("family", ["exact_memorization", "extraction_strength", "loss_score", "min_k_score"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("answer", "perturbed"), r"reads tokens \(answer\), got \['answer', 'perturbed'\]"),
        (("perturbed",), "one answer to each row, 'perturbed' stands for 2"),
    ],
)
def test_one_answer_to_each_row(records, family: str, tokens: tuple[str, ...], message: str) -> None:
    result = records({"answer": {0: [-1.0]}, "perturbed_0": {0: [-1.0]}, "perturbed_1": {0: [-1.0]}})
    with pytest.raises(ConfigError, match=f"metric m: family {family} .*{message}"):
        compute([Metric("m", family, rows="r", reads={"tokens": tokens})], {"tokens": {"r": result}})


def test_unknown_compat(records) -> None:
    with pytest.raises(ConfigError, match=r"args\.compat: 'openunlearn': no such choice; did you mean 'openunlearn"):
        strength(records, (True,), compat="openunlearn")
