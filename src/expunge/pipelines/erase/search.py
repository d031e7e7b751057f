"""The short search of `expunge erase`: time a step, plan the trials that fit, and select the best model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from expunge.core.errors import JobError
from expunge.core.files import write_sealed
from expunge.engine.job import Job
from expunge.engine.record import RECORD, read_record
from expunge.engine.run import JobEvent, PlannedJob, RunOutcome, plan, run
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.metrics.results import read_results
from expunge.pipelines.budget import Budget
from expunge.pipelines.erase.general import ability_left
from expunge.pipelines.erase.request import LEFT, UTILITY, EraseRun, only_rows, read_state
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.erase.trials import (
    LOOKS,
    MOST,
    SHORT,
    EraseTrial,
    SearchGoal,
    TrialResult,
    first_rate,
    fit_trial,
    methods_of,
    next_trial,
    number_or,
    own_args,
    trial_args,
    trial_job,
    trial_of,
    wanted_steps,
)
from expunge.pipelines.study_jobs import TRAJECTORY
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs

SEARCH_SHARE = 0.6  # share of the budget left at the start of the search; the rest is for the audits
REFINE_SHARE = 0.5  # share of the time left that may go to rows that are still known
BACKWARD = 3.0  # a step's time of a row, as a multiple of the time of reading it
SEVERAL = 2  # whole trials that should fit into the search: a longer trial gains more than a further rate
TIMED = 4  # timed steps; the first includes loading and the first evaluation
TIMED_SHARE = 0.05  # share of the budget; two slow steps are enough
PLAN, TRIED = "plan.json", "tried.json"
ENOUGH_SHARE = 0.5  # share of --max-residual at which a model has forgotten enough: utility then decides
NOT_RUN, STOPPED = "not run, the budget was spent", "stopped, the budget is spent"
Tell = Callable[[JobEvent], None]
Show = Callable[[str, Sequence[PlannedJob]], AbstractContextManager[Tell]]  # a stage and its jobs


class BudgetExceeded(JobError):
    """A job that was stopped because the budget is spent."""


def budget_of(limit_s: float, store: Path, spent: float = 0.0) -> Budget:
    """Return the budget of a call, less the time that is spent and that of the jobs that earlier calls finished."""
    for path in store.glob(f"*/*/{RECORD}"):
        with contextlib.suppress(JobError):  # the job of a damaged record fails with its reason
            spent += float((read_record(path) or {}).get("wall_s", 0.0))
    return Budget(limit_s, before_s=spent)


def carry_on(
    title: str,
    jobs: Sequence[Job],
    store: Store,
    show: Show,
    *,
    budget: Budget | None = None,
    until_s: float = math.inf,
) -> RunOutcome:
    """Run jobs. With a budget, stops a job that reports progress after `until_s` of the budget are spent."""
    with show(title, plan(jobs, store)) as tell:

        def watched(event: JobEvent) -> None:
            tell(event)
            if budget is not None and event.what == "progress" and event.done < event.total and budget.used_s > until_s:
                raise BudgetExceeded(STOPPED)

        return run(jobs, store, watched)


def run_job(title: str, job: Job, store: Store, show: Show) -> None:
    """Run a job that all later steps need. Raises its error."""
    outcome = carry_on(title, [job], store, show)
    if outcome.first:
        raise outcome.first


def measuring(maker: TrainingJobs, name: str, model: Job | None) -> Job:
    """Return the job of the metrics of a model; None: the model before."""
    return maker.metrics(name, maker.records(name, model), None)


def results_of(maker: TrainingJobs, job: Job, store: Store) -> dict[str, MetricResult]:
    """Return the results that a job of `measuring` has stored."""
    return dict(read_results(store.path(job) / maker.eval_file)[0])


def plan_search(erasing: EraseRun, goal: SearchGoal, store: Store, show: Show, budget: Budget) -> int:
    """Return the steps of a trial: fewer than wanted if the budget is too short, by timed steps. Saves them."""
    place = erasing.work / PLAN
    if place.is_file():
        return int(read_state(place)["steps"])
    first = trial_of(erasing, next(iter(methods_of(erasing))), first_rate(erasing), MOST)
    first_s, step_s = _timed(erasing, first, goal, store, show, TIMED_SHARE * budget.limit_s)
    look_s = look_share(erasing) * step_s
    steps = sized(wanted_steps(erasing), first_s, step_s, SEARCH_SHARE * budget.left_s, look_s)
    write_sealed(place, {"first_s": round(first_s, 3), "step_s": round(step_s, 3), "steps": steps})
    return steps


def look_share(erasing: EraseRun) -> float:
    """Return the time of an evaluation as a share of a step's, by their rows: a step also goes backward."""
    sets = erasing.search.setting.benchmark.sets
    read = 2 * len(sets["forget_eval"]) + len(sets["retain_eval"])
    return read / (2 * BACKWARD * own_args(erasing).rows_per_step)


