"""The search space of a sweep, and its points: all, random by a seed, by bisection, or from Optuna."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.pipelines.study.config import SweepConfig
from expunge.pipelines.sweep.bisection import RatePoint, Strength, next_in_range

# settings of the number of steps; the same for all trials of all methods
BUDGET = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "schedule")
Values = Mapping[str, Any]  # key of method_args or args -> value


@strict
@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """Numbers from low to high."""

    low: float
    """The smallest value."""
    high: float
    """The largest value."""
    log: bool = False
    """Whether to draw evenly in the logarithm."""
    whole: bool = False
    """Whether to draw whole numbers."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("low must be > 0 if log is set")


Space = Mapping[str, Sequence[Any] | SearchRange]


@dataclass(frozen=True)
class TrialScore:
    """The result of a trial with these values for its sampler. score: lower is better. left: as in `RatePoint`."""

    values: Values
    score: float
    strength: Strength
    left: float


def read_space(keys: Mapping[str, Any], where: str) -> Space:
    """Return the keys of the search with their spaces. Raises ConfigError."""
    out: dict[str, Sequence[Any] | SearchRange] = {}
    for key, values in keys.items():
        group, _, name = key.partition(".")
        if group not in ("method_args", "args") or not name:
            raise ConfigError(f"{where}.{key}: must begin with method_args. or args., such as args.learning_rate")
        if group == "args" and name.partition(".")[0] in (*BUDGET, "seed"):
            raise ConfigError(f"{where}.{key}: all trials have the same number of steps and the same seed; remove it")
        if isinstance(values, Mapping):
            out[key] = decode(SearchRange, values, where=f"{where}.{key}")
        elif isinstance(values, list | tuple) and values and len({repr(v) for v in values}) == len(values):
            out[key] = tuple(values)
        else:
            raise ConfigError(f"{where}.{key}: must be a list of different values or {{low, high}}, got {values!r}")
    return out


def check_count(sweep: SweepConfig, where: str, space: Space) -> None:
    """Raise ConfigError unless the space has points for all trials."""
    trials, sampler = sweep.trials, sweep.sampler
    lists = [values for values in space.values() if not isinstance(values, SearchRange)]
    n = math.prod(len(values) for values in lists)
    if sampler == "bisect":
        of = next(iter(space.values())) if len(space) == 1 else None
        if not isinstance(of, SearchRange) or of.low <= 0 or of.whole:
            raise ConfigError(
                "sweep.sampler: bisect searches one range of positive numbers, such as args.learning_rate: "
                f"{{low: 1e-6, high: 1e-3}}, and {where} has {', '.join(space)}; choose random or tpe"
            )
    elif sampler == "grid":
        if len(lists) < len(space):
            raise ConfigError(f"sweep.sampler: grid takes lists, and {where} has a range; choose random, bisect or tpe")
        if n != trials:
            raise ConfigError(
                f"sweep.trials: the grid of {where} has {n} points, got {trials}; all methods have "
                "the same number of trials"
            )
    elif len(lists) == len(space) and n < trials:
        raise ConfigError(f"sweep.trials: {where} has {n} points to try, got {trials}")


def propose(sweep: SweepConfig, label: str, space: Space, results: Sequence[TrialScore]) -> list[Values]:
    """Return the next points after those with results; none after the last."""
    if len(results) == sweep.trials:
        return []
    seed = int(fingerprint({"sweep": sweep.seed, "method": label})[:8], 16)
    if sweep.sampler == "tpe":
        return _ask(space, sweep.trials, seed, [result.score for result in results])
    if sweep.sampler == "bisect":
        return [_bisected(space, results)]
    product = [v for v in space.values() if not isinstance(v, SearchRange)]
    if len(product) == len(space):
        points: list[Values] = [
            dict(zip(space, combination, strict=True)) for combination in itertools.product(*product)
        ]
        return points if sweep.sampler == "grid" else random.Random(seed).sample(points, sweep.trials)
    draws = random.Random(seed)
    return [{key: _draw(draws, values) for key, values in space.items()} for _ in range(sweep.trials)]


def _bisected(space: Space, results: Sequence[TrialScore]) -> Values:
    """Return the next value of the only key."""
    ((key, of),) = space.items()
    bounds = cast(SearchRange, of)  # check_count has refused a list
    points = [RatePoint(result.values[key], result.left, result.strength) for result in results]
    return {key: next_in_range(bounds.low, bounds.high, points)}


def _draw(draws: random.Random, values: Sequence[Any] | SearchRange) -> Any:
    if not isinstance(values, SearchRange):
        return draws.choice(values)
    at = draws.random()
    if values.log:
        value = math.exp(math.log(values.low) + at * (math.log(values.high) - math.log(values.low)))
    else:
        value = values.low + at * (values.high - values.low)
    return round(value) if values.whole else float(f"{value:.4g}")


def _ask(space: Space, trials: int, seed: int, scores: Sequence[float]) -> list[Values]:
    """Return Optuna's next points: half of the trials at random, then one after another.

    Deterministic: replaying the recorded scores reproduces the earlier points.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("sweep.sampler=tpe: optuna is not installed; pip install 'expunge[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    first = max(1, trials // 2)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
    search = optuna.create_study(sampler=sampler, direction="minimize")
    points: list[Values] = []
    for number in range(len(scores) + 1 if scores else first):
        trial = search.ask()
        values = {key: _suggest(trial, key, of) for key, of in space.items()}
        if number < len(scores):
            search.tell(trial, scores[number])
        else:
            points.append(values)
    return points


def _suggest(trial: Any, key: str, of: Sequence[Any] | SearchRange) -> Any:
    if not isinstance(of, SearchRange):
        return of[trial.suggest_categorical(key, list(range(len(of))))]  # by position: values may be of any kind
    if of.whole:
        return trial.suggest_int(key, round(of.low), round(of.high), log=of.log)
    return float(f"{trial.suggest_float(key, of.low, of.high, log=of.log):.4g}")
