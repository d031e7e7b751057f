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
    """The tasks count_X, index_X (X: a, b, c, aa, bb, cc) and token_at_W, W the window.

    window: the last letters of a string that are asked about. occurrence: the one whose place index_X asks for, from
    the end. depth: levels of the grammar; a sentence has 2^depth to 3^depth letters. operand_prior: the shares of the
    operands, {a: 0.999, b: 0.001}; none means equal ones, and one that is not named has none. tasks: these alone; none
    means all. finetune: the task that fine-tuning teaches.
    """

    target: str = "count_a"
    window: int = 40
    occurrence: int = 6
    depth: int = 3
    operand_prior: Mapping[str, float] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    finetune: str | None = None

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
    """Right sides of each symbol, and their weights, summed up. What has no rule is a letter."""

    rules: Mapping[str, tuple[tuple[str, ...], ...]]
    sums: Mapping[str, tuple[float, ...]]

    def sentence(self, rng: random.Random, symbol: str = START) -> str:
        """A sentence of the grammar."""
        if symbol not in self.rules:
            return symbol
        (chosen,) = rng.choices(self.rules[symbol], cum_weights=self.sums[symbol])
        return "".join([self.sentence(rng, part) for part in chosen])

    def string(self, rng: random.Random, least: int) -> str:
        """Sentences, one after the other, until there are at least `least` letters."""
        found = ""
        while len(found) < least:
            found += self.sentence(rng)
        return found


def make_grammar(seed: int, depth: int) -> Grammar:
    """A random grammar: each rule makes 2 or 3 symbols of the next level; the last level is the letters.

    A symbol's rules hold those of the next level equally often, so that no letter is rare in any grammar.
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
    """Right sides of these sizes, dealt from a pack that holds each symbol equally often."""
    pack = [symbol for symbol in below for _ in range(math.ceil(sum(sizes) / len(below)))]
    rng.shuffle(pack)
    cards = iter(pack)
    return tuple(tuple(itertools.islice(cards, size)) for size in sizes)


def pcfg_tasks(config: PcfgConfig) -> ProceduralTasks:
    """The tasks of a config; strings come from the grammar of its seed.

    A string is correlated where its window has exactly one a more than it has b's, so that the answer of count_b
    follows from that of count_a. Raises ConfigError where the prior leaves no task.
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
    """Each kind of task is as frequent as the others; within count and index the operands have their prior."""
    prior = config.operand_prior or dict.fromkeys(OPERANDS, 1.0)
    wanted = config.tasks or config.every_task
    weights: dict[str, float] = {}
    for kind in (COUNT, INDEX, TOKEN):
        named = [task for task in wanted if _kind(task) == kind]
        shares = {task: 1.0 if kind == TOKEN else prior.get(_operand(task), 0.0) for task in named}
        total = sum(shares.values())
        weights |= {task: share / total for task, share in shares.items() if total > 0}
    if not any(weights.values()):
        raise ConfigError("data.args.operand_prior: it leaves no task to train")
    return weights


def _solve(task: str, string: str, config: PcfgConfig) -> str:
    """The answer. Occurrences may overlap: aaa has two aa. Places count from the end, the last letter being 1."""
    seen = string[-config.window :]
    if _kind(task) == TOKEN:
        return seen[0]
    operand = _operand(task)
    starts = [i for i in range(len(seen)) if seen.startswith(operand, i)]
    if _kind(task) == COUNT:
        return str(len(starts))
    return str(len(seen) - starts[-config.occurrence]) if len(starts) >= config.occurrence else "-1"


def _prompt(task: str) -> str:
    """The task's two words. The operand is in capitals: a token of its own, that no string has."""
    return f"{_kind(task)} {_operand(task).upper()}"


def _kind(task: str) -> str:
    return task.partition("_")[0]


def _operand(task: str) -> str:
    return task.rpartition("_")[2]
