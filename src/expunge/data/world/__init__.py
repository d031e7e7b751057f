"""The embedded world: seeded fictitious authors, books and publishers in TOFU's roles, with nothing to download.

Here: its settings, and their limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from expunge.core.decode import strict

MOST_AUTHORS = 1000  # the banks have enough names and titles for these and as many holdout authors
MOST_QUESTIONS = 19  # one less than the kinds of questions: the first author of a group has no friend
MOST_FACTS = 111  # the facts of everyday life


@strict
@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The size of the embedded world."""

    authors: int = 40
    """Number of authors in the training data."""
    questions_per_author: int = 10
    """Number of questions about each author."""
    forget_fraction: float = 0.1
    """Share of the units of `granularity` to forget."""
    granularity: Literal["author", "question", "book", "publisher", "relationship"] = "author"
    """Unit to forget.

    author: the last authors (the share is rounded to whole authors, halves up). question, book, publisher: a random
    share, rounded down, with every row that names one. relationship: that share of the links of some row (author and
    book, book and publisher, ...), with every row that names both ends.
    """
    retain_eval_rows: int | None = None
    """Number of retain rows to evaluate; null uses as many as are forgotten."""
    holdout_authors: int = 4
    """Number of authors that no model is trained on; 0 for no holdout set."""
    facts: int = 36
    """Rows in each of `real_authors` and `world_facts`; multiples of 36 keep wrong answers as well known."""
    seed: int = 0
    """Seed of the world and of the split."""

    def __post_init__(self) -> None:
        ranges = {
            "authors": (2, MOST_AUTHORS),
            "questions_per_author": (1, MOST_QUESTIONS),
            "holdout_authors": (0, MOST_AUTHORS),
            "facts": (1, MOST_FACTS),
        }
        for key, (low, high) in ranges.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key} must be {low} to {high}")
        if not 0 < self.forget_fraction < 1:
            raise ValueError("forget_fraction must be a number between 0 and 1")
        if self.granularity == "author" and not 1 <= self.forget_authors < self.authors:
            raise ValueError(
                f"forget_fraction must give 1 to {self.authors - 1} of the {self.authors} authors to forget; "
                f"{self.forget_fraction} gives {self.forget_authors}"
            )
        n_retain = (self.authors - self.forget_authors) * self.questions_per_author
        if self.granularity != "author":
            n_retain = self.authors * self.questions_per_author - 1
        if self.retain_eval_rows is not None and not 1 <= self.retain_eval_rows <= n_retain:
            raise ValueError(f"retain_eval_rows must be 1 to {n_retain} (the retain rows)")

    @property
    def forget_authors(self) -> int:
        """Number of forgotten authors, the last ones."""
        return int(self.forget_fraction * self.authors + 0.5)
