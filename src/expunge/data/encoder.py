"""Encode a question and an answer as token ids with an exact prompt boundary.

The standard is the tokenizer itself: the ids of an example are the ids of its whole text, tokenised once. The tokens
that reach past the prompt's text are the answer. Prompt and answer are tokenised separately only if a check of the
tokenizer shows that this gives the same ids. `compat=openunlearning` takes the first len(tokens(prompt)) ids as the
prompt, as that project does: with plain tags the first answer token then has no label.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge.core.errors import ConfigError, DataError
from expunge.core.fingerprints import is_comparing
from expunge.data.example_text import ExampleText, TextParts, row_named, without_blanks
from expunge.data.examples import ANSWER, TEMPLATE_LIMIT, Example, ExampleSet
from expunge.data.row_tokenizer import PIECES, PROMPT, Coded, RowTokenizer, added_tokens, leading_ids, note_ids
from expunge.data.template import FRAME, LENGTH, MOST_LENGTH, Template

if TYPE_CHECKING:
    from expunge.data.conversation import Conversation

_AT_ONCE = 2048  # rows that are encoded together where only their number matters


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row; the first `n_prompt` are not scored. `truncated`: the number of ids that were cut off.

    marks: the indices in `ids` of the tokens with a mark (`training.marks`), for losses that treat them apart.
    """

    ids: tuple[int, ...]
    n_prompt: int
    truncated: int = 0
    marks: tuple[int, ...] = ()

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