def sized(steps: int, first_s: float, step_s: float, time_s: float, look_s: float = math.inf) -> int:
    """Return the steps of a trial, by the time of the search.

    All of them if SEVERAL such trials fit, else as many as let SEVERAL fit, but at least SHORT; and of these as many as
    fit once, at least one.

    first_s: seconds to the end of the first step, with loading and an evaluation. A trial also evaluates and saves.
    look_s: seconds of an evaluation; at most those of the first step without the step itself.
    """
    fixed = 2 * first_s + LOOKS * min(look_s, max(first_s - step_s, 0.0))
    several, one = (int((time - fixed) / max(step_s, 1e-6)) for time in (time_s / SEVERAL, time_s))
    return max(1, min(steps, max(SHORT, several), one))


def _timed(
    erasing: EraseRun, trial: EraseTrial, goal: SearchGoal, store: Store, show: Show, longest_s: float
) -> tuple[float, float]:
    """Return the seconds to the end of a trial's first step, and of a later step. Saves no result.

    longest_s: after this time, two steps are enough.
    """
    job = trial_job(erasing, trial, goal)
    at: list[float] = []

    def enough() -> bool:
        return len(at) > TIMED or (len(at) > 2 and at[-1] - at[0] > longest_s)

    with show("how long a step takes", plan([job], store)) as tell:

        def watched(event: JobEvent) -> None:
            mine = event.job.key == job.key
            if mine and event.what in ("start", "progress"):
                at.append(time.monotonic())
            if mine and event.what == "failed" and enough():
                return  # stopped by `enough`
            tell(event)
            if enough():
                raise BudgetExceeded("timed")

        outcome = run([job], store, watched)
    if not enough() and outcome.first:
        raise outcome.first
    return at[1] - at[0], (at[-1] - at[1]) / max(len(at) - 2, 1)


def search(
    erasing: EraseRun, steps: int, goal: SearchGoal, store: Store, show: Show, budget: Budget
) -> list[TrialResult]:
    """Run one trial after another while there is time. The first always ends; a later one that takes too long is lost.

    A trial's model is also measured by items of general ability. Saves the outcomes, so that a later call runs the same
    trials and selects the same model.
    """
    until_s = budget.used_s + SEARCH_SHARE * budget.left_s
    results: list[TrialResult] = []
    place = erasing.work / TRIED
    failures: dict[str, str] | None = read_state(place)["failures"] if place.is_file() else None
    while (trial := next_trial(erasing, results, goal, steps)) is not None:
        job = trial_job(erasing, trial, goal)
        if failures is not None and trial.label in failures:
            results.append(TrialResult(trial, job, reason=failures[trial.label]))
        elif results and not store.there(job) and budget.used_s + _longest(results, store) > until_s:
            results.append(TrialResult(trial, job, reason=NOT_RUN))
        else:
            limit = budget if results else None
            title = f"trial {len(results) + 1}: {trial.label}"
            result = finished_trial(trial, job, store, show, title=title, budget=limit, until_s=until_s)
            results.append(with_ability(erasing, result, store, show))
        if results[-1].reason in (NOT_RUN, STOPPED):
            break
    write_sealed(place, {"failures": {t.trial.label: t.reason for t in results if t.step is None}})
    return results


