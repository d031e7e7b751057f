"""Attack scores at their edges; their numbers are in the golden cases."""

from __future__ import annotations

import math

import pytest

from expunge.core.errors import ConfigError
from expunge.metrics.api import Metric, MetricResult, missing
from expunge.metrics.compute import compute

NAMES = ("loss", "zlib", "min_k", "min_k_plus_plus")
REFERENCE = Metric("ref", "reference_score", rows="r", reads={"tokens": ("answer",)}, retain="loss")


def score(records, attack: str, logps: list[float], **args) -> float:
    metric = Metric("m", f"{attack}_score", rows="r", reads={"tokens": ("answer",)}, args=args)
    tokens = records({"answer": {0: logps}}, var={"answer": {0: [1.0] * len(logps)}})
    return compute([metric], {"tokens": {"r": tokens}})["m"].value


@pytest.mark.parametrize("attack", NAMES)
def test_a_likelier_answer_scores_lower(records, attack: str) -> None:
    assert score(records, attack, [-1.0, -0.5, -0.25]) < score(records, attack, [-2.0, -1.0, -0.25])


@pytest.mark.parametrize("attack", NAMES)
def test_an_impossible_token_is_infinite_not_missing(records, attack: str) -> None:
    assert score(records, attack, [-math.inf, -1.0, -1.0]) == math.inf


@pytest.mark.parametrize("attack", NAMES)
def test_a_token_without_a_number_takes_its_row_and_no_other(records, attack: str) -> None:
    metric = Metric("m", f"{attack}_score", rows="r", reads={"tokens": ("answer",)})
    rows = {0: [-1.0, math.nan, -3.0, -1.0], 1: [-2.0, -1.0, -0.5, -1.0]}
    var = {"answer": {i: [1.0] * 4 for i in rows}}
    result = compute([metric], {"tokens": {"r": records({"answer": rows}, var=var)}})["m"]
    alone = compute([metric], {"tokens": {"r": records({"answer": {1: rows[1]}}, var={"answer": {1: [1.0] * 4}})}})["m"]
    assert math.isnan(result.per_row[0]["score"])
    assert (result.value, result.extra["n_missing"]) == (alone.value, 1)


@pytest.mark.parametrize("attack", ["min_k", "min_k_plus_plus"])
@pytest.mark.parametrize("k", [0.0, 1.5, "half"])
def test_wrong_share(records, attack: str, k: float | str) -> None:
    with pytest.raises(ConfigError, match=r"metric m: args\.k: "):
        score(records, attack, [-1.0, -1.0], k=k)


def test_reference_reads_the_retain_models_losses(records) -> None:
    loss = Metric("loss", "loss_score", rows="r", reads={"tokens": ("answer",)})
    retain = compute([loss], {"tokens": {"r": records({"answer": {3: [-1.0], 5: [-2.0], 6: []}})}})
    mine = {"r": records({"answer": {3: [-4.0], 5: [-math.inf], 6: [-1.0]}})}
    result = compute([REFERENCE], {"tokens": mine}, retain)["ref"]
    assert result.column("score") == pytest.approx([3.0, math.inf, math.nan], nan_ok=True)
    assert result.extra["n_missing"] == 1
    both = compute([REFERENCE], {"tokens": {"r": records({"answer": {3: [-1.0], 5: [-2.0], 6: []}})}}, retain)["ref"]
    assert both.value == 0.0


@pytest.mark.parametrize(
    ("retain", "reason"),
    [
        (None, "needs a retain model's losses (loss); none was given"),
        (missing("not scored"), "the retain model's loss has no rows: not scored"),
        (MetricResult(1.0), "the retain model's loss has no rows"),
    ],
)
def test_reference_without_losses_says_why(records, retain: MetricResult | None, reason: str) -> None:
    inputs = None if retain is None else {"loss": retain}
    result = compute([REFERENCE], {"tokens": {"r": records({"answer": {0: [-1.0]}})}}, inputs)["ref"]
    assert math.isnan(result.value)
    assert result.reason == reason