class Encoder:
    """A template bound to a tokenizer. `prompt` and `encode` agree on the prompt's ids.

    eos: the tokenizer's end-of-text id. end_ids: the ids that end an answer, and that stop a generation. stops: the
    texts that stop a generation, for a template whose end is text of several tokens. text: the text of examples.
    notes: one line for each fact about the template that a user should know. identity: returns the identity of the
    tokenizer and of the code that applies it; with it, jobs note digests of the ids (`data.row_tokenizer`).
    """

    def __init__(self, template: Template, tokenizer: Any, identity: Callable[[], str] | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "model.tokenizer_args.eos_token: the tokenizer has no EOS token, so an answer could not end; name "
                "the token of its vocabulary that ends a text (in Python, tokenizer.eos_token)"
            )
        template = template.resolved(tokenizer_has_one=bool(getattr(tokenizer, "chat_template", None)))
        if template.apply_chat_template and not (template.chat_template or tokenizer.chat_template):
            raise ConfigError(
                "model.template_args.apply_chat_template: this tokenizer has no chat template; set it to false, or "
                "give chat_template"
            )
        self.template, self.tokenizer, self._identity = template, tokenizer, identity
        self.eos = int(tokenizer.eos_token_id)
        self._bos = leading_ids(tokenizer)
        chat = _conversation(template, tokenizer) if template.apply_chat_template else None
        self.notes: list[str] = chat.notes if chat else []
        frame = chat.text if chat else ""
        control = added_tokens(tokenizer, lambda t: t.special or t.content in frame)
        clean = template.compat == "clean"
        self.tokens = RowTokenizer(tokenizer, control, split_special_tokens=template.split_special_tokens and clean)
        self.text = ExampleText(template, chat, self.tokens, self.eos)
        self._last: tuple[tuple[str, str] | None, list[int]] = (None, [])
        self._known: Mapping[str, list[int]] = {}
        self._others: dict[tuple[Any, int], Encoder] = {}
        self._limit = TEMPLATE_LIMIT
        if chat is not None and clean:
            chat.check(self.text.messages("")[:-1])
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

    def _template_ends(self) -> set[int]:
        """Return the ids that end an answer besides EOS."""
        if self.template.compat != "clean":
            return set()
        if self.text.chat is None and self.text.tag_end is None:
            return set()
        limit = dataclasses.replace(self.template, max_length=MOST_LENGTH)
        whole = copy.copy(self)
        whole.template = limit
        row = whole.encode("?", "a")
        if self.text.chat is None:
            return {row.ids[-1]}
        end = self.text.chat.turn(self.text.messages("?"), "a").end
        if not end:
            self.notes.append("the chat template writes no end token after the answer; the tokenizer's EOS ends it")
        elif not self.text.chat.ends.has_token(end):
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
            f"the chat template ends an answer with the text {end!r}, which is no token of this tokenizer. Its "
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
        if self.template.compat != "clean":
            return own._join_peer(*own.text.peer_row(rows, row, variant), rows.form)
        return own._join(own.text.row_parts(rows, row, variant, where), where, rows.long)

    def rows(self, rows: ExampleSet, answers: Sequence[tuple[Example, str]]) -> list[Encoded]:
        """Encode many answers as `row` does, with their texts tokenised in one call.

        answers: pairs of a row and a variant.
        """
        own = copy.copy(self._for(rows))
        if self.template.compat != "clean":
            pairs = [own.text.peer_row(rows, row, variant) for row, variant in answers]
            own._known = own._known_to_peer([text for pair in pairs for text in pair], rows.form)
            encoded = [own._join_peer(*pair, rows.form) for pair in pairs]
        else:
            places = [f"{rows.name} row {row.row_id}" for row, _ in answers]
            every = [own.text.row_parts(rows, r, v, where) for (r, v), where in zip(answers, places, strict=True)]
            own._known = own._many([own._texts(parts) for parts in every], places)
            encoded = [own._join(parts, where, rows.long) for parts, where in zip(every, places, strict=True)]
        own._note(rows, ((*answer, one.ids, one.n_prompt) for answer, one in zip(answers, encoded, strict=True)))
        return encoded

    def _note(self, rows: ExampleSet, coded: Iterable[Coded]) -> None:
        """Note the ids of rows if a job runs."""
        if self._identity is not None and is_comparing():
            note_ids(self._identity(), self.template, rows, coded)

    def n_cut(self, rows: ExampleSet, answers: Sequence[tuple[Example, str]]) -> int:
        """Return how many answers `rows` would cut, in bounded memory. Raises DataError for one it cannot encode.

        Only an answer whose number of bytes does not rule a cut out is tokenised.
        """
        own = self._for(rows)
        known = self.template.compat == "clean"
        n = 0
        for first in range(0, len(answers), _AT_ONCE):
            some = answers[first : first + _AT_ONCE]
            n += n_truncated(self.rows(rows, [a for a in some if not (known and own._is_short(rows, *a))]))
        return n

    def _is_short(self, rows: ExampleSet, row: Example, variant: str) -> bool:
        """Return whether an answer has at most max_length ids for certain."""
        where = f"{rows.name} row {row.row_id}"
        parts = self.text.row_parts(rows, row, variant, where)
        most = self.tokens.most_ids(parts.prompt + parts.rest + parts.tail) + len(self._bos) + len(parts.end)
        return most <= self.max_length

    def row_prompts(self, rows: ExampleSet, examples: Sequence[Example]) -> list[list[int]]:
        """Return the prompts of many rows as `row_prompt` does, tokenised in one call."""
        own = copy.copy(self._for(rows))
        places = [f"{rows.name} row {row.row_id}" for row in examples]
        if self.template.compat != "clean":
            own._known = own._known_to_peer([own.text.peer_prompt(rows, row) for row in examples], rows.form)
        else:
            own._known = own._many([own._prompt_texts(*own.text.row_prompt(rows, row)) for row in examples], places)
        prompts = [own.row_prompt(rows, row) for row in examples]
        own._note(rows, ((row, PROMPT, tuple(ids), 0) for row, ids in zip(examples, prompts, strict=True)))
        return prompts

    def _many(self, texts: Sequence[Sequence[str]], places: Sequence[str]) -> dict[str, list[int]]:
        """Return the ids of all texts of some rows, by text. Raises DataError with the row that cannot be encoded."""
        every = list(dict.fromkeys(text for row in texts for text in row))
        try:
            return dict(zip(every, self.tokens.ids(every), strict=True))
        except DataError:
            for row, where in zip(texts, places, strict=True):
                with row_named(where):
                    self.tokens.ids(list(row))
            raise

    def pieces(self, rows: ExampleSet) -> list[Encoded]:
        """Join the texts of a set by a blank line, and cut them into pieces of at most max_length tokens.

        The lengths of pieces differ by at most one token. Each text is tokenised separately, with the blank line after
        it; no piece is decoded. A piece starts with BOS if the tokenizer has one. All its tokens are scored except the
        first, which has no prediction.
        """
        texts = [self.text.hide(row.answer, f"{rows.name} row {row.row_id}") for row in rows]
        texts = [f"{text}\n\n" for text in texts[:-1]] + texts[-1:]
        each = self.tokens.ids(texts)
        self._note(rows, ((row, PIECES, tuple(one), 0) for row, one in zip(rows, each, strict=True)))
        ids = np.concatenate(each)
        size = self._for(rows).max_length - len(self._bos)
        cut = np.array_split(ids.astype(np.int64), max(1, math.ceil(len(ids) / size)))
        return [Encoded((*self._bos, *piece.tolist()), 1) for piece in cut]

    def row_prompt(self, rows: ExampleSet, row: Example) -> list[int]:
        """Return the ids that generation starts from, for a row of a set."""
        own = self._for(rows)
        if self.template.compat != "clean":
            return own._peer_prompt(own.text.peer_prompt(rows, row), rows.form)
        ids = own._prompt_ids(*own.text.row_prompt(rows, row))
        return own._started(ids, bos=rows.form != "qa" or own.text.chat is None)

    def _for(self, rows: ExampleSet) -> Encoder:
        """Return this encoder with a set's shots and max_length in place of the template's."""
        shots, limit = rows.shots or self.template.few_shot, rows.max_length or self.max_length
        if (shots, limit) == (self.template.few_shot, self.max_length):
            return self
        if (shots, limit) not in self._others:
            other = copy.copy(self)
            other.template = dataclasses.replace(self.template, few_shot=shots, max_length=limit)
            other.text = self.text.with_template(other.template)
            other._limit = rows.limit_setting
            self._others[shots, limit] = other
        return self._others[shots, limit]

    def closing_text(self, rows: ExampleSet, row: Example) -> str:
        """Return the text between a row's trace and its answer as the tokenizer decodes it in a generation."""
        own = self._for(rows)
        between = own.text.row_frame(row, f"{rows.name} row {row.row_id}")[1]
        return str(self.tokenizer.decode(own.tokens.ids([between])[0], skip_special_tokens=True))

    def _texts(self, parts: TextParts) -> tuple[str, ...]:
        """Return the texts to tokenise: the rest of an example, or all of it, and the texts of its prompt."""
        separate = not parts.tail and self.tokens.splits(parts.prompt, parts.rest)
        text = parts.rest if separate else parts.prompt + parts.rest + parts.tail
        return text, *self._prompt_texts(parts.prompt, parts.blank)

    def _prompt_texts(self, prompt: str, blank: str) -> tuple[str, ...]:
        """Return the prompt, and the prompt with a letter after it if a letter may change its tokens."""
        return (prompt,) if self.tokens.splits(prompt, f"{blank}A") else (prompt, f"{prompt}{blank}A")

    def _join(self, parts: TextParts, where: str, long: str = "right") -> Encoded:
        """Return the ids of an example. Raises DataError if its boundary is unknown, or no answer token is left."""
        with row_named(where):
            before = self._prompt_ids(parts.prompt, parts.blank)
            whole = parts.prompt + parts.rest + parts.tail
            if not parts.tail and self.tokens.splits(parts.prompt, parts.rest):
                ids = self._ids(parts.prompt) + self._ids(parts.rest)
            else:
                ids = self._ids(whole)
            n, stop = len(before), len(ids)
            if ids[:n] != before:
                n = self._boundary(parts.prompt, whole, ids)[0]
            if parts.tail:
                stop = self._stop(parts.prompt + parts.rest, whole, ids)
            before, ids = ids[:n], ids[n:stop]
        head = self._started(before, bos=parts.bos)
        end = [] if parts.end and ids and ids[-1] == parts.end[0] else list(parts.end)
        tail = [*ids, *end]
        start = len(head) - len(before)
        over = max(0, len(head) + len(tail) - self.max_length)
        if long == "left" and over <= len(before):
            return Encoded((*head[:start], *head[start + over :], *tail), len(head) - over, over)
        return self._cut(head, tail, where)

    def _stop(self, head: str, whole: str, ids: Sequence[int]) -> int:
        """Return the number of ids up to the end of `head`; a token with a part of it belongs to it."""
        own = self._ids(head) if self.tokens.backend is None else None  # without offsets
        if own is not None and list(ids[: len(own)]) == own:
            return len(own)
        stop, shared = self._boundary(head, whole, ids)
        return stop + shared

    def _boundary(self, head: str, whole: str, ids: Sequence[int]) -> tuple[int, bool]:
        """Return the boundary of `RowTokenizer.boundary`. Raises DataError if it is unknown."""
        boundary = self.tokens.boundary(head, whole, ids)
        if boundary is None:
            raise DataError(
                "this tokenizer joins characters of the answer and of the text next to it in one token and gives no "
                "offsets; use a fast tokenizer (tokenizer.json)"
            )
        return boundary

    def prompt(self, question: str) -> list[int]:
        """Return the ids that generation starts from."""
        if self.template.compat == "openunlearning":
            return self._peer_prompt(self.text.prompt(question), "qa")
        return self._started(self._prompt_ids(*without_blanks(self.text.prompt(question))), bos=self.text.chat is None)

    def encode(self, question: str, answer: str, *, where: str = "row") -> Encoded:
        """Return the ids of the whole row. Raises DataError if truncation would leave no answer token."""
        if self.template.compat == "openunlearning":
            return self._join_peer(*self.text.peer(question, answer), "qa")
        return self._join(self.text.parts(question, answer, where), where)

    def pairs(self, name: str, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
        """Encode questions with answers that are no rows of a set, such as refusals, as `encode` does.

        name: a name of the pairs, for errors and for the digest of a job.
        """
        encoded = [(pair, self.encode(*pair, where=f"{name} {i}")) for i, pair in enumerate(pairs)]
        self.note_pairs(name, encoded)
        return [one for _, one in encoded]

    def note_pairs(self, name: str, encoded: Sequence[tuple[tuple[str, str], Encoded]]) -> None:
        """Note the ids of pairs that `encode` has encoded, if a job runs. name: as in `pairs`."""
        rows = ExampleSet(name, tuple(Example(i, pair[0], {ANSWER: pair[1]}) for i, (pair, _) in enumerate(encoded)))
        self._note(rows, ((row, ANSWER, one.ids, one.n_prompt) for row, (_, one) in zip(rows, encoded, strict=True)))

    def _cut(self, prompt: list[int], tail: list[int], where: str) -> Encoded:
        ids = prompt + tail
        over = max(0, len(ids) - self.max_length)
        ids = ids[: self.max_length]
        if len(ids) <= len(prompt):
            raise DataError(
                f"{where}: the prompt alone has {len(prompt)} tokens, max_length is {self.max_length}: "
                f"no answer token is left; raise {self._limit}"
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

    def _peer_ids(self, text: str, form: str) -> list[int]:
        known = self._known.get(text)
        return self._known_to_peer([text], form)[text] if known is None else known

    def _known_to_peer(self, texts: Sequence[str], form: str) -> dict[str, list[int]]:
        """Return the ids of texts as OpenUnlearning tokenises them, by text."""
        every = list(dict.fromkeys(texts))
        ids = self.tokens.plain_ids(every, special=form != "qa" or not self.template.apply_chat_template)
        return dict(zip(every, ids, strict=True))

    def _peer_prompt(self, prompt: str, form: str) -> list[int]:
        return self._peer_ids(prompt, form)[: self._peer_limit(form)]

    def _peer_limit(self, form: str) -> int | None:
        """Return where OpenUnlearning cuts a prompt, and a question with its answer; None: not."""
        return self.max_length if form == "qa" and self.text.chat is None else None

    def _join_peer(self, prompt: str, whole: str, form: str) -> Encoded:
        """Return the ids of an example whose label boundary is the number of tokens of its prompt alone.

        A text has no end token, and `max_length` tokens after its beginning.
        """
        n, every = len(self._peer_prompt(prompt, form)), self._peer_ids(whole, form)
        ids = every[: self._peer_limit(form) if form == "qa" else n + self.max_length]
        over = len(every) - len(ids)
        if form == "qa" and ids[-1] != self.eos:
            ids = [*ids, self.eos]
        n_prompt = 0 if self.template.labels == "all" else max(min(n, len(ids) - 1), form != "qa")
        return Encoded(tuple(ids), n_prompt, over)


def _conversation(template: Template, tokenizer: Any) -> Conversation:
    """Return the chat template. Raises ConfigError if it cannot write a conversation."""
    from expunge.data.conversation import Conversation

    return Conversation(
        tokenizer,
        chat_template=template.chat_template,
        template_kwargs=template.template_kwargs,
        date_string=template.date_string,
        thought=template.thought,
        system_prompt=template.system_prompt is not None,
    )
