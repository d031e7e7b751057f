"""Apply a chat template and locate the answer in the whole conversation.

The whole conversation is the standard. The text before the answer is the prompt, and the first added token that the
template writes after the answer ends it. If it writes text alone, the first line of that text is the end. A rendering
with a marker in the answer's place shows both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from expunge.core.errors import ConfigError, DataError, first_line
from expunge.core.records import CLOSED_THOUGHT
from expunge.data.answer_ends import KEY, MARKER, QUESTION, TRACE, AnswerEnds, Messages, rendered_frame
from expunge.data.cells import TRACE_FIELDS
from expunge.data.row_tokenizer import token_pattern
from expunge.data.template import THINK_TAGS, Thought
from expunge.data.template_trial import check_template, fixed_clock, template_text
from expunge.data.verbatim_template import PLACE, Skeleton, copies_contents, has_plain_fields

FROZEN_DATE = "10 Apr 2025"  # the date_string of the shipped Llama 3 settings
_LISTS = ("tools", "documents")  # transformers passes None for them
_OPENED = re.compile(r"<(?![/|]*\s*/|\|?END)([^<>/]*think[^<>/]*)>|<\|channel>thought|reasoning steps:", re.IGNORECASE)
_CLOSED = CLOSED_THOUGHT
_EMPTY_THOUGHT = re.compile(rf"(?:{_OPENED.pattern})\s*(?:{_CLOSED.pattern})\s*\Z", re.IGNORECASE)
# Variables of published templates that turn a thought off, in the order of the attempts.
_NO_THOUGHT: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"thinking": False},
    {"thinking_mode": "off"},
    {"reasoning": False},
    {"reasoning_effort": "none"},
    {"thinking_budget": 0},
)
_CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # of Jinja: each rendering gives other text


@dataclass(frozen=True)
class Turn:
    """The text of a conversation up to the end of its answer: prompt + answer + end. `end` may be empty.

    tail: the text that follows an end of several tokens, because its first characters can share a token with the end.
    """

    prompt: str
    answer: str
    end: str
    tail: str = ""


@dataclass(frozen=True)
class TraceFrame:
    """The text around a trace and its answer: before + trace + between + answer + end, and the `tail` of `Turn`.

    field: the field of the message that holds the trace; None: its content holds the trace between tags.
    written: whether the template itself writes the trace. If not, the frame puts it where the generation prompt ends.
    """

    before: str
    between: str
    end: str
    field: str | None
    written: bool
    tail: str = ""

    def message(self, trace: str, answer: str) -> dict[str, str]:
        """Return the assistant's message with a trace."""
        if self.field is None:
            return {"role": "assistant", "content": f"{THINK_TAGS[0]}{trace}{THINK_TAGS[1]}{answer}"}
        return {"role": "assistant", "content": answer, self.field: trace}


