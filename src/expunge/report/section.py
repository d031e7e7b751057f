"""A section of tables that some studies have, as plain values: the page and the markdown show the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GridSection:
    """A table of texts. named_by: the head of the column that names a row; texts: those that hold words, not numbers;
    both are aligned to the left."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named_by: str
    texts: tuple[str, ...] = ()

    def leftward(self, head: str) -> bool:
        """Whether a column is aligned to the left."""
        return head == self.named_by or head in self.texts


@dataclass(frozen=True)
class Section:
    """name: its place in the page; link: what leads there."""

    name: str
    title: str
    link: str
    about: str
    grids: tuple[GridSection, ...]
