"""The short search of `expunge erase`: how long a step takes, which trials fit, and which of the models is the best."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import JobError
from expunge.core.files import write_json
from expunge.engine.job import Job
from expunge.engine.run import JobEvent, PlannedJob, RunOutcome, plan, run
from expunge.engine.store import RECORD, Store
from expunge.methods.objective import objective
from expunge.pipelines.erase.request import AUTO, KNOWN, LEFT, UTILITY, EraseRun
from expunge.pipelines.study.estimate import parameters
from expunge.pipelines.study.work import TRAJECTORY
from expunge.training.config import EvaluateArgs, SelectionRule, TrainArgs

SEARCH_SHARE = 0.6  # of what is left of the budget when the search begins; the rest is for the audits
EPOCHS, FEWEST, MOST = 20, 40, 400  # steps of a trial: so many passes over the forget rows, within these bounds
LOOKS = 10  # evaluations of a trial
TIMED = 4  # steps that are timed, the first of them with loading and the evaluation at the start
TIMED_SHARE = 0.05  # of the budget; of slow steps two are enough
PLAN, TRIED = "plan.json", "tried.json"
# What is tried, in order: the method, its settings, and what its learning rate is multiplied by. A large retain weight
# pays: utility falls in the first steps of any method, and comes back while the rows stay forgotten.
NEAR: Mapping[str, Any] = {"alpha": 5.0, "retain_loss_type": "KL"}
CANDIDATES: tuple[tuple[str, Mapping[str, Any], float], ...] = (
    ("NPO", NEAR, 1.0),
    ("NPO", NEAR, 0.5),
    ("SimNPO", NEAR, 2.0),
    ("NPO", NEAR, 2.0),
    ("GradDiff", NEAR, 0.5),
    ("GradDiff", NEAR, 0.25),
)
FACTORS = (1.0, 0.5, 2.0, 0.25, 4.0)
# A learning rate to begin with, by the number of parameters: small models need large ones.
RATES = ((5e6, 6e-4), (5e7, 1e-4), (5e8, 3e-5), (math.inf, 1e-5))

Tell = Callable[[JobEvent], None]
Show = Callable[[str, Sequence[PlannedJob]], AbstractContextManager[Tell]]  # a stage and its jobs


class BudgetExceeded(JobError):
    """A job that was stopped because the budget is spent."""


@dataclass(frozen=True)
class EraseTrial:
    """One run of the search."""

    method: str
    learning_rate: float
    steps: int
    method_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.method} lr={self.learning_rate:.3g}"


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial: the step whose model was kept, its numbers there, and whether it kept the floor.

    reason: why there is no model, or none that passes.
    """

    trial: EraseTrial
    job: Job
    step: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    passes: bool = False
    reason: str = ""