class Conversation:
    """A tokenizer's chat template, or one of the caller, with fixed variables and a fixed date.

    notes: one line for each behaviour of the template that a user should know.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        date_string: str | None = None,
        thought: Thought = "auto",
        system_prompt: bool = False,
    ) -> None:
        self.tokenizer, self.thought = tokenizer, thought
        self._has_system = system_prompt
        self.notes: list[str] = []
        self.variables: dict[str, Any] = dict(template_kwargs or {})
        if date_string is not None:
            self.variables.setdefault("date_string", date_string)
        self.text = template_text(tokenizer, chat_template or None, self.variables.get("tools"), f"{KEY}.chat_template")
        if chance := _CHANCE.search(self.text):
            raise ConfigError(f"{KEY}.chat_template: the template draws by chance ({chance.group()}); write fixed text")
        self._source = self._with_fixed_date(date_string)
        self._copies = copies_contents(self.text)
        self._skeletons: dict[tuple[Any, ...], Skeleton] = {}
        self._frame: tuple[Any, tuple[str, str]] = (None, ("", ""))
        self._trace_frame: tuple[Any, TraceFrame | None] = (None, None)
        self.ends = AnswerEnds(self.render, token_pattern(tokenizer))
        check_template(
            self.text, {**getattr(tokenizer, "special_tokens_map", {}), **self.variables}, f"{KEY}.chat_template"
        )
        self._closer = ""

    def _with_fixed_date(self, date_string: str | None) -> str:
        """Return the template with a fixed date in place of today's date."""
        if "strftime_now" not in self.text:
            return self.text
        shown = date_string or FROZEN_DATE
        if date_string is None:
            self.notes.append(
                f"the chat template reads today's date; it is fixed at {shown} ({KEY}.date_string sets another)"
            )
        return fixed_clock(self.text, shown) + self.text

    def render(self, messages: Messages, *, generation_prompt: bool = False, **variables: Any) -> str:
        """Return the text of a conversation. Raises ConfigError if the template rejects it."""
        extra = {**self.variables, **variables}
        if not self._copies or not has_plain_fields(messages):
            return self._rendered(messages, generation_prompt, extra)
        key = (*(m["role"] for m in messages), generation_prompt, repr(extra))
        if key not in self._skeletons:
            places = [{"role": m["role"], "content": PLACE.format(i)} for i, m in enumerate(messages)]
            self._skeletons[key] = Skeleton.of(self._rendered(places, generation_prompt, extra))
        return self._skeletons[key].fill(messages)

    def _rendered(self, messages: Messages, generation_prompt: bool, extra: dict[str, Any]) -> str:
        turns = [dict(m) for m in messages]
        options = {**extra, "chat_template": self._source, "add_generation_prompt": generation_prompt}
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, **options)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{KEY}.chat_template: line {error.lineno} is not valid: {first_line(error)}") from None
        except jinja2.UndefinedError as error:
            raise ConfigError(
                f"{KEY}.template_kwargs: the chat template reads a variable that is not set: {first_line(error)}"
            ) from None
        except Exception as error:  # a template is a program, and may raise anything
            raise self._refusal(messages, error, extra) from None
        return str(text)

    def _refusal(self, messages: Messages, error: Exception, extra: Mapping[str, Any]) -> ConfigError:
        """Name the setting that the template rejects: an absent list, the system prompt, else the template."""
        for name in _LISTS:
            if name in extra or re.search(rf"\b{name}\b", self.text) is None:
                continue
            try:
                self.render(messages, **{**extra, name: []})
            except ConfigError:
                continue
            return ConfigError(
                f"{KEY}.template_kwargs: the chat template needs a list of {name}; give {{{name}: []}} for none"
            )
        if messages and messages[0]["role"] == "system" and self._has_system:
            try:
                self.render([m for m in messages if m["role"] != "system"])
            except ConfigError:
                pass
            else:
                return ConfigError(
                    f"{KEY}.system_prompt: the chat template rejects a system message: {first_line(error)}; "
                    "set it to null"
                )
        subject = "this conversation" if isinstance(error, jinja2.TemplateError) else "a plain conversation"
        return ConfigError(f"{KEY}.chat_template: the template cannot render {subject}: {first_line(error)}")

    def check(self, opening: Messages) -> None:
        """Render one conversation, choose how to close an open thought, and note differences from plain use.

        opening: the messages before the question. Raises ConfigError if the template fails, or opens a thought that
        nothing closes.
        """
        opening = [*opening, {"role": "user", "content": QUESTION}]
        whole, start = self._tails(opening)
        self._note_absent_system(opening)
        if self.thought == "none":
            return
        self._note_reasoning(opening)
        if not _open(whole) and (whole.startswith(start) or not _open(start)):
            if self.thought == "empty":
                return
            if not whole.startswith(start):
                self.notes.append(
                    f"the chat template's generation prompt ends in {start!r}, and the whole conversation has "
                    f"{whole!r} before the answer, which is used; {KEY}.thought=empty uses the generation prompt"
                )
            return
        for form in self._usable_forms(opening):
            name = next(iter(form))
            other, begun = self._tails(opening, **form)
            if _open(other) or _open(begun):
                continue
            if self.thought == "empty" or other != whole:
                self.variables |= form
                self.notes.append(
                    f"the chat template opens a thought; it is closed by {name}={next(iter(form.values()))}"
                )
            return
        if self.thought == "empty":
            self._closer = self._closing(start)
            return
        raise ConfigError(
            f"{KEY}.thought: the chat template opens a thought before the answer ({start!r}) and has no form without "
            "one; give thought=empty (close it, or fill it with the data's trace) or thought=none (the whole "
            "conversation as the template writes it)"
        )

    def _note_absent_system(self, opening: Messages) -> None:
        """Note a template that leaves the system prompt out of a conversation with an answer."""
        texts = ["".join(m["content"].split()) for m in opening if m["role"] == "system"]
        if not texts:
            return
        whole = "".join(self.render([*opening, {"role": "assistant", "content": MARKER}]).split())
        if any(text not in whole for text in texts):
            self.notes.append(
                f"{KEY}.system_prompt has no effect: the chat template leaves it out of a conversation with an answer; "
                "set it to null, or write it into the questions"
            )

    def _note_reasoning(self, opening: Messages) -> None:
        """Note a template whose system message requests a thought."""
        for form in self._usable_forms(opening):
            name = next(iter(form))
            before, without = (self.render(opening, **extra).split(QUESTION)[0] for extra in ({}, form))
            if before != without and "think" in before:
                value = str(form[name]).lower() if isinstance(form[name], bool) else form[name]
                self.notes.append(
                    "the chat template requests a thought before the answer; "
                    f"{KEY}.template_kwargs={{{name}: {value}}} requests the answer alone"
                )
                return

    def _usable_forms(self, opening: Messages) -> Iterator[dict[str, Any]]:
        """Yield the variables that may turn a thought off, and that the template reads and accepts."""
        for form in _NO_THOUGHT:
            name = next(iter(form))
            if name in self.variables or not re.search(rf"\b{name}\b", self.text):
                continue
            try:
                self.render(opening, **form)
            except ConfigError:  # the template knows other values only
                continue
            yield form

    def _tails(self, opening: Messages, **form: Any) -> tuple[str, str]:
        """Return the text between question and answer, in the whole conversation and in the generation prompt."""
        whole = self.render([*opening, {"role": "assistant", "content": MARKER}], **form)
        start = self.render(opening, generation_prompt=True, **form)
        before = whole[: max(whole.rfind(MARKER), 0)]
        return before[before.rfind(QUESTION) + len(QUESTION) :], start[start.rfind(QUESTION) + len(QUESTION) :]

    def _closing(self, start: str) -> str:
        """Return the text that closes the thought of a generation prompt."""
        tags = list(_OPENED.finditer(start))
        name = tags[-1].group(1) if tags else None
        if not name:
            raise ConfigError(f"{KEY}.thought: no known tag closes {start!r}; give thought=none, or template_kwargs")
        blank = "\n" if start.endswith("\n") else ""
        closing = f"<{name.replace('START', 'END')}>" if "START" in name else f"</{name}>"
        return f"{blank}{closing}{blank}{blank}"

    def prompt(self, messages: Messages) -> str:
        """Return the text before an answer to the last message."""
        return self._frame_of(messages)[0]

    def turn(self, messages: Messages, answer: str) -> Turn:
        """Return the text up to the end of the answer. Raises DataError if the answer is not in the conversation."""
        prompt, after = self._frame_of(messages)
        whole = self.render([*messages, {"role": "assistant", "content": answer}])
        if self.thought == "empty":
            before, after = rendered_frame(self.render, messages)
        else:
            before = prompt
        body, bare = None, answer.strip()
        for text in dict.fromkeys((answer, bare)):
            lead = before.replace(MARKER, text)  # a template may repeat the answer: the last one counts
            if whole.startswith(lead) and whole.endswith(after) and len(lead) + len(after) <= len(whole):
                written = whole[len(lead) : len(whole) - len(after)]
                if _has_letters(written, bare):  # a template may change case, blanks and signs
                    body, before = written, lead
                    break
        if body is None:
            at = _own_place(whole, bare, before, after)
            before, body, after = whole[:at], bare, whole[at + len(bare) :]
        if self.thought != "empty":
            prompt = before
        end = self.ends.end(messages, after)
        return Turn(prompt, body, end, self.ends.tail(after, end))

    def _frame_of(self, messages: Messages) -> tuple[str, str]:
        """Return the text before and after the answer. Caches the text of the last messages."""
        if self._frame[0] != messages:
            before, after = rendered_frame(self.render, messages)
            if self.thought == "empty":
                before = self.render(messages, generation_prompt=True) + self._closer
            self._frame = (list(messages), (before, after))
        return self._frame[1]

    def trace_frame(self, messages: Messages) -> TraceFrame:
        """Return the text around a trace and the answer to the last message.

        The template's own form of a trace counts: its field for one, or tags in the content. A template that removes
        the traces of a conversation gets the trace after its generation prompt, where the model itself writes it.
        """
        known, frame = self._trace_frame
        if frame is None or known != messages:
            frame = self._written_trace(messages) or self._added_trace(messages)
            self._trace_frame = (list(messages), frame)
        return frame

    def _written_trace(self, messages: Messages) -> TraceFrame | None:
        """Return the frame of a template that writes the trace of the last answer; None if it writes none."""
        fields = [name for name in TRACE_FIELDS if re.search(rf"\b{name}\b", self.text)]
        for name in (*fields, None):
            frame = TraceFrame("", "", "", name, written=True)
            try:
                whole = self.render([*messages, frame.message(TRACE, MARKER)])
            except ConfigError:  # the template rejects this form; the next one is tried
                continue
            at, answer = whole.rfind(TRACE), whole.rfind(MARKER)
            if name is None and _EMPTY_THOUGHT.search(whole[: max(at, 0)].removesuffix(THINK_TAGS[0])):
                return None  # the template writes a closed thought before every content
            if 0 <= at < answer:
                after = whole[answer + len(MARKER) :]
                end, between = self.ends.end(messages, after), whole[at + len(TRACE) : answer]
                return TraceFrame(whole[:at], between, end, name, written=True, tail=self.ends.tail(after, end))
        return None

    def _added_trace(self, messages: Messages) -> TraceFrame:
        """Return a frame that writes the trace after the generation prompt, between the template's tags."""
        start = self.render(messages, generation_prompt=True)
        if not _open(start):
            start = _EMPTY_THOUGHT.sub("", rendered_frame(self.render, messages)[0]) + THINK_TAGS[0]
        after = rendered_frame(self.render, messages)[1]
        end = self.ends.end(messages, after)
        return TraceFrame(start, self._closing(start), end, None, written=False, tail=self.ends.tail(after, end))

    def check_trace(self, messages: Messages, trace: str, answer: str) -> None:
        """Raise DataError for a trace or an answer that the template rewrites, or a trace that closes itself."""
        if _CLOSED.search(trace):
            raise DataError("the trace contains a tag that closes a thought; remove it from the trace")
        frame = self.trace_frame(messages)
        if not frame.written:
            return
        whole = self.render([*messages, frame.message(trace, answer)])
        if not whole.startswith(frame.before + trace + frame.between + answer + frame.end):
            raise DataError(
                "the chat template rewrites this trace or its answer, so the text is not in the conversation"
            )


def _own_place(whole: str, bare: str, before: str, after: str) -> int:
    """Return the place of an answer in its conversation, for a template that writes other text around this answer.

    before, after: the text around other answers. An equal text within them is the template's, or the question's.

    Raises:
        DataError: The answer is not there.
    """
    at = whole.rfind(bare) if bare else -1
    if at < 0 or whole[: at + len(bare)] == before[: at + len(bare)] or whole[at:] == after[-len(whole[at:]) :]:
        advice = "; give its thought as the trace of the row" if _CLOSED.search(bare) else ""
        raise DataError(f"the chat template rewrites this answer, so its text is not in the conversation{advice}")
    return at


def _has_letters(text: str, answer: str) -> bool:
    """Return whether a text has the letters and digits of an answer, in order and in any case."""
    rest = iter(text.casefold())
    return all(c in rest for c in answer.casefold() if c.isalnum())


def _open(text: str) -> bool:
    """Return whether a text ends inside a thought."""
    opened = [m.start() for m in _OPENED.finditer(text)]
    closed = [m.start() for m in _CLOSED.finditer(text)]
    return bool(opened) and (not closed or closed[-1] < opened[-1])
