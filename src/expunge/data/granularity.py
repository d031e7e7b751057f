"""Split by the unit to forget: a question, a book, an author, a publisher, or a link of two of them.

After arcsf's experiments. Shares are shares of entities (of questions, of links) and are rounded down, as there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from expunge.core.errors import ConfigError, nearest
from expunge.data.examples import Example, ExampleSet, perturbed_name

ENTITIES = ("book", "author", "publisher")
LINK = "relationship"
GRANULARITIES = ("question", *ENTITIES, LINK)
AUTHORS, QUESTIONS, BIOGRAPHICAL = 200, 20, 4  # of TOFU
N_WRONG = 3
Sampling = Literal["clean", "arcsf"]


def n_forgotten(n: int, fraction: float, compat: Sampling = "clean") -> int:
    """Return how many of `n` a share is, rounded down: 0.05 of 10349 questions are 517."""
    if compat == "arcsf":
        return int(n * fraction)
    return math.floor(n * fraction + 1e-9)  # 0.29 * 100 is 28.999999999999996


@dataclass(frozen=True)
class Split:
    """Rows by side, in their order. entity, other: the retain rows with an entity of a forgotten link, and the others.

    Both are None unless links are forgotten.
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    entity: tuple[Example, ...] | None = None
    other: tuple[Example, ...] | None = None


def split_by(
    rows: Sequence[Example],
    granularity: str,
    fraction: float,
    *,
    entities: Mapping[str, Sequence[str]],
    links: Iterable[tuple[str, str]],
    seed: int,
    where: str,
    compat: Sampling = "clean",
) -> Split:
    """Split rows into forget and retain rows by `seed`. A row's `meta["keys"]` are its entities.

    granularity: "question" samples rows; "book", "author" or "publisher" samples `entities[granularity]` and forgets
    every row that names one of them; "relationship" samples `links` and forgets every row that names both ends.
    compat: "arcsf" draws the units that arcsf draws with the same seed. Raises ConfigError at `where` if nothing, or
    everything, would be forgotten.
    """
    units: Sequence[Any]
    if granularity == "question":
        units = range(len(rows))
    elif granularity == LINK:
        units = list(links)
    elif granularity in entities:
        units = entities[granularity]
    else:
        raise ConfigError(f"{where}granularity={granularity}: no such level{nearest(granularity, GRANULARITIES)}")
    theirs = compat == "arcsf"
    n = n_forgotten(len(units), fraction, compat)
    if not n:
        raise ConfigError(f"{where}forget_fraction={fraction}: gives 0 of {len(units)} {granularity}s to forget")
    # arcsf seeds the global generator with the number itself and samples once: positions depend on counts alone.
    sampled = random.Random(seed if theirs else f"{seed}/forget/{granularity}").sample(units, n)
    touched = {key for link in sampled for key in link} if granularity == LINK else set(sampled)
    if granularity == "question":
        forgotten = [i in touched for i in range(len(rows))]
    elif granularity == LINK:
        forgotten = [any(a in keys and b in keys for a, b in sampled) for keys in map(_keys, rows)]
    else:
        forgotten = [not touched.isdisjoint(_keys(row)) for row in rows]
    forget = tuple(r for r, g in zip(rows, forgotten, strict=True) if g)
    retain = tuple(r for r, g in zip(rows, forgotten, strict=True) if not g)
    for side, members in (("forget", forget), ("retain", retain)):
        if not members:
            raise ConfigError(
                f"{where}forget_fraction={fraction}: {n} of {len(units)} {granularity}s leave none of the {len(rows)} "
                f"rows to {side}"
            )
    if granularity != LINK:
        return Split(forget, retain)
    names = [not touched.isdisjoint(_keys(row)) for row in retain]
    return Split(
        forget,
        retain,
        tuple(r for r, n in zip(retain, names, strict=True) if n),
        tuple(r for r, n in zip(retain, names, strict=True) if not n),
    )


def askable(links: Iterable[tuple[str, str]], rows: Iterable[Example]) -> list[tuple[str, str]]:
    """Return the links of which some row names both ends, in their order."""
    keys = [_keys(row) for row in rows]
    return [(a, b) for a, b in dict.fromkeys(links) if any(a in k and b in k for k in keys)]


