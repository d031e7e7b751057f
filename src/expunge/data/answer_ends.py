"""The end of an answer in a chat template: one added token, or text of several tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from expunge.core.errors import ConfigError

KEY = "model.template_args"
Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages], str]

MARKER = "\U000f9000\U000f9001\U000f9000"  # no template trims, splits or changes the case of private characters
QUESTION = "\U000f9002\U000f9003\U000f9002"
TRACE = "\U000f9006\U000f9007\U000f9006"
_NEXT = "\U000f9004\U000f9005\U000f9004"
_SYSTEM = "\U000f9008\U000f9009\U000f9008"


def rendered_frame(render: Render, messages: Messages) -> tuple[str, str]:
    """Return the text before and after the next answer. Raises ConfigError if the template does not write it."""
    whole = render([*messages, {"role": "assistant", "content": MARKER}])
    at = whole.rfind(MARKER)
    if at < 0:
        raise ConfigError(f"{KEY}.chat_template: the template does not write the answer of the last turn")
    return whole[:at], whole[at + len(MARKER) :]


class AnswerEnds:
    """Finds the end that a template writes after an answer.

    render: returns the text of a conversation. tokens: the pattern of the tokenizer's added tokens.
    """

    def __init__(self, render: Render, tokens: re.Pattern[str]) -> None:
        self._render, self._tokens = render, tokens
        self._ends: dict[str, str | None] = {}
        self._written: str | None = None

    def end(self, messages: Messages, after: str) -> str:
        """Return the text from the answer to the token that ends it, inclusive; "" if the template writes none."""
        if after not in self._ends:
            match = self._tokens.search(after)
            self._ends[after] = after[: match.end()] if match else self._end_before_next(messages)
        if self._ends[after]:
            return self._ends[after] or ""
        text = self._text_end()
        return text if after.startswith(text) or not after.strip() else ""

    def has_token(self, end: str) -> bool:
        """Return whether an end contains an added token of the tokenizer; otherwise it is text of several tokens."""
        return self._tokens.search(end) is not None

    def tail(self, after: str, end: str) -> str:
        """Return the text after an end of several tokens; an end that is a token shares none with the text after it."""
        own = not end or self.has_token(end) or not after.startswith(end)
        return "" if own else after[len(end) :]

    def _text_end(self) -> str:
        """Return the text that the template writes after each answer; "" if it is blank or depends on the question.

        It is the same for every conversation. A system message shows it for a template with a system text of its own.
        """
        if self._written is None:
            openings: Sequence[Messages] = ((), ({"role": "system", "content": _SYSTEM},))
            self._written = next(filter(None, map(self._text_end_after, openings)), "")
        return self._written

    def _text_end_after(self, opening: Messages) -> str:
        """Return the text end in conversations that begin with an opening; "" if the template rejects them."""
        questions = [[*opening, {"role": "user", "content": q}] for q in (QUESTION, TRACE)]
        try:
            ends = {self._text_after(messages) for messages in questions}
        except ConfigError:
            return ""
        return ends.pop() if len(ends) == 1 else ""

    def _text_after(self, messages: Messages) -> str:
        """Return the first line that the template writes after an answer, at the end or before the next question."""
        after, text = rendered_frame(self._render, messages)[1], self._with_next(messages)
        line = _first_line(after)
        between = text[text.rfind(MARKER) + len(MARKER) : text.rfind(_NEXT)]
        if not line:
            return self._text_before_next(messages, text, between)
        question = self._render(messages)
        start = question[question.rfind(messages[-1]["content"]) + len(messages[-1]["content"]) :].strip()
        header = rendered_frame(self._render, messages)[0].strip()
        if between.startswith(line) or not start or not (header.endswith(start) and after.strip().endswith(start)):
            return line
        return self._text_before_next(messages, text, between)  # it writes the start of an answer at every end

    def _text_before_next(self, messages: Messages, text: str, between: str) -> str:
        """Return the text between an answer and the header of the next question, for templates that end turns late."""
        opening = self._tokens.sub("", text[: text.find(messages[-1]["content"])])
        header = (opening.split(messages[-2]["content"])[-1] if len(messages) > 1 else opening).lstrip()
        return _first_line(between.removesuffix(header)) if header and between.endswith(header) else ""

    def _end_before_next(self, messages: Messages) -> str | None:
        """Return the end of a turn for templates that write it only before the next turn."""
        text = self._with_next(messages)
        after = text[text.rfind(MARKER) + len(MARKER) :] if MARKER in text else ""
        match = self._tokens.search(after)
        return after[: match.end()] if match and not after[: match.start()].strip() else None

    def _with_next(self, messages: Messages) -> str:
        """Return the text of a conversation that continues after the answer; "" if the template rejects it."""
        later = [*messages, {"role": "assistant", "content": MARKER}, {"role": "user", "content": _NEXT}]
        try:
            return self._render(later)
        except ConfigError:
            return ""


def _first_line(text: str) -> str:
    """Return a text up to the end of its first line that is not blank, without blanks at the end."""
    match = re.match(r"\s*[^\n]*\S", text)
    return match.group() if match else ""
