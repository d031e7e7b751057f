"""Encode a question and an answer as token ids with an exact prompt boundary.

The standard is the tokenizer itself: the ids of an example are the ids of its whole text, tokenised once. The tokens
that reach past the prompt's text are the answer. Prompt and answer are tokenised separately only if a check of the
tokenizer shows that this gives the same ids. `compat=openunlearning` takes the first len(tokens(prompt)) ids as the
prompt, as that project does: with plain tags the first answer token then has no label.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, DataError
from expunge.core.fingerprints import LATER
from expunge.data.conversation import THINK_TAGS, Conversation, Thought
from expunge.data.examples import TRACE, TRACE_ANSWER, Example, ExampleSet
from expunge.data.row_tokenizer import RowTokenizer, added_tokens, token_pattern

MOST_LENGTH = 10**7
LENGTH, FRAME = 512, 128  # the default max_length, and the tokens of a template that it has room for


@strict
@dataclass(frozen=True, kw_only=True)
class Template:
    """The text form of a question and its answer. The names are those of OpenUnlearning's `template_args`."""

    apply_chat_template: bool | None = None
    """Use the tokenizer's chat template, not the tags. null: use it if the tokenizer has one and no tag is set."""
    chat_template: str | None = None
    """A chat template (Jinja text) in place of the tokenizer's own."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template, such as {enable_thinking: false}."""
    thought: Thought = "auto"
    """The thought of a reasoning model. auto: the template's own form without a thought; an error if the template has
    none. none: the whole conversation as the template writes it. empty: the generation prompt with a closed thought.
    """
    system_prompt: str | None = None
    """The text of a system message. null: no message, so a template's own default stays; "": an empty message."""
    system_prompt_with_special_tokens: str | None = None
    """With tags: text before the first question, in which special tokens stay special."""
    user_start_tag: str = "Question: "
    """With tags: the text before a question."""
    user_end_tag: str = "\n"
    """With tags: the text after a question."""
    asst_start_tag: str = "Answer: "
    """With tags: the text before an answer."""
    asst_end_tag: str = "\n\n"
    """With tags: the text after a solved example's answer. A special token in it also ends answers. Plain text does
    not: the tokenizer's EOS ends them.
    """
    think_start_tag: str = field(default=THINK_TAGS[0], metadata=LATER)
    """With tags: the text before a reasoning trace, in examples that have one."""
    think_end_tag: str = field(default=THINK_TAGS[1], metadata=LATER)
    """With tags: the text between a reasoning trace and the answer."""
    date_string: str | None = None
    """The date that a chat template reads. null: a template that reads today's date gets 10 Apr 2025."""
    few_shot: tuple[tuple[str, str], ...] = ()
    """Solved examples (question, answer) before each question."""
    split_special_tokens: bool = True
    """Encode special-token text inside an example ("<s>") as plain text. false: as the special token."""
    max_length: int | None = None
    """The maximum number of tokens of an example. Longer ones are cut on the right and counted. null: 512; if the
    template itself writes more than 128 tokens before a question, as many more, up to the tokenizer's model_max_length.
    """
    labels: Literal["answer", "all"] = "answer"
    """The tokens with a loss: the answer's and its end token, or all."""
    compat: Literal["clean", "openunlearning"] = "clean"
    """openunlearning: the ids and labels of that project, to compare with its numbers."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")
        if self.max_length is not None and self.max_length > MOST_LENGTH:
            raise ValueError("max_length must be at most 1e7 tokens")

    @property
    def has_tags(self) -> bool:
        """Whether a tag differs from its default."""
        tags = [f for f in dataclasses.fields(Template) if f.name.endswith("_tag")]
        return self.system_prompt_with_special_tokens is not None or any(
            getattr(self, f.name) != f.default for f in tags
        )

    def resolved(self, *, tokenizer_has_one: bool) -> Template:
        """Resolve `apply_chat_template: null`, by whether the tokenizer has a chat template."""
        if self.apply_chat_template is not None:
            return self
        chat = (tokenizer_has_one or bool(self.chat_template)) and not self.has_tags and self.compat == "clean"
        return dataclasses.replace(self, apply_chat_template=chat)


Turns = Sequence[tuple[str, str]]  # earlier questions and answers of a conversation
_AT_ONCE = 2048  # rows that are encoded together where only their number matters


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row; the first `n_prompt` are not scored. `truncated`: the number of ids that were cut off."""

    ids: tuple[int, ...]
    n_prompt: int
    truncated: int = 0

    @property
    def n_answer(self) -> int:
        """The number of scored tokens, with the end token."""
        return len(self.ids) - self.n_prompt