def finished_trial(
    trial: EraseTrial,
    job: Job,
    store: Store,
    show: Show,
    *,
    title: str = "",
    budget: Budget | None = None,
    until_s: float = math.inf,
) -> TrialResult:
    """Run the job of a trial, within a budget if there is one, and return its result or the reason of its failure."""
    outcome = carry_on(title or trial.label, [job], store, show, budget=budget, until_s=until_s)
    if job.key in outcome.failures:
        return TrialResult(trial, job, reason=outcome.failures[job.key])
    return _trial_result(trial, job, store)


def with_ability(erasing: EraseRun, result: TrialResult, store: Store, show: Show) -> TrialResult:
    """Return the result with the general ability of its model, if it has one and the model before is above chance."""
    if result.step is None:
        return result
    sides = []
    for name, model in (("ability before", None), (f"ability {result.trial.label}", result.job)):
        job = measuring(erasing.ability, name, model)
        if not store.there(job):
            run_job(f"general {name}", job, store, show)
        sides.append(results_of(erasing.ability, job, store))
    return dataclasses.replace(result, ability=ability_left(*sides))


def _longest(results: Sequence[TrialResult], store: Store) -> float:
    """Return the seconds of the longest finished trial."""
    return max((float((store.readable_record(t.job) or {}).get("wall_s", 0.0)) for t in results), default=0.0)


def _trial_result(trial: EraseTrial, job: Job, store: Store) -> TrialResult:
    facts = (store.record(job) or {})["facts"]["evaluation"]
    lines = [json.loads(x) for x in (store.path(job) / TRAJECTORY).read_text(encoding="utf-8").splitlines()]
    point: dict[str, Any] = next((line for line in lines if line["step"] == facts["kept_step"]), {})
    values = {k: math.nan if point.get(k) is None else float(point[k]) for k in (KNOWN, LEFT, UTILITY)}
    passes = facts["best_step"] is not None
    start, last = (number_or(lines[i].get(UTILITY) if lines else None, math.nan) for i in (0, -1))
    reason = "" if passes else str(facts["note"])
    return TrialResult(trial, job, facts["kept_step"], values, passes, reason, start, last)


def refine(
    erasing: EraseRun,
    winner: TrialResult,
    left: Sequence[int],
    goal: SearchGoal,
    store: Store,
    show: Show,
    budget: Budget,
) -> TrialResult | None:
    """Train the best model further on the rows that it still knows; the forgotten rows have left the forget set.

    The floor stays that of the model before the erasure. The mean of all rows may have been low enough before, so the
    lowest is best here. None if the time does not suffice.
    """
    floor = min(1.0, erasing.request.floor * winner.start_utility / winner.values[UTILITY])
    if not (math.isfinite(floor) and floor > 0):
        return None
    trial = dataclasses.replace(winner.trial, steps=max(SHORT // 2, winner.trial.steps // 2))
    own = only_rows(erasing, left)
    job = fit_trial(own, trial, winner.job, trial_args(own, trial, goal.nearest(), floor))
    if not store.there(job) and _longest([winner], store) / 2 > REFINE_SHARE * budget.left_s:
        return None
    title = f"{len(left)} rows that are still known: {trial.label}"
    result = finished_trial(trial, job, store, show, title=title, budget=budget, until_s=budget.limit_s)
    result = with_ability(erasing, result, store, show)
    return dataclasses.replace(result, start_utility=winner.start_utility, refined=True)


def best(results: Sequence[TrialResult], goal: SearchGoal) -> TrialResult:
    """Return the trial with the best model.

    Order of trials that meet the floor: general ability; most forgetting, or nearest to the goal; more utility and
    general ability. Trials that have forgotten enough count as equal in forgetting. If no trial meets the floor: the
    most utility. Raises JobError if no trial has a model.
    """
    able = [t for t in results if t.step is not None]
    if not able:
        raise JobError(f"no trial produced a model: {results[0].reason if results else 'none was planned'}")
    passing = [t for t in able if t.passes]
    if not passing:
        return max(able, key=lambda t: number_or(t.values[UTILITY], -math.inf))
    return min(passing, key=lambda t: (not t.able, max(goal.distance(t.values[KNOWN]), goal.enough), -t.retention))
