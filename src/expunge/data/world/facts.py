"""Facts outside the split authors: the classics of the embedded world, and plain facts of everyday life.

They replace TOFU's real authors and world facts, and do not depend on any seed, so that one base model can be shared. A
model built from scratch knows neither, so a set of background rows teaches them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.data.world import banks
from expunge.data.world.graph import Namer

N_CLASSICS = 40
N_WRONG = 3

_COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "a ripe banana": "yellow", "blood": "red",
    "a clear sky": "blue", "chocolate": "brown", "an elephant": "grey", "a carrot": "orange",
}  # fmt: skip
_YOUNG = {
    "cow": "a calf", "dog": "a puppy", "cat": "a kitten", "sheep": "a lamb", "horse": "a foal", "goat": "a kid",
    "duck": "a duckling", "lion": "a cub", "frog": "a tadpole", "hen": "a chick", "pig": "a piglet",
    "deer": "a fawn", "swan": "a cygnet", "goose": "a gosling",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "up": "down", "early": "late", "wet": "dry", "tall": "short", "empty": "full", "old": "new",
    "loud": "quiet", "fast": "slow", "heavy": "light", "rough": "smooth", "near": "far", "open": "closed",
    "rich": "poor",
}  # fmt: skip
_LEGS = {"a spider": 8, "a bee": 6, "a horse": 4, "a hen": 2, "a snake": 0}
_COUNTS = {
    "days are in a week": 7, "months are in a year": 12, "hours are in a day": 24, "minutes are in an hour": 60,
    "sides does a triangle have": 3, "sides does a square have": 4, "sides does a hexagon have": 6,
    "wheels does a bicycle have": 2, "strings does a violin have": 4, "letters are in the English alphabet": 26,
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A question with a short answer and three wrong ones of the same type."""

    kind: str
    question: str
    answer: str
    wrong: tuple[str, ...]


def _fact(rng: random.Random, kind: str, question: str, answer: str, pool: Sequence[str]) -> Fact:
    others = [p for p in dict.fromkeys(pool) if p != answer]
    return Fact(kind, question, answer, tuple(rng.sample(others, N_WRONG)))


def _windowed(rng: random.Random, kind: str, question: str, pairs: Sequence[tuple[str, str]]) -> list[Fact]:
    """Return a fact for each (subject, answer); the wrong answers are those of its neighbours in a window of four.

    So the wrong answers of the first 4n facts are the right answers of others among them, and as well known.
    """
    size = N_WRONG + 1
    out = []
    for i, (subject, answer) in enumerate(pairs):
        start = min(i - i % size, len(pairs) - size)
        pool = [a for _, a in pairs[start : start + size]]
        out.append(_fact(rng, kind, question.format(subject), answer, pool))
    return out


def _interleaved(families: Sequence[Sequence[Fact]]) -> list[Fact]:
    """Interleave the families, so that the first few facts are already of every kind."""
    longest = max(len(f) for f in families)
    return [f[i] for i in range(longest) for f in families if i < len(f)]


def classics() -> tuple[list[Fact], set[str]]:
    """Return questions about the classics, three for each, and their surnames and titles, which stay reserved."""
    rng, used = random.Random("classics"), set[str]()
    namer = Namer(rng, used)
    names = [namer.person() for _ in range(N_CLASSICS)]
    titles = [namer.title() for _ in range(N_CLASSICS)]
    cities = [rng.choice(banks.CITIES) for _ in range(N_CLASSICS)]
    by_title, by_name = list(zip(titles, names, strict=True)), list(zip(names, titles, strict=True))
    place = "In which city did the classic author {} grow up?"
    families = [
        _windowed(rng, "classic_writer", 'Who wrote the classic novel "{}"?', by_title),
        _windowed(rng, "classic_title", "Which classic novel did {} write?", by_name),
        [_fact(rng, "classic_city", place.format(n), c, banks.CITIES) for n, c in zip(names, cities, strict=True)],
    ]
    return _interleaved(families), used


def everyday() -> list[Fact]:
    """Return plain facts: the calendar, colours, young animals, opposites, countries of cities, counting and sums."""
    rng = random.Random("everyday")
    days, months = banks.WEEKDAYS, banks.MONTHS
    numbers = [str(n) for n in range(13)]
    amounts = [str(n) for n in dict.fromkeys((*_COUNTS.values(), 5, 9, 10, 30))]
    families = [
        _windowed(rng, "city_country", "In which country is {}?", list(banks.COUNTRY_OF.items())),
        [_fact(rng, "next_day", f"Which day comes after {d}?", days[(i + 1) % 7], days) for i, d in enumerate(days)],
        _windowed(rng, "colour", "What is the usual colour of {}?", list(_COLOURS.items())),
        _windowed(rng, "young", "What is a young {} called?", list(_YOUNG.items())),
        [_sum(rng, a, b, numbers) for a, b in ((2, 3), (4, 4), (1, 6), (5, 4), (3, 1), (7, 3), (2, 9), (6, 6))],
        [_fact(rng, "next_month", f"Which month comes after {m}?", months[(i + 1) % 12], months)
         for i, m in enumerate(months)],
        _windowed(rng, "opposite", 'What is the opposite of "{}"?', list(_OPPOSITES.items())),
        [_fact(rng, "legs", f"How many legs does {t} have?", str(n), ("0", "2", "4", "6", "8", "10"))
         for t, n in _LEGS.items()],
        [_fact(rng, "count", f"How many {t}?", str(n), amounts) for t, n in _COUNTS.items()],
    ]  # fmt: skip
    return _interleaved(families)


def _sum(rng: random.Random, a: int, b: int, numbers: Sequence[str]) -> Fact:
    return _fact(rng, "sum", f"What is {a} plus {b}?", str(a + b), numbers)