def row_set(name: str, rows: Iterable[Example]) -> ExampleSet:
    """Return rows as a new set, numbered from 0."""
    return ExampleSet(name, tuple(replace(row, row_id=i) for i, row in enumerate(rows)))


def spread(rows: Sequence[Example], most: int) -> Sequence[Example]:
    """Return at most `most` rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return [rows[i * len(rows) // most] for i in range(most)]


def _keys(row: Example) -> Collection[str]:
    keys: Collection[str] = row.meta.get("keys", ())
    return keys


@dataclass(frozen=True)
class TofuChoice:
    """The forgotten part of TOFU's 4000 rows; see `tofu_forgotten`."""

    granularity: str
    stratified: bool
    forget_random: bool
    author_fraction: float
    fact_fraction: float
    seed: int
    compat: Sampling = "clean"


def tofu_forgotten(choice: TofuChoice) -> list[int]:
    """Return the positions of the forgotten rows of TOFU's `full` (author i has the rows 20 i to 20 i + 19), ascending.

    author: all questions of `author_fraction` of the authors. question, stratified: of each of these authors
    floor(20 `fact_fraction`) questions at the same random positions, or without `forget_random` the first four, the
    biographical ones. question, not stratified: floor(4000 `fact_fraction`) rows of any author.
    Raises ConfigError if that leaves nothing.
    """
    if choice.granularity == "question" and not choice.stratified:
        if not choice.forget_random:
            raise ConfigError(
                "data.args.forget_random=false: the first questions of each author need data.args.stratified=true"
            )
        n = n_forgotten(AUTHORS * QUESTIONS, choice.fact_fraction, choice.compat)
        return _sample(AUTHORS * QUESTIONS, n, choice.seed, "forgotten_fact_fraction", choice.fact_fraction)
    n = n_forgotten(AUTHORS, choice.author_fraction)
    if choice.compat == "arcsf":  # its split of authors is scikit-learn's, which rounds a share up
        n = math.ceil(AUTHORS * choice.author_fraction)
    authors = _sample(AUTHORS, n, choice.seed, "forgotten_author_fraction", choice.author_fraction)
    if choice.granularity == "author":
        places: Sequence[int] = range(QUESTIONS)
    elif choice.forget_random:
        n = n_forgotten(QUESTIONS, choice.fact_fraction, choice.compat)
        places = _sample(QUESTIONS, n, choice.seed, "forgotten_fact_fraction", choice.fact_fraction, everything=True)
    else:
        places = range(BIOGRAPHICAL)
    return [QUESTIONS * author + place for author in authors for place in places]


def _sample(n: int, k: int, seed: int, key: str, fraction: float, *, everything: bool = False) -> list[int]:
    if not 1 <= k <= (n if everything else n - 1):
        raise ConfigError(f"data.args.{key}={fraction}: gives {k} of {n} to forget")
    if k == n:
        return list(range(n))
    from sklearn.model_selection import train_test_split  # imported here, because it takes a second

    return sorted(int(i) for i in train_test_split(range(n), test_size=k, random_state=seed)[1])


def with_wrong_answers(rows: Sequence[Example], others: Sequence[Example], seed: int) -> list[Example]:
    """Add three wrong answers to each of TOFU's rows: other answers of the same author, by `seed`.

    They come from the same side (`rows`), as in arcsf, and from the other side (`others`) only if that has too few.
    """
    own, far = _answers_by_author(rows), _answers_by_author(others)
    out = []
    for row in rows:
        author, rng = row.meta["author"], random.Random(f"{seed}/wrong/{row.meta['question_index']}")
        near = [a for a in own[author] if a != row.answer]
        picked = rng.sample(near, min(N_WRONG, len(near)))
        rest = [a for a in far.get(author, []) if a != row.answer and a not in picked]
        picked += rng.sample(rest, N_WRONG - len(picked))
        out.append(replace(row, answers={**row.answers, **{perturbed_name(i): w for i, w in enumerate(picked)}}))
    return out


def _answers_by_author(rows: Sequence[Example]) -> dict[int, list[str]]:
    answers: dict[int, list[str]] = {}
    for row in rows:
        answers.setdefault(row.meta["author"], []).append(row.answer)
    return answers
