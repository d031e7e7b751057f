"""The trials of an erasure's search: the settings of their training, and their results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.decode import decode
from expunge.data.examples import ANSWER
from expunge.engine.job import Job
from expunge.methods.objective import objective
from expunge.models.trial import check_part_names
from expunge.pipelines.erase.proposals import LATE, METHODS, Outcome, method_settings, propose
from expunge.pipelines.erase.request import AUTO, LEFT, UTILITY, EraseRun
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.study_jobs.estimate import parameters
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs, SelectionRule
from expunge.training.lora import LoraArgs
from expunge.training.phases import names_of_args, names_of_method

EPOCHS, FEWEST, MOST = 40, 120, 400  # steps of a trial: passes over the forget rows, and bounds
SHORT = 40  # steps of a trial of which several must fit into the budget
LOOKS = 10  # evaluations of a trial
PATIENCE = 4  # evaluations without a better model after which a trial ends; those in which utility returns do not count
MOST_TRIALS = 12
MOST_COUNTED = 64  # rows whose tokens are counted
LORA_FROM = 100e6  # parameters from which trials train LoRA adapters, unless `unlearn.lora` is set
LORA_RATE = 10.0  # factor of the learning rate of adapters, which start at zero
ABILITY_FLOOR = 0.9  # share of general ability; a model below it comes after all others
# A learning rate to begin with, by the number of parameters: small models need large ones.
RATES = ((5e6, 6e-4), (5e7, 1e-4), (5e8, 3e-5), (math.inf, 1e-5))


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
class SearchGoal:
    """The goal of a search: the probability of the answers in a model that never saw the rows, if it is known.

    target: that value; None: as low as possible. enough: a distance from it (from 0) that suffices. start: the
    probability of the answers before the erasure.
    """

    target: float | None = None
    enough: float = 0.0
    start: float = math.nan

    def distance(self, value: float) -> float:
        """Return the distance of a probability from the goal."""
        return value if self.target is None else abs(value - self.target)

    def nearest(self) -> SearchGoal:
        """Return the goal for which only the nearest value is best."""
        return dataclasses.replace(self, enough=0.0)


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial: the step of its saved model, the numbers at that step, and whether it meets the floor.

    reason: why there is no model, or no model that passes. start_utility: the utility before its first step.
    last_utility: the utility after its last step. ability: the general ability as a share of the start; NaN if it was
    not measured. refined: whether it continues another trial.
    """

    trial: EraseTrial
    job: Job
    step: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    passes: bool = False
    reason: str = ""
    start_utility: float = math.nan
    last_utility: float = math.nan
    ability: float = math.nan
    refined: bool = False

    @property
    def retention(self) -> float:
        """The utility or the general ability as a share of the start, the smaller of both."""
        utility = self.values.get(UTILITY, math.nan) / self.start_utility
        return min(number_or(utility, math.inf), number_or(self.ability, math.inf))  # a missing share does not count

    @property
    def able(self) -> bool:
        """Whether general ability is not below its floor, or not measured."""
        return not self.ability < ABILITY_FLOOR


def methods_of(erasing: EraseRun) -> dict[str, float]:
    """Return the methods of a search in order -> the factor of the first learning rate of each."""
    request = erasing.request
    return dict(METHODS) if request.method == AUTO else {_own_method(erasing): 1.0}


def _own_method(erasing: EraseRun) -> str:
    return objective(erasing.request.method, erasing.request.method_args).spec.name


def first_rate(erasing: EraseRun) -> float:
    """Return the learning rate of the first trial: the user's, or by the number of parameters."""
    if erasing.request.learning_rate is not None:
        return erasing.request.learning_rate
    n = parameters(erasing.request.study.model)
    rate = next(rate for most, rate in RATES if n <= most) if n else RATES[-1][1]
    return rate * (1.0 if own_args(erasing).lora is None else LORA_RATE)


def trial_of(erasing: EraseRun, method: str, rate: float, steps: int) -> EraseTrial:
    """Return a trial of a method with the user's settings, or those of the search."""
    own = erasing.request.method_args
    args = method_settings(method, answer_tokens(erasing)) if erasing.request.method == AUTO else own
    return EraseTrial(method, rate, steps, dict(args))


def answer_tokens(erasing: EraseRun) -> float:
    """Return the mean number of tokens of the answers that are trained on, of the first ones."""
    setting = erasing.search.setting
    rows = setting.benchmark.sets["forget"]
    some = [(row, ANSWER) for row in rows.rows[:MOST_COUNTED]]
    encoded = setting.encoder(str(setting.model.source)).rows(rows, some)
    return math.fsum(one.n_answer for one in encoded) / max(len(encoded), 1)


