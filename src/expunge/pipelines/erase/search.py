"""The short search of `expunge erase`: time a step, plan the trials that fit, and select the best model."""

from __future__ import annotations

import contextlib
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
from expunge.core.sealed import write_sealed
from expunge.engine.job import Job
from expunge.engine.record import RECORD, read_record
from expunge.engine.run import JobEvent, PlannedJob, RunOutcome, plan, run
from expunge.engine.store import Store
from expunge.methods.objective import objective
from expunge.pipelines.erase.request import AUTO, LEFT, UTILITY, EraseRun, only_rows, read_state
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.study.estimate import parameters
from expunge.pipelines.study.job_facts import TRAJECTORY
from expunge.training.budget import Budget
from expunge.training.config import EvaluateArgs, SelectionRule, TrainArgs
from expunge.training.lora import LoraArgs

SEARCH_SHARE = 0.6  # share of the budget left at the start of the search; the rest is for the audits
EPOCHS, FEWEST, MOST = 20, 40, 400  # steps of a trial: passes over the forget rows, and bounds
LOOKS = 10  # evaluations of a trial
REFINE_SHARE = 0.5  # share of the time left that may go to rows that are still known
BACKWARD = 3.0  # a step's time of a row, as a multiple of the time of reading it
TIMED = 4  # timed steps; the first includes loading and the first evaluation
TIMED_SHARE = 0.05  # share of the budget; two slow steps are enough
PLAN, TRIED = "plan.json", "tried.json"
# Trials in order: the method, its settings, and the factor of its learning rate. A large retain weight helps: utility
# falls in the first steps of any method, and returns while the rows stay forgotten.
NEAR: Mapping[str, Any] = {"alpha": 5.0, "retain_loss_type": "KL"}
CANDIDATES: tuple[tuple[str, Mapping[str, Any], float], ...] = (
    ("NPO", NEAR, 1.0),
    ("NPO", NEAR, 0.5),
    ("SimNPO", NEAR, 2.0),
    ("SimNPO", NEAR, 4.0),  # its gradient vanishes early, so a small model needs more
    ("NPO", NEAR, 2.0),
    ("SimNPO", NEAR, 8.0),
    ("GradDiff", NEAR, 0.5),
    ("GradDiff", NEAR, 0.25),
)
FACTORS = (1.0, 0.5, 2.0, 0.25, 4.0)
LORA_FROM = 100e6  # parameters from which trials train LoRA adapters, unless `unlearn.lora` is set
LORA_RATE = 10.0  # factor of the learning rate of adapters, which start at zero
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
        """The name in tables."""
        return f"{self.method} lr={self.learning_rate:.3g}"


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial: the step of its saved model, the numbers at that step, and whether it meets the floor.

    reason: why there is no model, or no model that passes. start_utility: the utility before its first step.
    refined: whether it continues another trial.
    """

    trial: EraseTrial
    job: Job
    step: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    passes: bool = False
    reason: str = ""
    start_utility: float = math.nan
    refined: bool = False


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
                raise BudgetExceeded("stopped, the budget is spent")

        return run(jobs, store, watched)


def candidates(erasing: EraseRun) -> list[EraseTrial]:
    """Return the candidate trials in order, without their steps."""
    request = erasing.request
    n = parameters(request.study.model)
    rate = next(rate for most, rate in RATES if n <= most) if n else RATES[-1][1]
    if own_args(erasing).lora is not None:
        rate *= LORA_RATE
    if request.method == AUTO:
        options = CANDIDATES
    else:
        name = objective(request.method, request.method_args).spec.name
        options = tuple((name, request.method_args, factor) for factor in FACTORS)
    if request.learning_rate is not None:
        rate, first = request.learning_rate, {name: args for name, args, _ in reversed(options)}
        options = tuple((name, first[name], 1.0) for name in dict.fromkeys(name for name, *_ in options))
    return [EraseTrial(name, float(f"{rate * factor:.3g}"), 0, dict(args)) for name, args, factor in options]


def own_args(erasing: EraseRun) -> TrainArgs:
    """Return the user's settings of the training, with LoRA by default for a large model."""
    study = erasing.request.study
    args = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    own_keys = {"lora", "trainable_last_k_layers", "trainable_params_regex"} & study.unlearn.keys()
    n = parameters(study.model)  # 0 for a hub id, whose models are large as a rule
    return dataclasses.replace(args, lora=LoraArgs()) if not own_keys and (n == 0 or n >= LORA_FROM) else args


