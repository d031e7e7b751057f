"""Judges with fixed rules: keywords, patterns, lengths, quotes."""

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
    """Conditions on a text, all of which must hold. At least one is required."""

    any_of: tuple[str, ...] = ()
    """Words or phrases, one of which must occur as a whole ("art" is not in "start")."""
    all_of: tuple[str, ...] = ()
    """Words or phrases, all of which must occur as a whole."""
    regex: str | None = None
    """Regular expression that must match somewhere in the text. None: no such condition."""
    min_words: int | None = None
    """Smallest length in words. None: no limit."""
    max_words: int | None = None
    """Largest length in words. None: no limit."""
    min_quotes: int | None = None
    """Smallest number of quoted passages (" ", curly, or guillemets). None: no limit."""
    contains_reference: bool = False
    """Whether the true answer must occur as a whole, ignoring blanks and case; without one a text has no score."""
    case_sensitive: bool = False
    """Whether words and patterns are case-sensitive."""
    negate: bool = False
    """Whether the rule holds if the conditions do not."""

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
        conditions = (self.any_of, self.all_of, self.contains_reference, self.regex is not None)
        if not any(conditions) and all(v is None for v in numbers.values()):
            raise ValueError("any_of must have an entry, or another condition must be set")

    def holds(self, reply: JudgeReply) -> bool:
        """Return whether the text satisfies the rule."""
        flags = 0 if self.case_sensitive else re.IGNORECASE
        n = len(blank_separated(reply.text))
        satisfied = (
            (not self.any_of or any(_whole(w, flags).search(reply.text) for w in self.any_of))
            and all(_whole(w, flags).search(reply.text) for w in self.all_of)
            and (self.regex is None or re.search(self.regex, reply.text, flags) is not None)
            and (self.min_words is None or n >= self.min_words)
            and (self.max_words is None or n <= self.max_words)
            and (self.min_quotes is None or len(QUOTED.findall(reply.text)) >= self.min_quotes)
            and (not self.contains_reference or _whole(reply.reference, re.IGNORECASE).search(reply.text) is not None)
        )
        return satisfied != self.negate


def _whole(words: str, flags: int) -> regex.Pattern[str]:
    """Compile a pattern of unchanged words, with any blanks between them, not inside a longer word."""
    return regex.compile(whole_words_pattern(words), flags)


@strict
@dataclass(frozen=True, kw_only=True)
class RuleJudge:
    """Scores 1 if all rules hold (combine="all") or any does (combine="any"), else 0."""

    rules: tuple[JudgeRule, ...]
    """The rules."""
    combine: Literal["all", "any"] = "all"
    """Whether all rules must hold, or any."""
    name: str = "rules"
    """Name of the judge in tables."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules must have an entry")

    def judge(self, replies: Sequence[JudgeReply]) -> list[JudgeScores]:
        """Return one verdict for each text."""
        return [self._one(reply) for reply in replies]

    def _one(self, reply: JudgeReply) -> JudgeScores:
        if not reply.reference.strip() and any(r.contains_reference for r in self.rules):
            return JudgeScores(float("nan"), "the row has no true answer to look for")
        results = [rule.holds(reply) for rule in self.rules]
        return JudgeScores(float(all(results) if self.combine == "all" else any(results)))
