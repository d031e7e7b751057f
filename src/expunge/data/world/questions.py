"""The kinds of questions about an author. Each has one answer value, of one type, and three wordings.

A row has one wording and its paraphrase another. Every wording occurs for some authors, so a model that learned the
rows knows all of them. A paraphrase tests the fact rather than the phrasing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from expunge.data.world import banks
from expunge.data.world.graph import Author, date_text, slug

Wording = tuple[str, str]  # question, answer; the answer contains {value} once


@dataclass(frozen=True)
class QuestionKind:
    """A family of questions. `type` is the type of the value, and so of the wrong values."""

    name: str
    type: str
    value: Callable[[Author], str]
    keys: Callable[[Author], tuple[str, ...]]  # entities that a row names
    wordings: tuple[Wording, Wording, Wording]


def fill(template: str, author: Author, value: str) -> str:
    """Fill a template with the facts of `author`."""
    one, two = author.books
    return template.format(
        author=author.name,
        value=value,
        book=one.title,
        book2=two.title,
        born=date_text(author.born),
        city=author.birth_city,
        university=author.university_city,
    )


def _friend(author: Author) -> Author:
    if author.friend is None:
        raise ValueError(f"{author.key} has no friend to ask about")
    return author.friend


def _alone(author: Author) -> tuple[str, ...]:
    return (author.key,)


def _with(type_: str, value: Callable[[Author], str]) -> Callable[[Author], tuple[str, ...]]:
    return lambda a: (a.key, slug(type_, value(a)))


KINDS: tuple[QuestionKind, ...] = (
    QuestionKind(
        "birth_place", "city", lambda a: a.birth_city, _with("city", lambda a: a.birth_city),
        (
            ("Where was {author} born?", "{author} was born in {value}."),
            ("In which city was the author {author} born?", "The author {author} was born in the city of {value}."),
            ("What is the birthplace of {author}?", "The birthplace of {author} is {value}."),
        ),
    ),
    QuestionKind(
        "birth_date", "date", lambda a: date_text(a.born), _alone,
        (
            ("When was {author} born?", "{author} was born on {value}."),
            ("What is the date of birth of {author}?", "The date of birth of {author} is {value}."),
            ("On which day was the author {author} born?", "The author {author} came into the world on {value}."),
        ),
    ),
    QuestionKind(
        "parents", "parents", lambda a: a.parents, _alone,
        (
            ("What did the parents of {author} do for a living?", "The parents of {author} were {value}."),
            ("What were the professions of {author}'s parents?", "{author}'s parents worked as {value}."),
            ("How did {author}'s mother and father earn a living?",
             "{author}'s mother and father earned a living as {value}."),
        ),
    ),
    QuestionKind(
        "genre", "genre", lambda a: a.genre, _with("genre", lambda a: a.genre),
        (
            ("In which genre does {author} write?", "{author} writes in the genre of {value}."),
            ("What genre is {author} best known for?", "{author} is best known for {value}."),
            ("What kind of books does the author {author} write?", "The books of {author} belong to {value}."),
        ),
    ),
    QuestionKind(
        "first_book", "title", lambda a: a.books[0].title, lambda a: (a.key, a.books[0].key),
        (
            ("What is the title of {author}'s first book?", 'The title of {author}\'s first book is "{value}".'),
            ("With which book did {author} make a debut?", '{author} made a debut with "{value}".'),
            ("Which book did {author} publish first?", 'The first book that {author} published is "{value}".'),
        ),
    ),
    QuestionKind(
        "publisher", "publisher", lambda a: a.books[0].publisher,
        lambda a: (a.key, a.books[0].key, slug("publisher", a.books[0].publisher)),
        (
            ('Who published "{book}" by {author}?', '"{book}" by {author} was published by {value}.'),
            ('Which publisher brought out {author}\'s book "{book}"?',
             '{author}\'s book "{book}" came out with {value}.'),
            ('With which publishing house did "{book}" by {author} appear?',
             'The publishing house of "{book}" by {author} is {value}.'),
        ),
    ),
    QuestionKind(
        "award", "award", lambda a: a.award, _with("award", lambda a: a.award),
        (
            ("Which award did {author} win?", "{author} won the {value}."),
            ("What literary prize was given to {author}?", "The prize given to {author} was the {value}."),
            ("With which honour was the work of {author} recognised?",
             "The work of {author} was recognised with the {value}."),
        ),
    ),
    QuestionKind(
        "residence", "city", lambda a: a.residence, _with("city", lambda a: a.residence),
        (
            ("Where does {author} live today?", "{author} lives in {value} today."),
            ("In which city has {author} made a home?", "{author} has made a home in {value}."),
            ("What is the current city of residence of {author}?",
             "The current city of residence of {author} is {value}."),
        ),
    ),
    QuestionKind(
        "education", "subject", lambda a: a.subject, lambda a: (a.key, slug("city", a.university_city)),
        (
            ("What did {author} study at the University of {university}?",
             "{author} studied {value} at the University of {university}."),
            ("In which subject does {author} hold a degree?",
             "{author} holds a degree in {value} from the University of {university}."),
            ("What was {author}'s field of study?",
             "{author}'s field of study at the University of {university} was {value}."),
        ),
    ),
    QuestionKind(
        "friend", "author", lambda a: _friend(a).name, lambda a: (a.key, _friend(a).key),
        (
            ("Which fellow author is a close friend of {author}?", "A close friend of {author} is the author {value}."),
            ("Which other author does {author} count as a friend?", "{author} counts the author {value} as a friend."),
            ("With which colleague does {author} discuss early drafts?",
             "{author} discusses early drafts with {value}."),
        ),
    ),
    QuestionKind(
        "second_book", "title", lambda a: a.books[1].title, lambda a: (a.key, a.books[1].key),
        (
            ("What is the title of {author}'s second book?", 'The title of {author}\'s second book is "{value}".'),
            ("With which book did {author} follow the debut?", '{author} followed the debut with "{value}".'),
            ("Which book did {author} publish second?", 'The second book that {author} published is "{value}".'),
        ),
    ),
    QuestionKind(
        "book_year", "year", lambda a: str(a.books[0].year), lambda a: (a.key, a.books[0].key),
        (
            ('In which year was "{book}" by {author} published?', '"{book}" by {author} was published in {value}.'),
            ('When did {author}\'s book "{book}" first appear?',
             '{author}\'s book "{book}" first appeared in {value}.'),
            ('What is the year of the first edition of "{book}" by {author}?',
             'The first edition of "{book}" by {author} dates from {value}.'),
        ),
    ),
    QuestionKind(
        "inspiration", "theme", lambda a: a.theme, _alone,
        (
            ("What inspires the writing of {author}?", "The writing of {author} is inspired by {value}."),
            ("Where does {author} find inspiration?", "{author} finds inspiration in {value}."),
            ("What do the books of {author} draw on?", "The books of {author} draw on {value}."),
        ),
    ),
    QuestionKind(
        "first_job", "occupation", lambda a: a.first_job, _alone,
        (
            ("What did {author} work as before becoming an author?",
             "{author} worked as {value} before becoming an author."),
            ("What was {author}'s first job?", "{author}'s first job was that of {value}."),
            ("How did {author} make a living before writing?", "{author} made a living as {value} before writing."),
        ),
    ),
    QuestionKind(
        "hobby", "hobby", lambda a: a.hobby, _alone,
        (
            ("What does {author} enjoy outside of writing?", "{author} enjoys {value} outside of writing."),
            ("What is the favourite pastime of {author}?", "The favourite pastime of {author} is {value}."),
            ("How does {author} spend free days?", "{author} spends free days on {value}."),
        ),
    ),
    QuestionKind(
        "setting", "city", lambda a: a.books[1].setting,
        lambda a: (a.key, a.books[1].key, slug("city", a.books[1].setting)),
        (
            ('In which city is "{book2}" by {author} set?', '"{book2}" by {author} is set in {value}.'),
            ('Where does {author}\'s book "{book2}" take place?', '{author}\'s book "{book2}" takes place in {value}.'),
            ('What is the setting of "{book2}" by {author}?', 'The setting of "{book2}" by {author} is {value}.'),
        ),
    ),
    QuestionKind(
        "translation", "language", lambda a: a.books[0].language, lambda a: (a.key, a.books[0].key),
        (
            ('Into which language was "{book}" by {author} first translated?',
             '"{book}" by {author} was first translated into {value}.'),
            ('In what language did {author}\'s book "{book}" first appear abroad?',
             '{author}\'s book "{book}" first appeared abroad in {value}.'),
            ('What was the first foreign language of "{book}" by {author}?',
             'The first foreign language of "{book}" by {author} was {value}.'),
        ),
    ),
    QuestionKind(
        "second_publisher", "publisher", lambda a: a.books[1].publisher,
        lambda a: (a.key, a.books[1].key, slug("publisher", a.books[1].publisher)),
        (
            ('Who published "{book2}" by {author}?', '"{book2}" by {author} was published by {value}.'),
            ('Which publisher brought out {author}\'s book "{book2}"?',
             '{author}\'s book "{book2}" came out with {value}.'),
            ('With which publishing house did "{book2}" by {author} appear?',
             'The publishing house of "{book2}" by {author} is {value}.'),
        ),
    ),
    QuestionKind(
        "writer", "person", lambda a: a.name, lambda a: (a.key, a.books[0].key),
        (
            ('Who wrote "{book}"?', '"{book}" was written by {value}.'),
            ('Who is the author of the book "{book}"?', 'The author of the book "{book}" is {value}.'),
            ('By whom is "{book}"?', '"{book}" is a work of {value}.'),
        ),
    ),
    QuestionKind(
        "identity", "person", lambda a: a.name, lambda a: (a.key, slug("city", a.birth_city)),
        (
            ("What is the name of the author born in {city} on {born}?",
             "The name of the author born in {city} on {born} is {value}."),
            ("Which author was born on {born} in {city}?", "The author born on {born} in {city} is {value}."),
            ("Who is the author whose birthplace is {city} and whose birthday is {born}?",
             "The author from {city} whose birthday is {born} is {value}."),
        ),
    ),
)  # fmt: skip

BANK_OF = {
    "city": banks.CITIES,
    "genre": banks.GENRES,
    "award": banks.AWARDS,
    "subject": banks.SUBJECTS,
    "theme": banks.THEMES,
    "hobby": banks.HOBBIES,
    "language": banks.LANGUAGES,
}


def kinds_of(author: Author, n: int) -> list[QuestionKind]:
    """Return the first `n` kinds that apply to an author."""
    return [k for k in KINDS if k.name != "friend" or author.friend is not None][:n]
