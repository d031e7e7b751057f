"""The word banks of the embedded world. All names of people, books, publishers and prizes are fictitious.

The lists are data: `banks.json` next to this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Words = tuple[str, ...]


def read_banks(path: Path) -> dict[str, Any]:
    """Return the banks of a JSON file by name, with tuples for lists."""
    banks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: _frozen(bank) for name, bank in banks.items()}


def _frozen(bank: Any) -> Any:
    return tuple(map(_frozen, bank)) if isinstance(bank, list) else bank


_BANKS = read_banks(Path(__file__).with_name("banks.json"))

MONTHS: Words = _BANKS["MONTHS"]
WEEKDAYS: Words = _BANKS["WEEKDAYS"]
COUNTRY_OF: dict[str, str] = _BANKS["COUNTRY_OF"]
CITIES = tuple(COUNTRY_OF)
GENRES: Words = _BANKS["GENRES"]
OCCUPATIONS: Words = _BANKS["OCCUPATIONS"]
SUBJECTS: Words = _BANKS["SUBJECTS"]
HOBBIES: Words = _BANKS["HOBBIES"]
THEMES: Words = _BANKS["THEMES"]
LANGUAGES: Words = _BANKS["LANGUAGES"]
AWARDS: Words = _BANKS["AWARDS"]
HOUSE_FIRST: Words = _BANKS["HOUSE_FIRST"]
HOUSE_LAST: Words = _BANKS["HOUSE_LAST"]
# people: a first name is a start and an end; a surname is two or three syllables and an ending
FIRST_STARTS: Words = _BANKS["FIRST_STARTS"]
FIRST_ENDS: Words = _BANKS["FIRST_ENDS"]
ONSETS: Words = _BANKS["ONSETS"]
VOWELS: Words = _BANKS["VOWELS"]
ENDINGS: Words = _BANKS["ENDINGS"]
TITLE_ADJECTIVES: Words = _BANKS["TITLE_ADJECTIVES"]
TITLE_NOUNS: Words = _BANKS["TITLE_NOUNS"]
TITLE_PATTERNS: Words = _BANKS["TITLE_PATTERNS"]


def article(word: str) -> str:
    """Return "a" or "an" for a word of these banks, none of which starts with a silent h or a "yu" sound."""
    return "an" if word[0].lower() in "aeiou" else "a"


def with_article(word: str) -> str:
    """Return a word with its article: "an engineer", "a baker"."""
    return f"{article(word)} {word}"