def row_lengths(rows: Sequence[Encoded]) -> NDArray[np.int64]:
    """Return the number of tokens of each row, shape (R,); rows with `lengths` (token shards) are not read."""
    known = getattr(rows, "lengths", None)
    return np.array([len(r.ids) for r in rows], np.int64) if known is None else known


def n_truncated(rows: Sequence[Encoded]) -> int:
    """Return the number of rows that were cut."""
    known = getattr(rows, "n_truncated", None)
    return sum(1 for r in rows if r.truncated) if known is None else int(known)


@dataclass(frozen=True)
class _Parts:
    """The text of an example in two parts, and the ids that follow it (its end token, if the text has none).

    blank: the prompt's last blanks. They are at the beginning of `rest`, because most tokenizers join a blank to the
    word after it. tail: text after a trace, which is tokenised with it and then cut off.
    """

    prompt: str
    blank: str
    rest: str
    end: tuple[int, ...] = ()
    bos: bool = True
    tail: str = ""


class Encoder:
    """A template bound to a tokenizer. `prompt` and `encode` agree on the prompt's ids.

    eos: the tokenizer's end-of-text id. end_ids: the ids that end an answer, and that stop a generation. stops: the
    texts that stop a generation, for a template whose end is text of several tokens. notes: one line for each fact
    about the template that a user should know.
    """

    def __init__(self, template: Template, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "model.tokenizer_args: the tokenizer has no EOS token, so an answer could not end; use a tokenizer "
                "with an EOS token"
            )
        template = template.resolved(tokenizer_has_one=bool(getattr(tokenizer, "chat_template", None)))
        if template.apply_chat_template and not (template.chat_template or tokenizer.chat_template):
            raise ConfigError(
                "model.template_args.apply_chat_template: this tokenizer has no chat template; set it to false, or "
                "give chat_template"
            )
        self.template, self.tokenizer = template, tokenizer
        self.eos = int(tokenizer.eos_token_id)
        self.notes: list[str] = []
        self._bos = _leading_ids(tokenizer)
        self._chat = self._conversation() if template.apply_chat_template else None
        frame = self._chat.text if self._chat else ""
        control = added_tokens(tokenizer, lambda t: t.special or t.content in frame)
        clean = template.compat == "clean"
        self.tokens = RowTokenizer(tokenizer, control, split_special_tokens=template.split_special_tokens and clean)
        self.special_text: set[str] = set()  # the rows whose text contains the text of a special token
        self._tag_end = self._end_in_tag()
        self._last: tuple[tuple[str, str] | None, list[int]] = (None, [])
        self._known: Mapping[str, list[int]] = {}
        self._others: dict[tuple[Any, int], Encoder] = {}
        if self._chat is not None and template.compat == "clean":
            self._chat.check(self._messages("")[:-1])
        self.stops: tuple[str, ...] = ()
        self.end_ids = frozenset({self.eos, *self._template_ends()})
        if template.max_length is None:
            self.template = dataclasses.replace(template, max_length=self._default_length())

    @property
    def max_length(self) -> int:
        """The maximum number of tokens of an example."""
        return self.template.max_length or LENGTH

    def _default_length(self) -> int:
        """Return a max_length that leaves room for the template's own text before a question."""
        own = len(self.prompt("?")) if self.template.compat == "clean" else 0
        context = getattr(self.tokenizer, "model_max_length", None) or LENGTH
        n = max(LENGTH, min(own + LENGTH, int(context))) if own > FRAME else LENGTH
        if n > LENGTH:
            self.notes.append(
                f"the template writes {own} tokens before a question, so an example may have {n} tokens "
                "(model.template_args.max_length sets another limit)"
            )
        return n

    def _conversation(self) -> Conversation:
        """Return the chat template. Raises ConfigError if the tokenizer has none by that name."""
        t = self.template
        chat = Conversation(
            self.tokenizer,
            chat_template=t.chat_template,
            template_kwargs=t.template_kwargs,
            date_string=t.date_string,
            thought=t.thought,
            system_prompt=t.system_prompt is not None,
        )
        self.notes = chat.notes
        return chat

    def rendered(self) -> str | None:
        """Return the text of one example by the chat template, special tokens included; None with tags.

        It belongs to the key of a job: another template text, variable or date gives another key.
        """
        if self._chat is None:
            return None
        if self.template.compat == "openunlearning":
            return self._chat.render([*self._messages("?"), {"role": "assistant", "content": "!"}])
        turn = self._chat.turn(self._messages("?"), "!")
        return turn.prompt + turn.answer + turn.end

    def _end_in_tag(self) -> str | None:
        """Return, with tags, `asst_end_tag` up to its first special token, which ends an answer."""
        tag = self.template.asst_end_tag
        match = token_pattern(self.tokenizer).search(tag)
        return None if match is None or self.template.compat != "clean" else tag[: match.end()]

    def _template_ends(self) -> set[int]:
        """Return the ids that end an answer besides EOS."""
        if self.template.compat != "clean":
            return set()
        if self._chat is None and self._tag_end is None:
            return set()
        limit = dataclasses.replace(self.template, max_length=MOST_LENGTH)
        whole = copy.copy(self)
        whole.template = limit
        row = whole.encode("?", "a")
        if self._chat is None:
            return {row.ids[-1]}
        end = self._chat.turn(self._messages("?"), "a").end
        if not end:
            self.notes.append("the chat template writes no end token after the answer; the tokenizer's EOS ends it")
        elif not self._chat.has_token(end):
            self._set_stops(end.strip(), row)
            return set()
        return {row.ids[-1]}

    def _set_stops(self, end: str, row: Encoded) -> None:
        """Store the text that ends an answer, as it is and as the tokenizer decodes the end of an example."""
        counts = range(1, row.n_answer + 1)
        tail = next((k for k in counts if end in self._decoded(row.ids[-k:])), len(self.tokens.ids([end])[0]))
        decoded = self._decoded(row.ids[-tail:])
        spaced = "".join(decoded.split()).casefold() == "".join(end.split()).casefold()
        self.stops = (end, decoded) if spaced and end not in decoded else (end,)
        self.notes.append(
            f"the chat template ends an answer with the text {end!r}, which is no token of this tokenizer: its "
            f"{tail} tokens are scored, and generation stops at the text"
        )

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def n_end(self, ids: Sequence[int]) -> int:
        """Return how many of an example's last tokens are its end: 0 if it was cut off."""
        if not ids or ids[-1] in self.end_ids:
            return min(len(ids), 1)
        longest = max((len(stop.encode()) for stop in self.stops), default=0)
        texts = ((k, self._decoded(ids[-k:])) for k in range(1, min(len(ids), longest) + 1))
        return next((k for k, text in texts if any(stop in text for stop in self.stops)), 0)

    def row(self, rows: ExampleSet, row: Example, variant: str) -> Encoded:
        """Encode one answer or span of a row of a set, by the set's form and shots.

        variant: a variant of the answers, which follows the row's trace if it has one, or a span: "trace" (the ids end
        with the trace) or "trace+answer".
        """
        own, where = self._for(rows), f"{rows.name} row {row.row_id}"
        if rows.form == "qa" and self.template.compat != "clean":
            return own._encode_peer(own._without_parts(row, where).question, row.answers[variant])
        return own._join(own._row_parts(rows, row, variant, where), where, rows.long)

    def rows(self, rows: ExampleSet, answers: Sequence[tuple[Example, str]]) -> list[Encoded]:
        """Encode many answers as `row` does, with their texts tokenised in one call.

        answers: pairs of a row and a variant.
        """
        own = copy.copy(self._for(rows))
        if rows.form == "qa" and self.template.compat != "clean":
            return [own.row(rows, row, variant) for row, variant in answers]
        places = [f"{rows.name} row {row.row_id}" for row, _ in answers]
        every = [own._row_parts(rows, r, v, where) for (r, v), where in zip(answers, places, strict=True)]
        own._known = own._many([own._texts(parts) for parts in every], places)
        return [own._join(parts, where, rows.long) for parts, where in zip(every, places, strict=True)]

    def n_cut(self, rows: ExampleSet, answers: Sequence[tuple[Example, str]]) -> int:
        """Return how many answers `rows` would cut, in bounded memory. Raises DataError for one it cannot encode.

        Only an answer whose number of bytes does not rule a cut out is tokenised.
        """
        own = self._for(rows)
        known = rows.form != "qa" or self.template.compat == "clean"
        n = 0
        for first in range(0, len(answers), _AT_ONCE):
            some = answers[first : first + _AT_ONCE]
            n += n_truncated(self.rows(rows, [a for a in some if not (known and own._is_short(rows, *a))]))
        return n

    def _is_short(self, rows: ExampleSet, row: Example, variant: str) -> bool:
        """Return whether an answer has at most max_length ids for certain."""
        where = f"{rows.name} row {row.row_id}"
        parts = self._row_parts(rows, row, variant, where)
        most = self.tokens.most_ids(parts.prompt + parts.rest + parts.tail) + len(self._bos) + len(parts.end)
        return most <= self.max_length

    def row_prompts(self, rows: ExampleSet, examples: Sequence[Example]) -> list[list[int]]:
        """Return the prompts of many rows as `row_prompt` does, tokenised in one call."""
        own = copy.copy(self._for(rows))
        if rows.form != "qa" or self.template.compat == "clean":
            places = [f"{rows.name} row {row.row_id}" for row in examples]
            own._known = own._many([own._prompt_texts(*own._row_prompt_text(rows, row)) for row in examples], places)
        return [own.row_prompt(rows, row) for row in examples]

    def _many(self, texts: Sequence[Sequence[str]], places: Sequence[str]) -> dict[str, list[int]]:
        """Return the ids of all texts of some rows, by text. Raises DataError with the row that cannot be encoded."""
        every = list(dict.fromkeys(text for row in texts for text in row))
        try:
            return dict(zip(every, self.tokens.ids(every), strict=True))
        except DataError:
            for row, where in zip(texts, places, strict=True):
                with _named(where):
                    self.tokens.ids(list(row))
            raise

    def pieces(self, rows: ExampleSet) -> list[Encoded]:
        """Join the texts of a set by a blank line, and cut them into pieces of at most max_length tokens.

        The lengths of pieces differ by at most one token. Each text is tokenised separately, with the blank line after
        it; no piece is decoded. A piece starts with BOS if the tokenizer has one. All its tokens are scored except the
        first, which has no prediction.
        """
        texts = [self._hidden(row.answer, f"{rows.name} row {row.row_id}") for row in rows]
        texts = [f"{text}\n\n" for text in texts[:-1]] + texts[-1:]
        ids = np.concatenate(self.tokens.ids(texts))
        size = self._for(rows).max_length - len(self._bos)
        cut = np.array_split(ids.astype(np.int64), max(1, math.ceil(len(ids) / size)))
        return [Encoded((*self._bos, *piece.tolist()), 1) for piece in cut]

    def row_prompt(self, rows: ExampleSet, row: Example) -> list[int]:
        """Return the ids that generation starts from, for a row of a set."""
        own = self._for(rows)
        if rows.form == "qa" and self.template.compat != "clean":
            return own.prompt(own._without_parts(row, f"{rows.name} row {row.row_id}").question)
        ids = own._prompt_ids(*own._row_prompt_text(rows, row))
        return own._started(ids, bos=rows.form != "qa" or own._chat is None)

    def _row_prompt_text(self, rows: ExampleSet, row: Example) -> tuple[str, str]:
        """Return the text that generation starts from, and its last blanks, which belong to the answer's first word."""
        where = f"{rows.name} row {row.row_id}"
        if rows.form == "qa":
            return _bare(self._row_frame(row, where)[0])
        bare, blank = _bare(self._shown(rows, row.question, where))
        return bare, blank or ("" if not bare or bare[-1].isspace() else " ")

    def _for(self, rows: ExampleSet) -> Encoder:
        """Return this encoder with a set's shots and max_length in place of the template's."""
        shots, limit = rows.shots or self.template.few_shot, rows.max_length or self.max_length
        if (shots, limit) == (self.template.few_shot, self.max_length):
            return self
        if (shots, limit) not in self._others:
            other = copy.copy(self)
            other.template = dataclasses.replace(self.template, few_shot=shots, max_length=limit)
            self._others[shots, limit] = other
        return self._others[shots, limit]

    def _hidden(self, text: str, where: str) -> str:
        """Hide the text of special tokens in a row from the template, and count the row."""
        with _named(where):
            out = self.tokens.hide(text)
        if out != text:
            self.special_text.add(where)
        return out

    def _shown(self, rows: ExampleSet, question: str, where: str) -> str:
        return self._hidden("".join(f"{q} {a}\n\n" for q, a in rows.shots) + question, where)

    def _plain_parts(self, rows: ExampleSet, question: str, answer: str, where: str) -> _Parts:
        """Return the parts without a template: the blank before the answer belongs to the answer's first word."""
        bare, own = _bare(self._shown(rows, question, where))
        answer = self._hidden(answer, where)
        blank = own or ("" if not bare or bare[-1].isspace() else " ")
        rest = (own or ("" if answer[:1].isspace() else blank)) + answer
        return _Parts(bare, blank, rest, (self.eos,) if rows.form == "completion" else ())

    def _row_parts(self, rows: ExampleSet, row: Example, variant: str, where: str) -> _Parts:
        """Return the parts of an answer or a span of a row, by the set's form."""
        if rows.form != "qa":
            return self._plain_parts(rows, row.question, row.answers[variant], where)
        if row.trace is not None:
            return self._trace_parts(row, variant, where)
        return self._parts(row.question, row.answers[variant], where, row.turns)

    def _parts(self, question: str, answer: str, where: str, turns: Turns = ()) -> _Parts:
        """Return the parts by the template: blanks at the end of the prompt belong to the answer."""
        answer = self._hidden(answer, where)
        if self._chat is None:
            text = self._prompt_text(question, where, turns)
            after = self._tag_end or ""
        else:
            with _named(where):
                turn = self._chat.turn(self._messages(self._hidden(question, where), where, turns), answer)
            text, answer, after = turn.prompt, turn.answer, turn.end
        bare, blank = _bare(text)
        return _Parts(bare, blank, blank + answer + after, () if after else (self.eos,), bos=self._chat is None)

    def _row_frame(self, row: Example, where: str) -> tuple[str, str, str]:
        """Return the prompt of a row, the text between its trace and an answer, and the text that ends an answer.

        The prompt of a row with a trace ends with the tag that opens the thought.
        """
        if row.trace is None:
            return self._prompt_text(row.question, where, row.turns), "", ""
        if self._chat is None:
            t = self.template
            head = self._prompt_text(row.question, where, row.turns) + t.think_start_tag
            return head, t.think_end_tag, self._tag_end or ""
        with _named(where):
            messages = self._messages(self._hidden(row.question, where), where, row.turns)
            frame = self._chat.trace_frame(messages)
        return frame.before, frame.between, frame.end

    def closing_text(self, rows: ExampleSet, row: Example) -> str:
        """Return the text between a row's trace and its answer as the tokenizer decodes it in a generation."""
        own = self._for(rows)
        between = own._row_frame(row, f"{rows.name} row {row.row_id}")[1]
        return str(self.tokenizer.decode(own.tokens.ids([between])[0], skip_special_tokens=True))

    def _trace_parts(self, row: Example, variant: str, where: str) -> _Parts:
        """Return the parts of a row with a trace: the prompt of an answer contains the trace."""
        before, between, after = self._row_frame(row, where)
        trace = self._hidden((row.trace or "").strip(), where)
        answer = self._hidden((row.answers.get(variant, row.answer)).strip(), where)
        if self._chat is not None:
            with _named(where):
                messages = self._messages(self._hidden(row.question, where), where, row.turns)
                self._chat.check_trace(messages, trace, answer)
        end = () if after else (self.eos,)
        bos = self._chat is None
        if variant not in (TRACE, TRACE_ANSWER):
            bare, blank = _bare(before + trace + between)
            return _Parts(bare, blank, blank + answer + after, end, bos=bos)
        bare, blank = _bare(before)
        if variant == TRACE:
            return _Parts(bare, blank, blank + trace, (), bos=bos, tail=between)
        return _Parts(bare, blank, blank + trace + between + answer + after, end, bos=bos)

    def _without_parts(self, row: Example, where: str) -> Example:
        """Return a row of one question and one answer. Raises DataError for others, which compat has no form for."""
        if row.trace is not None or row.turns:
            raise DataError(
                f"{where}: a trace or earlier turns have no form with "
                f"model.template_args.compat={self.template.compat}; use clean"
            )
        return row

    def _texts(self, parts: _Parts) -> tuple[str, ...]:
        """Return the texts to tokenise: the rest of an example, or all of it, and the texts of its prompt."""
        separate = not parts.tail and self.tokens.splits(parts.prompt, parts.rest)
        text = parts.rest if separate else parts.prompt + parts.rest + parts.tail
        return text, *self._prompt_texts(parts.prompt, parts.blank)

    def _prompt_texts(self, prompt: str, blank: str) -> tuple[str, ...]:
        """Return the prompt, and the prompt with a letter after it if a letter may change its tokens."""
        return (prompt,) if self.tokens.splits(prompt, f"{blank}A") else (prompt, f"{prompt}{blank}A")

    def _join(self, parts: _Parts, where: str, long: str = "right") -> Encoded:
        """Return the ids of an example. Raises DataError if its boundary is unknown, or no answer token is left."""
        with _named(where):
            before = self._prompt_ids(parts.prompt, parts.blank)
            whole = parts.prompt + parts.rest + parts.tail
            if not parts.tail and self.tokens.splits(parts.prompt, parts.rest):
                ids = self._ids(parts.prompt) + self._ids(parts.rest)
            else:
                ids = self._ids(whole)
            n, stop = len(before), len(ids)
            if ids[:n] != before:
                n = self._boundary(parts.prompt, whole, ids)[0]
            if parts.tail:  # a token with a part of the trace belongs to the trace
                stop, shared = self._boundary(parts.prompt + parts.rest, whole, ids)
                stop += shared
            before, ids = ids[:n], ids[n:stop]
        head = self._started(before, bos=parts.bos)
        end = [] if parts.end and ids and ids[-1] == parts.end[0] else list(parts.end)
        tail = [*ids, *end]
        start = len(head) - len(before)
        over = max(0, len(head) + len(tail) - self.max_length)
        if long == "left" and over <= len(before):
            return Encoded((*head[:start], *head[start + over :], *tail), len(head) - over, over)
        return self._cut(head, tail, where)

    def _boundary(self, head: str, whole: str, ids: Sequence[int]) -> tuple[int, bool]:
        """Return the boundary of `RowTokenizer.boundary`. Raises DataError if it is unknown."""
        boundary = self.tokens.boundary(head, whole, ids)
        if boundary is None:
            raise DataError(
                "this tokenizer joins the prompt's last and the answer's first characters in one token and gives no "
                "offsets; use a fast tokenizer (tokenizer.json)"
            )
        return boundary

    def prompt(self, question: str) -> list[int]:
        """Return the ids that generation starts from."""
        if self.template.compat == "openunlearning":
            return self._peer_ids(self._prompt_text(question), cut=False)
        return self._started(self._prompt_ids(*_bare(self._prompt_text(question))), bos=self._chat is None)

    def encode(self, question: str, answer: str, *, where: str = "row") -> Encoded:
        """Return the ids of the whole row. Raises DataError if truncation would leave no answer token."""
        if self.template.compat == "openunlearning":
            return self._encode_peer(question, answer)
        return self._join(self._parts(question, answer, where), where)

    def _cut(self, prompt: list[int], tail: list[int], where: str) -> Encoded:
        ids = prompt + tail
        over = max(0, len(ids) - self.max_length)
        ids = ids[: self.max_length]
        if len(ids) <= len(prompt):
            raise DataError(
                f"{where}: the prompt alone has {len(prompt)} tokens, max_length is {self.max_length}: "
                "no answer token is left; raise model.template_args.max_length"
            )
        return Encoded(tuple(ids), 0 if self.template.labels == "all" else len(prompt), over)

    def _started(self, ids: list[int], *, bos: bool) -> list[int]:
        """Return the ids with the tokenizer's own leading ids, unless the text begins with them."""
        n = len(self._bos)
        return list(ids) if not bos or (n and ids[:n] == self._bos) else [*self._bos, *ids]

    def _prompt_ids(self, prompt: str, blank: str) -> list[int]:
        """Return the ids of a prompt before an answer that begins with a letter, after the prompt's last blanks.

        The ids of the last prompt are cached, because the answers of a row follow one another.
        """
        if self._last[0] != (prompt, blank):
            ids, *others = (self._ids(text) for text in self._prompt_texts(prompt, blank))
            for probe in others:
                if probe[: len(ids)] != ids:
                    boundary = self.tokens.boundary(prompt, f"{prompt}{blank}A", probe)
                    # a token with a part of the prompt's last word stays whole: generated text begins after that word
                    ids = ids if boundary is None or boundary[1] else probe[: boundary[0]]
            self._last = ((prompt, blank), ids)
        return self._last[1]

    def _ids(self, text: str) -> list[int]:
        known = self._known.get(text)
        return self.tokens.ids([text])[0] if known is None else known

    def _prompt_text(self, question: str, where: str = "row", turns: Turns = ()) -> str:
        t = self.template
        if self._chat is not None:
            if t.compat == "openunlearning":
                return self._chat.render(self._messages(question), generation_prompt=True)
            with _named(where):
                return self._chat.prompt(self._messages(self._hidden(question, where), where, turns))
        named = [*((turn, "few_shot") for turn in t.few_shot), *((turn, where) for turn in turns)]
        shots = "".join(
            f"{t.user_start_tag}{self._hidden(q, place)}{t.user_end_tag}"
            f"{t.asst_start_tag}{self._hidden(a, place)}{t.asst_end_tag}"
            for (q, a), place in named
        )
        head = t.system_prompt_with_special_tokens or t.system_prompt or ""
        return f"{head}{shots}{t.user_start_tag}{self._hidden(question, where)}{t.user_end_tag}{t.asst_start_tag}"

    def _messages(self, question: str, where: str = "row", earlier: Turns = ()) -> list[dict[str, str]]:
        """Return the conversation before an answer. compat=openunlearning: an empty system prompt is none."""
        system = self.template.system_prompt
        has_system = bool(system) if self.template.compat == "openunlearning" else system is not None
        turns: list[tuple[str, str]] = [("system", str(system))] if has_system else []
        for q, a in self.template.few_shot:
            turns += [("user", self._hidden(q, "few_shot")), ("assistant", self._hidden(a, "few_shot"))]
        for q, a in earlier:
            turns += [("user", self._hidden(q, where)), ("assistant", self._hidden(a, where))]
        turns.append(("user", question))
        return [{"role": role, "content": content} for role, content in turns]

    def _peer_ids(self, text: str, *, cut: bool) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=not self.template.apply_chat_template)["input_ids"])
        return ids[: self.max_length] if cut else ids

    def _encode_peer(self, question: str, answer: str) -> Encoded:
        prompt = self._prompt_text(question)
        whole = prompt + answer
        if chat := self._chat is not None:
            whole = self._chat.render([*self._messages(question), {"role": "assistant", "content": answer}])
        ids = self._peer_ids(whole, cut=not chat)
        over = max(0, len(self._peer_ids(whole, cut=False)) - len(ids))
        if ids[-1] != self.eos:
            ids = [*ids, self.eos]
        n_prompt = 0 if self.template.labels == "all" else min(len(self._peer_ids(prompt, cut=not chat)), len(ids) - 1)
        return Encoded(tuple(ids), n_prompt, over)


def _bare(text: str) -> tuple[str, str]:
    """Return a text without its last blanks, and the blanks."""
    bare = text.rstrip(" ")
    return bare, text[len(bare) :]


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Add the row's name to a DataError that is raised within the block."""
    try:
        yield
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(f"{where}: ") else f"{where}: {text}") from None


def _leading_ids(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer writes before every text (BOS, for most)."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return next((ids[:i] for i in range(len(ids)) if ids[i : i + len(bare)] == bare), [])
