"""Detect texts that end a generation token by token, without decoding the whole text each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Stop texts under one tokenizer."""

    def __init__(self, stop: Sequence[str], tokenizer: Any) -> None:
        self.stop, self.tokenizer = tuple(stop), tokenizer
        # A token that is not special has at least one byte, so this many tokens contain the longest stop text.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 4
        self._may_end: dict[int, bool] = {}

    def ended(self, ids: Sequence[int]) -> bool:
        """Return whether the last token completes a stop text in the text of the new tokens."""
        if not self.stop or not self._can_end(ids[-1]):
            return False
        text = self.tokenizer.decode(ids[-self.tail :], skip_special_tokens=True)
        return any(stop in text for stop in self.stop)

    def _can_end(self, token: int) -> bool:
        """Return whether a stop text could end in this token; the answer is cached per token."""
        if token not in self._may_end:
            text = self.tokenizer.decode([token])
            partial = not text or "\ufffd" in text  # a piece of a character, or a blank that decoding drops
            self._may_end[token] = partial or any(s[-1].isspace() or s[-1] in text for s in self.stop)
        return self._may_end[token]
