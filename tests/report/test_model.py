"""The report model refuses what could not be told apart, and orders what it is given."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.core.errors import ConfigError
from expunge.report.model import ReportModel, ReportRun


def test_full_and_retain_come_first_then_the_given_order(model: ReportModel) -> None:
    labels = [group[0].label for group in model.groups()]
    assert labels[:4] == ["full", "retain90", "npo", "ga"]
    assert [run.seed for run in model.groups()[2]] == [0, 1]


def test_the_mean_of_a_role_skips_what_is_missing(model: ReportModel) -> None:
    assert model.mean_of("unlearn", "model_utility") == pytest.approx((0.5 + 0.125 + 0.375) / 3)
    assert math.isnan(model.mean_of("full", "forget_Q_A_ROUGE"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"utility_floor": 1.5}, "utility_floor is 1.5"),
        ({"runs": (ReportRun("a", "unlearn", seed=1), ReportRun("a", "unlearn", seed=1))}, "label 'a' and the seed 1"),
        ({"runs": (ReportRun("a", "base"),)}, "role is 'base'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_input_is_one_line(model: ReportModel, change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(model, **change)  # type: ignore[arg-type]
