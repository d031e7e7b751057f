"""Judges that follow rules: keywords, patterns, lengths, quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from expunge.core.decode import strict
from expunge.judges.api import JudgeReply, JudgeScores
from expunge.metrics.words import blank_separated, whole_words_pattern

QUOTED = re.compile(r'"[^"]+"|\u201c[^\u201d]+\u201d|\u00ab[^\u00bb]+\u00bb')


@strict
@dataclass(frozen=True, kw_only=True)
class JudgeRule:
    """Conditions on a text, all of which must hold. At least one must be given.

    any_of, all_of: words or phrases that stand in it, whole ("art" is not in "start"). regex: a pattern found in it.
    min_words, max_words: length in words; in scripts without blanks between words, in characters. min_quotes: quoted
    passages (" ", curly, or guillemets). contains_reference: the true answer stands in it, whole, blanks and case
    apart; a text without a true answer has no score.
    case_sensitive: for words and patterns. negate: the rule holds where the conditions do not.
    """

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    regex: str | None = None
    min_words: int | None = None
    max_words: int | None = None
    min_quotes: int | None = None
    contains_reference: bool = False
    case_sensitive: bool = False
    negate: bool = False

    def __post_init__(self) -> None:
        numbers = {"min_words": self.min_words, "max_words": self.max_words, "min_quotes": self.min_quotes}
        for name, value in numbers.items():
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0")
        for name, words in (("any_of", self.any_of), ("all_of", self.all_of)):
            if any(not w.strip() for w in words):
                raise ValueError(f"{name} has an empty entry")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex is not a pattern ({error})") from None
        given = (self.any_of, self.all_of, self.contains_reference, self.regex is not None)
        if not any(given) and all(v is None for v in numbers.values()):
            raise ValueError("any_of must have an entry, or another condition be given")

    def holds(self, said: JudgeReply) -> bool:
        """Whether the text satisfies the rule."""
        flags = 0 if self.case_sensitive else re.IGNORECASE
        n = len(blank_separated(said.text))
        held = (
            (not self.any_of or any(_whole(w, flags).search(said.text) for w in self.any_of))
            and all(_whole(w, flags).search(said.text) for w in self.all_of)
            and (self.regex is None or re.search(self.regex, said.text, flags) is not None)
            and (self.min_words is None or n >= self.min_words)
            and (self.max_words is None or n <= self.max_words)
            and (self.min_quotes is None or len(QUOTED.findall(said.text)) >= self.min_quotes)
            and (not self.contains_reference or _whole(said.reference, re.IGNORECASE).search(said.text) is not None)
        )
        return held != self.negate


def _whole(words: str, flags: int) -> regex.Pattern[str]:
    """A pattern of words as they stand, with any blanks between them, not inside of a longer word."""
    return regex.compile(whole_words_pattern(words), flags)


@strict
@dataclass(frozen=True, kw_only=True)
class RuleJudge:
    """1 where all rules hold (combine="all") or any does, else 0."""

    rules: tuple[JudgeRule, ...]
    combine: Literal["all", "any"] = "all"
    name: str = "rules"

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules must have an entry")

    def judge(self, said: Sequence[JudgeReply]) -> list[JudgeScores]:
        """One verdict for each text."""
        return [self._one(s) for s in said]

    def _one(self, said: JudgeReply) -> JudgeScores:
        if not said.reference.strip() and any(r.contains_reference for r in self.rules):
            return JudgeScores(float("nan"), "the row has no true answer to look for")
        held = [rule.holds(said) for rule in self.rules]
        return JudgeScores(float(all(held) if self.combine == "all" else any(held)))