def next_trial(erasing: EraseRun, results: Sequence[TrialResult], goal: SearchGoal, steps: int) -> EraseTrial | None:
    """Return the next trial after these results; None if no other is worth it."""
    fixed = erasing.request.learning_rate is not None
    outcomes = [outcome_of(erasing, result, goal) for result in results]
    proposal = propose(methods_of(erasing), first_rate(erasing), outcomes, fixed=fixed)
    if proposal is None or len(results) >= MOST_TRIALS:
        return None
    return trial_of(erasing, proposal.method, proposal.rate, steps)


def outcome_of(erasing: EraseRun, result: TrialResult, goal: SearchGoal) -> Outcome:
    """Return a result as shares of the model at the start. A trial without a model counts as too strong."""
    known = result.values.get(KNOWN, math.nan)
    gap = goal.distance(goal.start)
    left = goal.distance(known) / gap if gap > 0 else math.nan
    retention = result.retention if result.passes and result.able else math.nan
    is_enough = result.passes and result.able and goal.distance(known) <= goal.enough
    last = result.last_utility / result.start_utility
    trial = result.trial
    late = result.step is not None and result.step >= LATE * trial.steps
    return Outcome(trial.method, trial.learning_rate, left, retention, last, is_enough, erasing.request.floor, late)


def number_or(value: float | None, other: float) -> float:
    """Return a finite number, or the other value."""
    return other if value is None or not math.isfinite(value) else float(value)


def own_args(erasing: EraseRun) -> TrainArgs:
    """Return the user's settings of the training, with LoRA by default for a large model."""
    request = erasing.request
    args = decode(TrainArgs, dict(request.study.unlearn), where="unlearn")
    is_set = args.lora is not None or args.trainable_last_k_layers or args.trainable_params_regex
    n = parameters(request.study.model)  # 0 for a hub id, whose models are large as a rule
    is_default = request.default_lora and not is_set and (n == 0 or n >= LORA_FROM)
    return dataclasses.replace(args, lora=LoraArgs()) if is_default else args


def weights_rate(erasing: EraseRun, trial: EraseTrial) -> float:
    """Return the learning rate of a trial for the training of weights, without adapters."""
    return trial.learning_rate / (1.0 if own_args(erasing).lora is None else LORA_RATE)


def trial_args(erasing: EraseRun, trial: EraseTrial, goal: SearchGoal, floor: float | None = None) -> TrainArgs:
    """Return the training settings of a trial with LOOKS evaluations, which keeps its best model.

    It ends after PATIENCE evaluations without a better model, because utility falls before it returns. floor: in place
    of the request's.
    """
    request, own = erasing.request, own_args(erasing)
    least = request.floor if floor is None else floor
    rule = SelectionRule(
        utility=UTILITY, forget=KNOWN, floor=least, target="low" if goal.target is None else goal.target,
        enough=goal.enough,
    )  # fmt: skip
    looks = EvaluateArgs(
        steps=max(1, trial.steps // LOOKS), panel=(KNOWN, LEFT, UTILITY), keep="best", patience=PATIENCE, rule=rule
    )
    return dataclasses.replace(
        own, learning_rate=trial.learning_rate, max_steps=trial.steps, seed=request.seed, evaluate=looks
    )


def trial_job(erasing: EraseRun, trial: EraseTrial, goal: SearchGoal) -> Job:
    """Return the job of a trial."""
    return fit_trial(erasing, trial, None, trial_args(erasing, trial, goal))


def fit_trial(erasing: EraseRun, trial: EraseTrial, start: Job | None, args: TrainArgs) -> Job:
    """Return the job that trains a model, or the one of `start`, with these settings."""
    sides = {"forget": ("forget",), "retain": ("retain",)}
    return erasing.search.fit(trial.label, start, objective(trial.method, trial.method_args), sides, args)


def check_trials(erasing: EraseRun) -> None:
    """Raise ConfigError for wrong settings of the training or the method, before any measurement."""
    names = names_of_args(own_args(erasing), "unlearn")
    for method in methods_of(erasing):
        trial = trial_of(erasing, method, first_rate(erasing), FEWEST)
        trial_job(erasing, trial, SearchGoal())
        loss = objective(trial.method, trial.method_args)
        names += names_of_method(loss, "--method.method_args")
    work = erasing.work
    check_part_names(erasing.request.study.model, work if work.is_dir() else None, names)


def wanted_steps(erasing: EraseRun) -> int:
    """Return the steps of a trial without a time limit."""
    n = len(erasing.sets["forget"]) if erasing.preflight is None else len(erasing.preflight.known)
    return min(max(EPOCHS * math.ceil(n / own_args(erasing).rows_per_step), FEWEST), MOST)
