"""What is said of single rows: a mean over many must not hide one that is still known."""

from __future__ import annotations

import pytest

from expunge.metrics.api import MetricResult
from expunge.pipelines.erase.goal_values import EraseFinding
from expunge.pipelines.erase.goals import BeforeAfter, single_rows
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.rows import KNOWN


def of(probs: list[float], unseen: float | None = None) -> dict[str, MetricResult]:
    result = {KNOWN: MetricResult(sum(probs) / len(probs), per_row={i: {"prob": p} for i, p in enumerate(probs)})}
    return result | ({} if unseen is None else {UNSEEN: MetricResult(unseen)})


def test_one_row_of_forty_that_is_still_known_is_said_by_its_number() -> None:
    after = [0.0] * 40
    after[17] = 0.9  # the mean is 0.02, a fortieth of what it was
    line = single_rows(BeforeAfter(of([0.9] * 40), of(after), None))
    assert line == EraseFinding(
        "not achieved", "single rows: 1 of the 40 rows that the model knew keep more than half of that (row 17, from 0)"
    )


@pytest.mark.parametrize(
    ("before", "after", "control", "unseen", "state"),
    [
        ([0.9, 0.9], [0.45, 0.1], None, None, "achieved"),  # half is not more than half
        ([0.9, 0.9], [0.46, 0.1], None, None, "not achieved"),
        ([0.9, 0.9], [0.5, 0.1], [0.2, 0.2], None, "achieved"),  # above the control's 0.2: 0.3 of 0.7
        ([0.9, 0.9], [0.6, 0.1], [0.2, 0.2], None, "not achieved"),  # 0.4 of 0.7
        ([0.9, 0.9], [0.5, 0.1], None, 0.2, "achieved"),  # the same, by rows never seen
        ([0.9, 0.22], [0.1, 0.22], [0.2, 0.2], None, "achieved"),  # the second was hardly known
    ],
)
def test_a_row_is_held_against_what_was_known_of_it(
    before: list[float], after: list[float], control: list[float] | None, unseen: float | None, state: str
) -> None:
    line = single_rows(BeforeAfter(of(before, unseen), of(after), None if control is None else of(control)))
    assert line is not None and line.state == state


def test_rows_that_were_never_known_say_nothing() -> None:
    assert single_rows(BeforeAfter(of([0.01, 0.02]), of([0.0, 0.0]), None)) is None