class BudgetClock:
    """How much of the budget is spent: by the jobs that earlier calls have finished, and by this call."""

    def __init__(self, budget_s: float, store: Path) -> None:
        self.budget_s = budget_s
        self._began = time.monotonic()
        self._before = 0.0
        for record in store.glob(f"*/*/{RECORD}"):
            self._before += float(json.loads(record.read_text(encoding="utf-8")).get("wall_s", 0.0))

    @property
    def spent_s(self) -> float:
        """Seconds."""
        return self._before + time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Seconds; below 0 when the budget is overdrawn."""
        return self.budget_s - self.spent_s


def carry_on(
    title: str,
    jobs: Sequence[Job],
    store: Store,
    show: Show,
    *,
    clock: BudgetClock | None = None,
    until_s: float = math.inf,
) -> RunOutcome:
    """Do some jobs; with a clock, one that reports progress when `until_s` of the budget are spent is stopped."""
    with show(title, plan(jobs, store)) as tell:

        def watched(event: JobEvent) -> None:
            tell(event)
            if clock is not None and event.what == "progress" and event.done < event.total and clock.spent_s > until_s:
                raise BudgetExceeded("stopped, the budget is spent")

        return run(jobs, store, watched)


def candidates(erasing: EraseRun) -> list[EraseTrial]:
    """What may be tried, in order, without their steps."""
    request = erasing.request
    n = parameters(request.study.model)
    rate = next(rate for most, rate in RATES if n <= most) if n else RATES[-1][1]
    if request.method == AUTO:
        tried = CANDIDATES
    else:
        name = objective(request.method, request.method_args).spec.name
        tried = tuple((name, request.method_args, factor) for factor in FACTORS)
    if request.learning_rate is not None:
        rate, first = request.learning_rate, {name: args for name, args, _ in reversed(tried)}
        tried = tuple((name, first[name], 1.0) for name in dict.fromkeys(name for name, *_ in tried))
    return [EraseTrial(name, float(f"{rate * factor:.3g}"), 0, dict(args)) for name, args, factor in tried]


def trial_args(erasing: EraseRun, trial: EraseTrial, goal: float | None) -> TrainArgs:
    """The training settings of a trial: it looks LOOKS times and keeps its best model. It has no patience, for utility
    falls before it comes back."""
    request = erasing.request
    own = decode(TrainArgs, dict(request.study.unlearn), where="unlearn")
    rule = SelectionRule(utility=UTILITY, forget=KNOWN, floor=request.floor, target="low" if goal is None else goal)
    looks = EvaluateArgs(steps=max(1, trial.steps // LOOKS), panel=(KNOWN, LEFT, UTILITY), keep="best", rule=rule)
    return dataclasses.replace(
        own, learning_rate=trial.learning_rate, max_steps=trial.steps, seed=request.seed, evaluate=looks
    )


def trial_job(erasing: EraseRun, trial: EraseTrial, goal: float | None) -> Job:
    """The run of a trial. goal: the value that a model which never saw the rows has; None: as low as it goes."""
    chosen = objective(trial.method, trial.method_args)
    sides = {"forget": ("forget",), "retain": ("retain",)}
    return erasing.search.fit(trial.label, None, chosen, sides, trial_args(erasing, trial, goal))


def check_trials(erasing: EraseRun) -> None:
    """Raise ConfigError where a setting of the training or of the method cannot be: before anything is measured."""
    for option in candidates(erasing):
        trial_job(erasing, dataclasses.replace(option, steps=FEWEST), None)


def wanted_steps(erasing: EraseRun) -> int:
    """The steps of a trial when time is no matter."""
    own = decode(TrainArgs, dict(erasing.request.study.unlearn), where="unlearn")
    per_pass = math.ceil(len(erasing.sets["forget"]) / own.rows_per_step)
    return min(max(EPOCHS * per_pass, FEWEST), MOST)


def plan_search(
    erasing: EraseRun, goal: float | None, store: Store, show: Show, clock: BudgetClock
) -> list[EraseTrial]:
    """The trials that fit, by the time that a few steps took. Written down, so that a later call tries the same."""
    place = erasing.work / PLAN
    if place.is_file():
        return [EraseTrial(**trial) for trial in json.loads(place.read_text(encoding="utf-8"))["trials"]]
    options, steps = candidates(erasing), wanted_steps(erasing)
    longest_s = TIMED_SHARE * clock.budget_s
    first_s, step_s = _timed(erasing, dataclasses.replace(options[0], steps=MOST), goal, store, show, longest_s)
    n, steps = sized(len(options), steps, first_s, step_s, SEARCH_SHARE * clock.left_s)
    trials = [dataclasses.replace(option, steps=steps) for option in options[:n]]
    told = [dataclasses.asdict(trial) for trial in trials]
    write_json(place, {"first_s": round(first_s, 3), "step_s": round(step_s, 3), "trials": told})
    return trials


def sized(n: int, steps: int, first_s: float, step_s: float, time_s: float) -> tuple[int, int]:
    """How many of n trials fit into a time, and of how many steps; one always does, at the cost of its steps.

    first_s: until the end of the first step, with loading and an evaluation. A trial loads, looks and saves besides.
    """
    beside = 2 * first_s + LOOKS * max(first_s - step_s, 0.0)
    whole = beside + steps * step_s
    if whole <= time_s:
        return min(n, int(time_s / whole)), steps
    return 1, max(1, min(steps, int((time_s - beside) / max(step_s, 1e-6))))


def _timed(
    erasing: EraseRun, trial: EraseTrial, goal: float | None, store: Store, show: Show, longest_s: float
) -> tuple[float, float]:
    """Seconds until the first step of a trial is done, and of a step after it. Nothing is kept of that run.

    longest_s: once so many have gone, two steps are enough.
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
                return  # stopped here, on purpose
            tell(event)
            if enough():
                raise BudgetExceeded("timed")

        outcome = run([job], store, watched)
    if not enough() and outcome.first:
        raise outcome.first
    return at[1] - at[0], (at[-1] - at[1]) / max(len(at) - 2, 1)


