"""The live view: totals and running jobs first, at any size of the terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from expunge.core.console import Console
from expunge.engine.job import Job
from expunge.engine.run import JobEvent, PlannedJob
from expunge.report.display import Display, plan_table, size_text


@dataclass(frozen=True, kw_only=True)
class ListedJob(Job):
    """A job that is only listed."""

    kind = "train"
    number: int


@pytest.mark.parametrize(("width", "height"), [(120, 40), (60, 12), (40, 8)])
def test_totals_and_running_jobs_are_always_in_sight(width: int, height: int) -> None:
    jobs = [ListedJob(label=f"model-{k}", number=k) for k in range(60)]
    console = Console(file=io.StringIO(), width=width, height=height)
    view = Display([PlannedJob(job, "missing", 1.0) for job in jobs], console)
    for job in jobs[:30]:
        view.tell(JobEvent(job, "done", wall_s=1.0))
    view.tell(JobEvent(jobs[40], "start"))
    view.tell(JobEvent(jobs[50], "failed", reason="not finite"))
    with console.capture() as records:
        console.print(view)
    lines = records.get().rstrip().splitlines()
    assert len(lines) <= height
    assert "all jobs" in lines[1] and "31/60" in lines[1]
    assert "train model-40" in lines[2] and "running" in lines[2]
    assert "model-50" in lines[3] and "failed" in lines[3]
    assert "more jobs" in lines[-1] or height >= 60


def test_a_narrow_terminal_cuts_names_and_no_numbers() -> None:
    jobs = [ListedJob(label=f"GradDiff-KL-with-a-long-name-{k}", number=k) for k in range(4)]
    console = Console(file=io.StringIO(), width=40, height=12)
    view = Display([PlannedJob(job, "missing", 5025.0) for job in jobs], console)
    view.tell(JobEvent(jobs[0], "start"))
    with console.capture() as records:
        console.print(view)
    text = records.get()
    assert "~5h 35m" in text and "running" in text and text.count("~1h 23m") == 4 and "left" in text.splitlines()[0]
    assert all(len(line.rstrip()) <= 40 for line in text.splitlines()) and "train Gra" in text


def test_a_tall_terminal_shows_every_job() -> None:
    jobs = [ListedJob(label=f"model-{k}", number=k) for k in range(5)]
    console = Console(file=io.StringIO(), width=100, height=40)
    with console.capture() as records:
        console.print(Display([PlannedJob(job, "missing", 1.0) for job in jobs], console))
    text = records.get()
    assert all(f"train model-{k}" in text for k in range(5)) and "more jobs" not in text


def test_a_continued_job_counts_the_time_of_its_own_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    job = ListedJob(label="model", number=0)
    view = Display([PlannedJob(job, "missing", 1.0)], Console(file=io.StringIO(), width=100))
    now = [0.0]
    monkeypatch.setattr("expunge.report.display.time.monotonic", lambda: now[0])
    view.tell(JobEvent(job, "start"))
    for now[0], done in zip([100.0, 110.0, 130.0], [300, 301, 303], strict=True):
        view.tell(JobEvent(job, "progress", done=done, total=400))
    assert view.state().left_s == pytest.approx(10.0 * 97)


def test_a_plan_in_a_narrow_terminal_cuts_no_name() -> None:
    labels = [f"forget_fraction=0.1,training=short/NPO(alpha=5,beta=0.{k})-u0" for k in range(3)]
    parent = ListedJob(label="forget_fraction=0.1,training=short/full", number=9)
    console = Console(file=io.StringIO(), width=80)
    jobs = [parent, *(ListedJob(label=label, number=k, parents={"model": parent}) for k, label in enumerate(labels))]
    with console.capture() as records:
        console.print(plan_table([PlannedJob(job, "missing", 1.0) for job in jobs]))
    columns = [line[8:36].strip() for line in records.get().splitlines()]
    assert all(label in "".join(columns) for label in labels)
    assert "…" not in records.get()


def test_sizes_are_in_binary_units() -> None:
    """The same as for memory: a plan names both."""
    sizes = (0, 100, 2000, 32_715_571, 10**9, 5 * 10**9)
    assert [size_text(n) for n in sizes] == ["0 B", "100 B", "1.95 KiB", "31.2 MiB", "0.931 GiB", "4.66 GiB"]
