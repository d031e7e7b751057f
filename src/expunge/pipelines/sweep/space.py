"""Where a sweep looks for settings, and which points of it are tried: all, drawn by a seed, or asked of Optuna."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.pipelines.study.config import SweepConfig

# what decides how many steps a run has; the same for all trials of all methods
BUDGET = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "schedule")
Values = Mapping[str, Any]  # key of method_args or args -> value


@strict
@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """Numbers from low to high; log: drawn evenly in the logarithm; whole: whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("low must be > 0 where log is set")


Space = Mapping[str, Sequence[Any] | SearchRange]


def read_space(given: Mapping[str, Any], where: str) -> Space:
    """The keys that are searched, and where. Raises ConfigError."""
    out: dict[str, Sequence[Any] | SearchRange] = {}
    for key, values in given.items():
        group, _, name = key.partition(".")
        if group not in ("method_args", "args") or not name:
            raise ConfigError(f"{where}.{key}: must begin with method_args. or args., such as args.learning_rate")
        if group == "args" and name.partition(".")[0] in (*BUDGET, "seed"):
            raise ConfigError(f"{where}.{key}: all trials have as many steps and the same seed; it is not searched")
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
    if sampler == "grid":
        if len(lists) < len(space):
            raise ConfigError(f"sweep.sampler: grid takes lists, and {where} has a range; choose random or tpe")
        if n != trials:
            raise ConfigError(
                f"sweep.trials: the grid of {where} has {n} points, got {trials}: as many for all methods"
            )
    elif len(lists) == len(space) and n < trials:
        raise ConfigError(f"sweep.trials: {where} has {n} points to try, got {trials}")


def propose(sweep: SweepConfig, label: str, space: Space, told: Sequence[float]) -> list[Values]:
    """The next points to try, after those whose scores (lower is better) are told; none when all are."""
    if len(told) == sweep.trials:
        return []
    seed = int(fingerprint({"sweep": sweep.seed, "method": label})[:8], 16)
    if sweep.sampler == "tpe":
        return _ask(space, sweep.trials, seed, told)
    product = [v for v in space.values() if not isinstance(v, SearchRange)]
    if len(product) == len(space):
        points: list[Values] = [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*product)]
        return points if sweep.sampler == "grid" else random.Random(seed).sample(points, sweep.trials)
    draws = random.Random(seed)
    return [{key: _draw(draws, values) for key, values in space.items()} for _ in range(sweep.trials)]


def _draw(draws: random.Random, values: Sequence[Any] | SearchRange) -> Any:
    if not isinstance(values, SearchRange):
        return draws.choice(values)
    at = draws.random()
    if values.log:
        made = math.exp(math.log(values.low) + at * (math.log(values.high) - math.log(values.low)))
    else:
        made = values.low + at * (values.high - values.low)
    return round(made) if values.whole else float(f"{made:.4g}")


def _ask(space: Space, trials: int, seed: int, told: Sequence[float]) -> list[Values]:
    """Optuna's next points: half of the trials at once at random, then one after the other. What it has said before it
    says again, for it is asked anew from the start."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("sweep.sampler=tpe: optuna is not installed; pip install 'expunge[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    first = max(1, trials // 2)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
    search = optuna.create_study(sampler=sampler, direction="minimize")
    made: list[Values] = []
    for number in range(len(told) + 1 if told else first):
        trial = search.ask()
        values = {key: _suggest(trial, key, of) for key, of in space.items()}
        if number < len(told):
            search.tell(trial, told[number])
        else:
            made.append(values)
    return made


def _suggest(trial: Any, key: str, of: Sequence[Any] | SearchRange) -> Any:
    if not isinstance(of, SearchRange):
        return of[trial.suggest_categorical(key, list(range(len(of))))]  # by position: values may be of any kind
    if of.whole:
        return trial.suggest_int(key, round(of.low), round(of.high), log=of.log)
    return float(f"{trial.suggest_float(key, of.low, of.high, log=of.log):.4g}")