def search(
    erasing: EraseRun, trials: Sequence[EraseTrial], goal: float | None, store: Store, show: Show, clock: BudgetClock
) -> list[TrialResult]:
    """Carry out the trials while there is time. The first one always ends; a later one that lasts too long is
    lost. What became of them is written down: a later call tries no others, and so chooses the same model."""
    until_s = clock.spent_s + SEARCH_SHARE * clock.left_s
    made: list[TrialResult] = []
    place = erasing.work / TRIED
    lost: dict[str, str] | None = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    for i, trial in enumerate(trials):
        job = trial_job(erasing, trial, goal)
        if lost is not None and trial.label in lost:
            made.append(TrialResult(trial, job, reason=lost[trial.label]))
            continue
        if i and not store.there(job) and clock.spent_s + _longest(made, store) > until_s:
            made.append(TrialResult(trial, job, reason="not tried, the budget was spent"))
            continue
        title = f"trial {i + 1} of {len(trials)}: {trial.label}"
        outcome = carry_on(title, [job], store, show, clock=clock if i else None, until_s=until_s)
        if job.key in outcome.failures:
            made.append(TrialResult(trial, job, reason=outcome.failures[job.key]))
            continue
        made.append(_tried(trial, job, store))
    write_json(place, {t.trial.label: t.reason for t in made if t.step is None})
    return made


def _longest(made: Sequence[TrialResult], store: Store) -> float:
    """Seconds that the longest of the finished trials took."""
    return max((float((store.found(t.job) or {}).get("wall_s", 0.0)) for t in made), default=0.0)


def _tried(trial: EraseTrial, job: Job, store: Store) -> TrialResult:
    facts = (store.record(job) or {})["facts"]["evaluation"]
    lines = [json.loads(x) for x in (store.path(job) / TRAJECTORY).read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = next((line for line in lines if line["step"] == facts["kept_step"]), {})
    values = {k: math.nan if found.get(k) is None else float(found[k]) for k in (KNOWN, LEFT, UTILITY)}
    passes = facts["best_step"] is not None
    return TrialResult(trial, job, facts["kept_step"], values, passes, "" if passes else str(facts["note"]))


def best(tried: Sequence[TrialResult], goal: float | None) -> TrialResult:
    """The trial whose kept model is the best: of those that keep the floor the one that forgets most (or is nearest to
    the goal), of equals the one with more utility; if none keeps it, the one with the most utility.

    Raises JobError where no trial has a model.
    """
    able = [t for t in tried if t.step is not None]
    if not able:
        raise JobError(f"no trial made a model: {tried[0].reason if tried else 'none was planned'}")
    passing = [t for t in able if t.passes]
    if not passing:
        return max(able, key=lambda t: _number(t.values[UTILITY]))
    away = {id(t): t.values[KNOWN] if goal is None else abs(t.values[KNOWN] - goal) for t in passing}
    return min(passing, key=lambda t: (away[id(t)], -t.values[UTILITY]))


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
