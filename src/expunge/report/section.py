"""An optional section of tables as plain values; the page and the markdown show the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GridSection:
    """A table of texts. named_by: the head of the column that names a row; texts: columns of words, not numbers.

    Both are aligned to the left.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named_by: str
    texts: tuple[str, ...] = ()

    def leftward(self, head: str) -> bool:
        """Return whether a column is aligned to the left."""
        return head == self.named_by or head in self.texts


@dataclass(frozen=True)
class Section:
    """A section. name: its anchor in the page; link: the text of its link."""

    name: str
    title: str
    link: str
    about: str
    grids: tuple[GridSection, ...]
