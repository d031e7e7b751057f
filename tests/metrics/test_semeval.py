"""The official score against the published leaderboard, and by hand on a few rows."""

from __future__ import annotations

import math

import pytest

from expunge.core.errors import ConfigError
from expunge.metrics import Metric, MetricResult, missing
from expunge.metrics.api import MetricInputs
from expunge.metrics.compute import in_order
from expunge.metrics.semeval import TERMS, aggregate, mia_score, semeval_aggregate, semeval_mia, semeval_tasks

# final, task aggregate, MIA, MMLU of the 7B board, ranks 1 to 10, then the entries below the floor and the baselines
PUBLISHED = [
    (0.706, 0.827, 0.847, 0.443),
    (0.487, 0.944, 0.048, 0.471),
    (0.470, 0.834, 0.139, 0.436),
    (0.376, 0.387, 0.256, 0.485),
    (0.326, 0.496, 0.0, 0.481),
    (0.3082, 0.433, 0.0, 0.492),
    (0.3080, 0.478, 0.0, 0.446),
    (0.273, 0.348, 0.014, 0.456),
    (0.251, 0.283, 0.0, 0.469),
    (0.169, 0.1, 0.021, 0.385),
    (0.711, 0.964, 0.894, 0.275),
    (0.420, 0.152, 0.876, 0.232),
    (0.409, 0.0, 0.999, 0.229),
    (0.394, 0.0, 0.912, 0.269),
    (0.188, 0.021, 0.080, 0.463),
]


def inputs_of(family: str, parents: dict[str, MetricResult], **args: float) -> MetricInputs:
    metric = Metric("m", family, args=args, parents={role: role for role in parents})
    return MetricInputs(metric, parents=parents)


def part(value: float, rows: int = 2) -> MetricResult:
    return MetricResult(value, per_row={i: {"score": value} for i in range(rows)})


def sides(left: float, rest: float) -> dict[str, MetricResult]:
    """All forget scores `left`, all retain scores `kept`."""
    return {term: part(left if term.startswith("forget") else rest) for term in TERMS}


def official(terms: dict[str, MetricResult], auc: float, mmlu: float) -> MetricResult:
    tasks = semeval_tasks(inputs_of("semeval_tasks", terms))
    mia = semeval_mia(inputs_of("semeval_mia", {"auc": MetricResult(auc)}))
    return semeval_aggregate(inputs_of("semeval_aggregate", {"tasks": tasks, "mia": mia}), mmlu_accuracy=mmlu)


@pytest.mark.parametrize(("final", "task", "mia", "mmlu"), PUBLISHED)
def test_published_rows(final: float, task: float, mia: float, mmlu: float) -> None:
    """Each of the four numbers is rounded to three places: the mean is off by at most half a unit twice."""
    assert aggregate(task, mia, mmlu) == pytest.approx(final, abs=1.0001e-3)
    for auc in (0.5 + (1 - mia) / 2, 0.5 - (1 - mia) / 2):
        result = official(sides(1 - task, task), auc, mmlu)  # twelve equal terms: their harmonic mean is the term
        assert result.value == pytest.approx(final, abs=1.0001e-3)
        assert result.extra["mia_part"] == pytest.approx(mia)
        assert result.extra["above_mmlu_floor"] == (mmlu > 0.371)


def test_untouched_and_ruined_models() -> None:
    untouched = official(sides(1.0, 1.0), 1.0, 0.495)
    assert untouched.value == pytest.approx(0.165)
    assert untouched.extra["tasks_part"] == 0.0
    ruined = official(sides(0.0, 0.0), 0.545, 0.269)
    assert ruined.value == pytest.approx(0.393, abs=1e-3)
    assert ruined.extra["above_mmlu_floor"] == 0.0


def test_twelve_terms_and_their_harmonic_mean() -> None:
    terms = sides(0.0, 1.0)
    terms["forget_Task2_regurgitation"] = part(0.75, rows=6)
    terms["retain_Task3_knowledge"] = part(0.5)
    result = semeval_tasks(inputs_of("semeval_tasks", terms))
    assert result.value == pytest.approx(12 / (10 + 4 + 2))
    assert result.extra["forget_Task2_regurgitation"] == 0.25
    assert result.extra["retain_Task3_knowledge"] == 0.5
    assert sum(name in TERMS for name in result.extra) == 12
    # over all rows of a side: 6 of Task2 at 3/4, 2 + 2 of the others at 0; 2 of 6 rows at 1/2
    assert result.extra["overall_forget_regurgitation"] == pytest.approx(4.5 / 10)
    assert result.extra["overall_retain_knowledge"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 1.0), (1.0, 0.0), (0.0, 0.0), (0.25, 0.5), (0.75, 0.5)])
def test_mia_score(auc: float, expected: float) -> None:
    assert mia_score(auc) == expected


def test_a_term_that_could_not_be_scored_names_itself() -> None:
    terms = sides(0.0, 1.0) | {"retain_Task1_knowledge": missing("no generations")}
    result = semeval_tasks(inputs_of("semeval_tasks", terms))
    assert math.isnan(result.value)
    assert result.reason == "needs retain_Task1_knowledge, which is missing: no generations"
    whole = semeval_aggregate(inputs_of("semeval_aggregate", {"tasks": result, "mia": MetricResult(0.5)}))
    assert "tasks: needs retain_Task1_knowledge" in (whole.reason or "")
    assert "mmlu: no MMLU accuracy" in (whole.reason or "")
    assert whole.extra == {"mia_part": 0.5}


def test_an_accuracy_in_percent_is_refused() -> None:
    metric = Metric("a", "semeval_aggregate", args={"mmlu_accuracy": 49.5})
    with pytest.raises(ConfigError, match=r"mmlu_accuracy: 49\.5"):
        in_order([metric])


def test_an_aggregate_without_its_parents_is_a_wrong_panel() -> None:
    with pytest.raises(ConfigError, match="needs the parents tasks and mia"):
        semeval_aggregate(inputs_of("semeval_aggregate", {"tasks": MetricResult(0.5)}))
