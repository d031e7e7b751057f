"""The interface of a reward: a pure function over rollouts. It never sees a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expunge.core.registry import Registry


@dataclass(frozen=True)
class Rollout:
    """One text that the model sampled for a question.

    answer: the true answer. trace: the true trace, if the example has one. text: the whole generation, with its own
    trace and without special tokens. n_tokens: its number of tokens, with the end. stopped: whether the model ended it,
    not the length limit. side: the side of the question, "forget" or "retain". forbidden: the method's forbidden terms.
    """

    question: str
    answer: str
    text: str
    n_tokens: int
    stopped: bool
    trace: str | None = None
    side: str = "forget"
    forbidden: tuple[str, ...] = ()


RewardFunction = Callable[[Sequence[Rollout]], Sequence[float]]


@dataclass(frozen=True)
class RewardSpec:
    """A registered reward. revision: increased when the same texts get other rewards; part of a run's key above 1."""

    name: str
    compute: RewardFunction
    revision: int = 1

    @property
    def page(self) -> str:
        """The reward's page: its function's docstring."""
        return (self.compute.__doc__ or "").strip()


_REWARDS: Registry[RewardSpec] = Registry(
    "reward", lambda spec: spec.compute, folder="training/rewards", decorator="reward"
)


def reward(name: str, *, revision: int = 1) -> Callable[[RewardFunction], RewardFunction]:
    """Register `compute(rollouts) -> one number for each rollout` under the name that methods use in `rewards`."""

    def register(compute: RewardFunction) -> RewardFunction:
        _REWARDS.add(RewardSpec(name, compute, revision))
        return compute

    return register


def rewards() -> Mapping[str, RewardSpec]:
    """Return all rewards by name."""
    return _REWARDS


def find_reward(name: str, where: str = "") -> RewardSpec:
    """Return the reward of a name. Raises ConfigError with the nearest right name."""
    return _REWARDS.find(name, where)
