"""The parts of an erasure that are plain arithmetic: what fits into a time, which trial is the best, what is left."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from expunge.core.errors import JobError
from expunge.engine.job import Job, JobContext
from expunge.engine.provenance import JobStart, provenance
from expunge.engine.record import write_record
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.pipelines.erase.goal_values import EraseFinding, exit_code, left_over
from expunge.pipelines.erase.goals import BeforeAfter
from expunge.pipelines.erase.request import UTILITY
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.erase.search import SEVERAL, Show, best, budget_of, carry_on, sized
from expunge.pipelines.erase.trials import LOOKS, SHORT, EraseTrial, SearchGoal, TrialResult


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoSteps(Job):
    """A training of two steps that take no time."""

    kind: ClassVar[str] = "train"
    text: str

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> dict[str, int]:
        context.progress(1, 2)
        context.progress(2, 2)
        return {}


def job(label: str = "x") -> Job:
    return TwoSteps(label=label, text=label)


def trial_of(forget: float, keep: float, *, passes: bool = True, step: int | None = 10) -> TrialResult:
    return TrialResult(
        EraseTrial("NPO", 1e-3, 10), job(), step, {KNOWN: forget, UTILITY: keep}, passes, start_utility=1.0
    )


@contextmanager
def silent(title: str, planned: object) -> Iterator[object]:
    yield lambda event: None


show: Show = silent  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [
        # a trial: 2 x 3 s beside its steps, LOOKS looks of 3 - 1 = 2 s, 80 steps of 1 s: 106 s
        (2 * 106, 80),
        # two of 86 s fit: 86 - 26 = 60 steps
        (2 * 86, 60),
        # two of 46 s would have 20 steps: fewer than SHORT
        (2 * 46, 40),
        (66, 40),
        # 26 s are gone before the steps, so 30 - 26 = 4 steps are left; below that one step always is made
        (30, 4),
        (5, 1),
    ],
)
def test_how_many_steps_fit(time_s: float, expected: int) -> None:
    assert (LOOKS, SEVERAL, SHORT) == (10, 2, 40)
    assert sized(80, 3.0, 1.0, time_s) == expected


def test_slow_loading_is_no_slow_evaluation() -> None:
    # 2 x 30 s beside the steps, 10 evaluations of 0.5 s, 40 steps of 1 s: 105 s; not 10 evaluations of 29 s
    assert sized(40, 30.0, 1.0, 110, 0.5) == 40
    assert sized(40, 30.0, 1.0, 110) == 1


def test_the_best_trial_keeps_the_floor_and_forgets_most() -> None:
    a, b, c = trial_of(0.3, 0.9), trial_of(0.1, 0.8), trial_of(0.0, 0.1, passes=False)
    assert best([a, b, c], SearchGoal()) is b
    assert best([a, b, c], SearchGoal(0.35)) is a  # nearest to what a model that never saw the rows has
    assert best([b, trial_of(0.1, 0.9)], SearchGoal()).values[UTILITY] == 0.9


def test_general_ability_counts_like_utility() -> None:
    narrow, broken = (dataclasses.replace(trial_of(0.0, 1.0), ability=share) for share in (0.93, 0.5))
    wide = dataclasses.replace(trial_of(0.01, 0.95), ability=1.02)
    assert best([narrow, wide], SearchGoal(enough=0.05)) is wide  # it keeps 95 %, the other 93 %
    assert best([broken, trial_of(0.4, 0.95)], SearchGoal(enough=0.05)).values[KNOWN] == 0.4
    assert (narrow.retention, wide.retention, trial_of(0.0, 0.9).retention) == (0.93, 0.95, 0.9)
    assert narrow.able and trial_of(0.0, 0.9).able and not broken.able


def test_of_trials_that_forget_enough_the_most_useful_is_best() -> None:
    a, b, c = trial_of(0.04, 0.95), trial_of(0.01, 0.91), trial_of(0.06, 0.99)
    assert best([a, b, c], SearchGoal(enough=0.05)) is a
    assert best([b, c], SearchGoal(enough=0.05)) is b
    assert best([trial_of(0.2, 0.91), trial_of(0.26, 0.95)], SearchGoal(0.22, 0.05)).values[UTILITY] == 0.95


def test_without_one_that_keeps_the_floor_the_most_useful_is_written() -> None:
    worse, better = trial_of(0.0, 0.1, passes=False), trial_of(0.5, 0.7, passes=False)
    assert best([worse, trial_of(0.0, math.nan, passes=False), better], SearchGoal()) is better


def test_no_model_at_all_is_an_error() -> None:
    with pytest.raises(JobError, match="no trial produced a model"):
        best([trial_of(0.0, 0.0, passes=False, step=None)], SearchGoal())


def test_a_job_is_stopped_when_the_time_is_spent(tmp_path: Path) -> None:
    store, budget = Store(tmp_path), budget_of(0.0, tmp_path)
    late = carry_on("", [job()], store, show, budget=budget, until_s=0.0)
    assert list(late.failures.values()) == ["stopped, the budget is spent"]
    assert not store.done(job())
    assert carry_on("", [job()], store, show, budget=budget).failures == {}  # without a limit it ends
    assert store.done(job())


def test_the_clock_counts_what_earlier_calls_have_done(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "x"
    folder.mkdir(parents=True)
    write_record(folder / "job.json", provenance(job(), {}, JobStart()) | {"wall_s": 40.0})
    (tmp_path / "train" / "y").mkdir()
    (tmp_path / "train" / "y" / "job.json").write_text('{"wall_s": 40.0}')  # damaged: it does not count
    assert 40 <= budget_of(100, tmp_path).used_s < 60
    assert 40 < budget_of(100, tmp_path).left_s <= 60


@pytest.mark.parametrize(
    ("before", "after", "reference", "expected"),
    [
        (0.9, 0.09, None, 0.1),
        (0.9, 0.3, 0.1, 0.25),
        (0.9, 0.05, 0.1, -0.0625),  # below the reference: less than nothing is left
        (0.12, 0.1, 0.1, None),  # it hardly knew them
        (0.04, 0.04, None, None),
        (0.9, math.nan, None, None),
    ],
)
def test_what_is_left(before: float, after: float, reference: float | None, expected: float | None) -> None:
    assert left_over(before, after, reference) == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_the_reference_is_the_control_else_rows_never_seen() -> None:
    before = {KNOWN: MetricResult(0.9), "unseen_Q_A_Prob": MetricResult(0.2)}
    assert BeforeAfter(before, {}, {KNOWN: MetricResult(0.3)}).reference == 0.3
    assert BeforeAfter(before, {}, None).reference == 0.2
    assert BeforeAfter({KNOWN: MetricResult(0.9)}, {}, None).reference is None


def test_the_exit_code_says_whether_a_goal_was_missed() -> None:
    assert exit_code([EraseFinding("achieved", ""), EraseFinding("not known", "")]) == 0
    assert exit_code([EraseFinding("achieved", ""), EraseFinding("not achieved", "")]) == 3