def weights_rate(erasing: EraseRun, trial: EraseTrial) -> float:
    """Return the learning rate of a trial for the training of weights, without adapters."""
    return trial.learning_rate / (1.0 if own_args(erasing).lora is None else LORA_RATE)


def trial_args(erasing: EraseRun, trial: EraseTrial, goal: float | None, floor: float | None = None) -> TrainArgs:
    """Return the training settings of a trial with LOOKS evaluations, which keeps its best model.

    It has no early stopping, because utility falls before it returns. floor: in place of the request's.
    """
    request, own = erasing.request, own_args(erasing)
    least = request.floor if floor is None else floor
    rule = SelectionRule(utility=UTILITY, forget=KNOWN, floor=least, target="low" if goal is None else goal)
    looks = EvaluateArgs(steps=max(1, trial.steps // LOOKS), panel=(KNOWN, LEFT, UTILITY), keep="best", rule=rule)
    return dataclasses.replace(
        own, learning_rate=trial.learning_rate, max_steps=trial.steps, seed=request.seed, evaluate=looks
    )


def trial_job(erasing: EraseRun, trial: EraseTrial, goal: float | None) -> Job:
    """Return the job of a trial. goal: the value of a model that never saw the rows; None: as low as possible."""
    return _fit(erasing, trial, None, trial_args(erasing, trial, goal))


def _fit(erasing: EraseRun, trial: EraseTrial, start: Job | None, args: TrainArgs) -> Job:
    sides = {"forget": ("forget",), "retain": ("retain",)}
    return erasing.search.fit(trial.label, start, objective(trial.method, trial.method_args), sides, args)


def check_trials(erasing: EraseRun) -> None:
    """Raise ConfigError for wrong settings of the training or the method, before any measurement."""
    for option in candidates(erasing):
        trial_job(erasing, dataclasses.replace(option, steps=FEWEST), None)


def wanted_steps(erasing: EraseRun) -> int:
    """Return the steps of a trial without a time limit."""
    n = len(erasing.sets["forget"]) if erasing.preflight is None else len(erasing.preflight.known)
    return min(max(EPOCHS * math.ceil(n / own_args(erasing).rows_per_step), FEWEST), MOST)


def plan_search(erasing: EraseRun, goal: float | None, store: Store, show: Show, budget: Budget) -> list[EraseTrial]:
    """Return the trials that fit the budget, by timed steps. Saves the plan for later calls."""
    place = erasing.work / PLAN
    if place.is_file():
        return [EraseTrial(**trial) for trial in read_state(place)["trials"]]
    options, steps = candidates(erasing), wanted_steps(erasing)
    longest_s = TIMED_SHARE * budget.limit_s
    first_s, step_s = _timed(erasing, dataclasses.replace(options[0], steps=MOST), goal, store, show, longest_s)
    look_s = look_share(erasing) * step_s
    n, steps = sized(len(options), steps, first_s, step_s, SEARCH_SHARE * budget.left_s, look_s)
    trials = [dataclasses.replace(option, steps=steps) for option in options[:n]]
    entries = [dataclasses.asdict(trial) for trial in trials]
    write_sealed(place, {"first_s": round(first_s, 3), "step_s": round(step_s, 3), "trials": entries})
    return trials


def look_share(erasing: EraseRun) -> float:
    """Return the time of an evaluation as a share of a step's, by their rows: a step also goes backward."""
    sets = erasing.search.setting.benchmark.sets
    read = 2 * len(sets["forget_eval"]) + len(sets["retain_eval"])
    return read / (2 * BACKWARD * own_args(erasing).rows_per_step)


def sized(
    n: int, steps: int, first_s: float, step_s: float, time_s: float, look_s: float = math.inf
) -> tuple[int, int]:
    """Return how many of n trials fit into a time, at least one, and their steps, which may be fewer.

    first_s: seconds to the end of the first step, with loading and an evaluation. A trial also evaluates and saves.
    look_s: seconds of an evaluation; at most those of the first step without the step itself.
    """
    fixed = 2 * first_s + LOOKS * min(look_s, max(first_s - step_s, 0.0))
    whole = fixed + steps * step_s
    if whole <= time_s:
        return min(n, int(time_s / whole)), steps
    return 1, max(1, min(steps, int((time_s - fixed) / max(step_s, 1e-6))))


def _timed(
    erasing: EraseRun, trial: EraseTrial, goal: float | None, store: Store, show: Show, longest_s: float
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
    erasing: EraseRun, trials: Sequence[EraseTrial], goal: float | None, store: Store, show: Show, budget: Budget
) -> list[TrialResult]:
    """Run the trials while there is time. The first always ends; a later one that takes too long is dropped.

    Saves the outcomes, so that a later call runs the same trials and selects the same model.
    """
    until_s = budget.used_s + SEARCH_SHARE * budget.left_s
    results: list[TrialResult] = []
    place = erasing.work / TRIED
    failures: dict[str, str] | None = read_state(place)["failures"] if place.is_file() else None
    for i, trial in enumerate(trials):
        job = trial_job(erasing, trial, goal)
        if failures is not None and trial.label in failures:
            results.append(TrialResult(trial, job, reason=failures[trial.label]))
            continue
        if i and not store.there(job) and budget.used_s + _longest(results, store) > until_s:
            results.append(TrialResult(trial, job, reason="not run, the budget was spent"))
            continue
        title = f"trial {i + 1} of {len(trials)}: {trial.label}"
        limit = None if i == 0 else budget
        results.append(finished_trial(trial, job, store, show, title=title, budget=limit, until_s=until_s))
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


def _longest(results: Sequence[TrialResult], store: Store) -> float:
    """Return the seconds of the longest finished trial."""
    return max((float((store.readable_record(t.job) or {}).get("wall_s", 0.0)) for t in results), default=0.0)


def _trial_result(trial: EraseTrial, job: Job, store: Store) -> TrialResult:
    facts = (store.record(job) or {})["facts"]["evaluation"]
    lines = [json.loads(x) for x in (store.path(job) / TRAJECTORY).read_text(encoding="utf-8").splitlines()]
    point: dict[str, Any] = next((line for line in lines if line["step"] == facts["kept_step"]), {})
    values = {k: math.nan if point.get(k) is None else float(point[k]) for k in (KNOWN, LEFT, UTILITY)}
    passes = facts["best_step"] is not None
    start = lines[0].get(UTILITY) if lines else None
    reason = "" if passes else str(facts["note"])
    return TrialResult(
        trial, job, facts["kept_step"], values, passes, reason, math.nan if start is None else float(start)
    )


def refine(
    erasing: EraseRun,
    winner: TrialResult,
    left: Sequence[int],
    goal: float | None,
    store: Store,
    show: Show,
    budget: Budget,
) -> TrialResult | None:
    """Train the best model further on the rows that it still knows; the forgotten rows have left the forget set.

    The floor stays that of the model before the erasure. None if the time does not suffice.
    """
    floor = min(1.0, erasing.request.floor * winner.start_utility / winner.values[UTILITY])
    if not (math.isfinite(floor) and floor > 0):
        return None
    trial = dataclasses.replace(winner.trial, steps=max(FEWEST // 2, winner.trial.steps // 2))
    own = only_rows(erasing, left)
    job = _fit(own, trial, winner.job, trial_args(own, trial, goal, floor))
    if not store.there(job) and _longest([winner], store) / 2 > REFINE_SHARE * budget.left_s:
        return None
    title = f"{len(left)} rows that are still known: {trial.label}"
    result = finished_trial(trial, job, store, show, title=title, budget=budget, until_s=budget.limit_s)
    return dataclasses.replace(result, refined=True)


def best(results: Sequence[TrialResult], goal: float | None) -> TrialResult:
    """Return the trial with the best model.

    Among trials that meet the floor: the one that forgets most (or is nearest to the goal), then more utility. If no
    trial meets the floor: the most utility. Raises JobError if no trial has a model.
    """
    able = [t for t in results if t.step is not None]
    if not able:
        raise JobError(f"no trial produced a model: {results[0].reason if results else 'none was planned'}")
    passing = [t for t in able if t.passes]
    if not passing:
        return max(able, key=lambda t: _number(t.values[UTILITY]))
    away = {id(t): t.values[KNOWN] if goal is None else abs(t.values[KNOWN] - goal) for t in passing}
    return min(passing, key=lambda t: (away[id(t)], -t.values[UTILITY]))


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
