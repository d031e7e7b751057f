"""Rich's console for texts that may contain words of a user: control characters are shown as codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console as RichConsole
from rich.segment import Segment

from expunge.core.terminal import printable


class Console(RichConsole):
    """A console whose output moves the cursor or changes colours only by rich's own codes."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, with printable text."""
        for segment in super().render(renderable, options):
            clean = segment.text if segment.control else printable(segment.text)
            yield segment if clean == segment.text else Segment(clean, segment.style)
