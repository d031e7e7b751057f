"""The graph of the embedded world: authors, their books, the publishers, and the links between them."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.data.world import banks


@dataclass(frozen=True)
class Entity:
    """An object with a name. `key` is unique in its world, such as `author:0003` or `city:lisbon`."""

    key: str
    type: str
    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class EntityLink:
    """A link of kind `kind` from `source` to `target`; both are keys of entities."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class Book:
    """A book: `year` is that of its first edition."""

    key: str
    title: str
    publisher: str
    year: int
    setting: str
    language: str


@dataclass(frozen=True)
class Author:
    """An author with the facts that questions are about. `index` counts within the main or holdout authors."""

    index: int
    key: str
    name: str
    born: datetime.date
    birth_city: str
    residence: str
    parents: str
    genre: str
    books: tuple[Book, Book]
    award: str
    subject: str
    university_city: str
    first_job: str
    theme: str
    hobby: str
    friend: Author | None  # always an earlier author, so no retain author's rows name a forgotten one


class Namer:
    """Generates names of people and titles of books, each once. `used` is shared by all that must not collide."""

    def __init__(self, rng: random.Random, used: set[str]) -> None:
        self.rng = rng
        self.used = used

    def person(self) -> str:
        """Return a full name with a unique surname."""
        while True:
            pick = self.rng.choice
            first = pick(banks.FIRST_STARTS) + pick(banks.FIRST_ENDS)
            syllables = self.rng.choice((1, 2, 2))
            surname = "".join(pick(banks.ONSETS) + pick(banks.VOWELS) for _ in range(syllables)) + pick(banks.ENDINGS)
            if len(surname) >= 4 and surname not in self.used:
                self.used.add(surname)
                return f"{first} {surname.capitalize()}"

    def title(self) -> str:
        """Return a unique book title."""
        while True:
            adjective = self.rng.choice(banks.TITLE_ADJECTIVES)
            noun, other = self.rng.sample(banks.TITLE_NOUNS, 2)
            article = banks.article(adjective).capitalize()
            pattern = self.rng.choice(banks.TITLE_PATTERNS)
            title = pattern.format(adjective=adjective, noun=noun, other=other, article=article)
            if title not in self.used:
                self.used.add(title)
                return title


def stream(seed: int, *parts: object) -> random.Random:
    """Return a separate random stream for each purpose, so that settings do not affect each other's results."""
    return random.Random("/".join(str(p) for p in (seed, *parts)))


def publishers(seed: int, n_authors: int) -> list[str]:
    """Return the publishers: one for five authors, at least 8."""
    every = [f"{first} {last}" for first in banks.HOUSE_FIRST for last in banks.HOUSE_LAST]
    return stream(seed, "publishers").sample(every, min(max(8, n_authors // 5), len(every)))


def make_authors(seed: int, group: str, n: int, houses: list[str], used: set[str]) -> list[Author]:
    """Return `n` authors in order; the first ones do not depend on `n` except through `houses`."""
    namer = Namer(stream(seed, group, "names"), used)
    births: set[tuple[str, datetime.date]] = set()
    authors: list[Author] = []
    for index in range(n):
        rng = stream(seed, group, index)
        born, birth_city = _birth(rng, births)
        code = f"{'h' if group == 'holdout' else ''}{index:04d}"
        authors.append(
            Author(
                index=index,
                key=f"author:{code}",
                name=namer.person(),
                born=born,
                birth_city=birth_city,
                residence=rng.choice([c for c in banks.CITIES if c != birth_city]),
                parents=" and ".join(banks.with_article(o) for o in rng.sample(banks.OCCUPATIONS, 2)),
                genre=rng.choice(banks.GENRES),
                books=_books(rng, code, born.year, houses, namer),
                award=rng.choice(banks.AWARDS),
                subject=rng.choice(banks.SUBJECTS),
                university_city=rng.choice(banks.CITIES),
                first_job=banks.with_article(rng.choice(banks.OCCUPATIONS)),
                theme=rng.choice(banks.THEMES),
                hobby=rng.choice(banks.HOBBIES),
                friend=rng.choice(authors) if authors else None,
            )
        )
    return authors


def _birth(rng: random.Random, births: set[tuple[str, datetime.date]]) -> tuple[datetime.date, str]:
    """Return a birth date and city that no other author shares, so that the two together identify one author."""
    while True:
        city, born = rng.choice(banks.CITIES), some_date(rng)
        if (city, born) not in births:
            births.add((city, born))
            return born, city


def some_date(rng: random.Random) -> datetime.date:
    """Return a birth date between 1930 and 1980."""
    return datetime.date(1930, 1, 1) + datetime.timedelta(days=rng.randrange(51 * 365))


def date_text(day: datetime.date) -> str:
    """Format a date as "3 May 1961", in any locale."""
    return f"{day.day} {banks.MONTHS[day.month - 1]} {day.year}"


def _books(rng: random.Random, code: str, birth_year: int, houses: list[str], namer: Namer) -> tuple[Book, Book]:
    first = birth_year + rng.randint(22, 36)
    years = (first, first + rng.randint(2, 6))
    settings, languages = rng.sample(banks.CITIES, 2), rng.sample(banks.LANGUAGES, 2)
    one, two = (
        Book(f"book:{code}-{i + 1}", namer.title(), rng.choice(houses), years[i], settings[i], languages[i])
        for i in range(2)
    )
    return one, two


def slug(type_: str, name: str) -> str:
    """Return the key of an entity that its name identifies: `city:lisbon`."""
    return f"{type_}:{name.lower().replace(' ', '-')}"


def entities_and_links(authors: list[Author], houses: list[str]) -> tuple[dict[str, Entity], tuple[EntityLink, ...]]:
    """Return the graph of the authors (with holdout authors), in a fixed order."""
    entities: dict[str, Entity] = {}
    links: list[EntityLink] = []

    def add(type_: str, name: str) -> str:
        key = slug(type_, name)
        entities.setdefault(key, Entity(key, type_, name, {}))
        return key

    for city, country in banks.COUNTRY_OF.items():
        links.append(EntityLink(add("city", city), add("country", country), "in"))
    for house in houses:
        add("publisher", house)
    for a in authors:
        fields = {
            "born": a.born.isoformat(), "parents": a.parents, "subject": a.subject, "first_job": a.first_job,
            "theme": a.theme, "hobby": a.hobby,
        }  # fmt: skip
        entities[a.key] = Entity(a.key, "author", a.name, fields)
        targets = [
            ("born_in", "city", a.birth_city), ("lives_in", "city", a.residence),
            ("studied_in", "city", a.university_city), ("writes", "genre", a.genre), ("won", "award", a.award),
        ]  # fmt: skip
        links += [EntityLink(a.key, add(type_, name), kind) for kind, type_, name in targets]
        if a.friend is not None:
            links.append(EntityLink(a.key, a.friend.key, "friend_of"))
        for book in a.books:
            entities[book.key] = Entity(book.key, "book", book.title, {"year": book.year, "language": book.language})
            links.append(EntityLink(book.key, a.key, "written_by"))
            links.append(EntityLink(book.key, add("publisher", book.publisher), "published_by"))
            links.append(EntityLink(book.key, add("city", book.setting), "set_in"))
    return entities, tuple(links)
