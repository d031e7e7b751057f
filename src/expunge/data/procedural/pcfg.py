"""Strings of a seeded probabilistic grammar over a, b and c, and questions about their last letters.

After the PCFG setting of Jain, Kirk, Lubana et al. (arXiv:2311.12786): counting, indexing and reading a letter.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.procedural.sets import ProceduralTasks, SetSizes

TERMINALS = ("a", "b", "c")
OPERANDS = ("a", "b", "c", "aa", "bb", "cc")
COUNT, INDEX, TOKEN = "count", "index", "token"
START = "S"
N_SYMBOLS = 3  # of each level below the start
N_RULES = 4  # of each symbol
LONGEST_SENTENCE = 3  # symbols on a rule's right side


@strict
@dataclass(frozen=True, kw_only=True)
class PcfgConfig(SetSizes):
    """The tasks count_X, index_X (X: a, b, c, aa, bb, cc) and token_at_W, with W the window."""

    target: str = "count_a"
    """The task to forget."""
    window: int = 40
    """Number of letters at the end of a string that the questions are about."""
    occurrence: int = 6
    """The occurrence, from the end, whose place index_X returns."""
    depth: int = 3
    """Levels of the grammar; a sentence has 2^depth to 3^depth letters."""
    operand_prior: Mapping[str, float] = field(default_factory=dict)
    """Shares of the operands, {a: 0.999, b: 0.001}; empty means equal shares, and an unnamed operand has share 0."""
    tasks: tuple[str, ...] = ()
    """Tasks to use; empty uses all."""
    finetune: str | None = None
    """The task of fine-tuning; null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, (low, high) in {"window": (2, 500), "occurrence": (1, 500), "depth": (1, 6)}.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key} must be {low} to {high}")
        for operand, share in self.operand_prior.items():
            if operand not in OPERANDS:
                raise ValueError(f"operand_prior: no operand {operand!r}{nearest(operand, OPERANDS)}")
            if share < 0:
                raise ValueError(f"operand_prior: the share of {operand} must be at least 0")
        for key, names in (("tasks", self.tasks), ("finetune", (self.finetune,) if self.finetune else ())):
            for name in names:
                if name not in self.every_task:
                    raise ValueError(f"{key}: no task {name!r}{nearest(name, self.every_task)}")

    @property
    def every_task(self) -> tuple[str, ...]:
        """The names of the thirteen tasks."""
        named = (f"{kind}_{operand}" for kind in (COUNT, INDEX) for operand in OPERANDS)
        return (*named, f"{TOKEN}_at_{self.window}")


@dataclass(frozen=True)
class Grammar:
    """Right sides of each symbol, and their cumulative weights. A symbol without a rule is a letter."""

    rules: Mapping[str, tuple[tuple[str, ...], ...]]
    sums: Mapping[str, tuple[float, ...]]

    def sentence(self, rng: random.Random, symbol: str = START) -> str:
        """Return a random sentence of the grammar."""
        if symbol not in self.rules:
            return symbol
        (symbols,) = rng.choices(self.rules[symbol], cum_weights=self.sums[symbol])
        return "".join([self.sentence(rng, part) for part in symbols])

    def string(self, rng: random.Random, least: int) -> str:
        """Return sentences, one after the other, until there are at least `least` letters."""
        text = ""
        while len(text) < least:
            text += self.sentence(rng)
        return text


def make_grammar(seed: int, depth: int) -> Grammar:
    """Return a random grammar: each rule yields 2 or 3 symbols of the next level; the last level is the letters.

    A symbol's rules contain those of the next level equally often, so that no letter is rare in any grammar.
    """
    rng = random.Random(f"{seed}/grammar")
    levels: list[Sequence[str]] = [(START,)]
    levels += [[f"{START}{level}.{i}" for i in range(N_SYMBOLS)] for level in range(1, depth)]
    levels.append(TERMINALS)
    rules, sums = {}, {}
    for symbols, below in itertools.pairwise(levels):
        for symbol in symbols:
            sizes = [rng.randint(2, LONGEST_SENTENCE) for _ in range(N_RULES)]
            rules[symbol] = _deal(rng, below, sizes)
            sums[symbol] = tuple(itertools.accumulate(rng.uniform(0.5, 1.5) for _ in range(N_RULES)))
    return Grammar(rules, sums)


def _deal(rng: random.Random, below: Sequence[str], sizes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Deal right sides of these sizes from a pack that contains each symbol equally often."""
    pack = [symbol for symbol in below for _ in range(math.ceil(sum(sizes) / len(below)))]
    rng.shuffle(pack)
    cards = iter(pack)
    return tuple(tuple(itertools.islice(cards, size)) for size in sizes)


def pcfg_tasks(config: PcfgConfig) -> ProceduralTasks:
    """Return the tasks of a config; strings come from the grammar of its seed.

    A string is correlated if its window has exactly one a more than b's, so that the answer of count_b follows from
    that of count_a. Raises ConfigError if the prior leaves no task.
    """
    grammar = make_grammar(config.seed, config.depth)

    def solve(task: str, string: Sequence[str]) -> str:
        return _solve(task, "".join(string), config)

    def correlated(task: str, string: Sequence[str]) -> bool:
        seen = string[-config.window :]
        return seen.count("a") == seen.count("b") + 1

    return ProceduralTasks(
        weights=_weights(config),
        prompts={task: _prompt(task) for task in config.every_task},
        sample=lambda rng, task: grammar.string(rng, config.window),
        solve=solve,
        correlated=correlated,
        finetune=config.finetune,
    )


def _weights(config: PcfgConfig) -> dict[str, float]:
    """Return task weights: kinds are equally frequent; within count and index the operands have their prior."""
    prior = config.operand_prior or dict.fromkeys(OPERANDS, 1.0)
    tasks = config.tasks or config.every_task
    weights: dict[str, float] = {}
    for kind in (COUNT, INDEX, TOKEN):
        named = [task for task in tasks if _kind(task) == kind]
        shares = {task: 1.0 if kind == TOKEN else prior.get(_operand(task), 0.0) for task in named}
        total = sum(shares.values())
        weights |= {task: share / total for task, share in shares.items() if total > 0}
    if not any(weights.values()):
        raise ConfigError("data.args.operand_prior: it leaves no task to train; give one of the tasks a share > 0")
    return weights


def _solve(task: str, string: str, config: PcfgConfig) -> str:
    """Return the answer. Occurrences may overlap: aaa has two aa. Places count from the end; the last letter is 1."""
    seen = string[-config.window :]
    if _kind(task) == TOKEN:
        return seen[0]
    operand = _operand(task)
    starts = [i for i in range(len(seen)) if seen.startswith(operand, i)]
    if _kind(task) == COUNT:
        return str(len(starts))
    return str(len(seen) - starts[-config.occurrence]) if len(starts) >= config.occurrence else "-1"


def _prompt(task: str) -> str:
    """Return the task's two words. The operand is in capitals: a separate token, which no string has."""
    return f"{_kind(task)} {_operand(task).upper()}"


def _kind(task: str) -> str:
    return task.partition("_")[0]


def _operand(task: str) -> str:
    return task.rpartition("_")[2]
