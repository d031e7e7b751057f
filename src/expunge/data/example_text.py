"""The text of an example in the form of its template: a prompt, an answer, and the end after it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.errors import DataError
from expunge.data.examples import TRACE, TRACE_ANSWER, Example, ExampleSet
from expunge.data.row_tokenizer import RowTokenizer, token_pattern
from expunge.data.template import Template

if TYPE_CHECKING:
    from expunge.data.conversation import Conversation

Turns = Sequence[tuple[str, str]]  # earlier questions and answers of a conversation


@dataclass(frozen=True)
class TextParts:
    """The text of an example in two parts, and the ids that follow it (its end token, if the text has none).

    blank: the prompt's last blanks. They are at the beginning of `rest`, because most tokenizers join a blank to the
    word after it. tail: text after a trace or an end, which is tokenised with it and then cut off.
    """

    prompt: str
    blank: str
    rest: str
    end: tuple[int, ...] = ()
    bos: bool = True
    tail: str = ""


class ExampleText:
    """A template, with the tokenizer's chat template if it uses one. It writes text and tokenises nothing.

    eos: the id that ends an answer if the text has no end. special_text: the rows whose text contains the text of a
    special token. tag_end: with tags, `asst_end_tag` up to its first special token, which ends an answer.
    """

    def __init__(self, template: Template, chat: Conversation | None, tokens: RowTokenizer, eos: int) -> None:
        self.template, self.chat = template, chat
        self._tokens, self._eos = tokens, eos
        self.special_text: set[str] = set()
        tag = template.asst_end_tag
        match = token_pattern(tokens.tokenizer).search(tag)
        self.tag_end = None if match is None or template.compat != "clean" else tag[: match.end()]

    def with_template(self, template: Template) -> ExampleText:
        """Return the text by another template of the same kind, such as one with other solved examples."""
        other = copy.copy(self)
        other.template = template
        return other

    def rendered(self) -> str | None:
        """Return the text of one example by the chat template, special tokens included; None with tags.

        It belongs to the key of a job: another template text, variable or date gives another key.
        """
        if self.chat is None:
            return None
        if self.template.compat == "openunlearning":
            return self.chat.render([*self.messages("?"), {"role": "assistant", "content": "!"}])
        turn = self.chat.turn(self.messages("?"), "!")
        return turn.prompt + turn.answer + turn.end + turn.tail

    def row_prompt(self, rows: ExampleSet, row: Example) -> tuple[str, str]:
        """Return the text that generation starts from, and its last blanks, which belong to the answer's first word."""
        where = f"{rows.name} row {row.row_id}"
        if rows.form == "qa":
            return without_blanks(self.row_frame(row, where)[0])
        bare, blank = without_blanks(self._shown(rows, row.question, where))
        return bare, blank or ("" if not bare or bare[-1].isspace() else " ")

    def row_parts(self, rows: ExampleSet, row: Example, variant: str, where: str) -> TextParts:
        """Return the parts of an answer or a span of a row, by the set's form."""
        if rows.form != "qa":
            return self._plain_parts(rows, row.question, row.answers[variant], where)
        if row.trace is not None:
            return self._trace_parts(row, variant, where)
        return self.parts(row.question, row.answers[variant], where, row.turns)

    def row_frame(self, row: Example, where: str) -> tuple[str, str, str, str]:
        """Return the prompt of a row, the text between its trace and an answer, the text that ends an answer, its tail.

        The prompt of a row with a trace ends with the tag that opens the thought.
        """
        if row.trace is None:
            return self.prompt(row.question, where, row.turns), "", "", ""
        if self.chat is None:
            t = self.template
            head = self.prompt(row.question, where, row.turns) + t.think_start_tag
            return head, t.think_end_tag, self.tag_end or "", ""
        with row_named(where):
            messages = self.messages(self.hide(row.question, where), where, row.turns)
            frame = self.chat.trace_frame(messages)
        return frame.before, frame.between, frame.end, frame.tail

    def single_question(self, row: Example, where: str) -> Example:
        """Return a row of one question and one answer. Raises DataError for others, which compat has no form for."""
        if row.trace is not None or row.turns:
            raise DataError(
                f"{where}: a trace or earlier turns have no form with "
                f"model.template_args.compat={self.template.compat}; use clean"
            )
        return row

    def peer_row(self, rows: ExampleSet, row: Example, variant: str) -> tuple[str, str]:
        """Return the texts of `peer` for one answer of a row. A completion follows its prompt after a blank."""
        if rows.form != "qa":
            return row.question, f"{row.question} {row.answers[variant]}" if row.question else row.answers[variant]
        return self.peer(self.single_question(row, f"{rows.name} row {row.row_id}").question, row.answers[variant])

    def peer_prompt(self, rows: ExampleSet, row: Example) -> str:
        """Return the text that OpenUnlearning generates from."""
        if rows.form != "qa":
            return row.question
        return self.prompt(self.single_question(row, f"{rows.name} row {row.row_id}").question)

    def peer(self, question: str, answer: str) -> tuple[str, str]:
        """Return a prompt, and the prompt with the answer, as OpenUnlearning writes them."""
        prompt = self.prompt(question)
        if self.chat is None:
            return prompt, prompt + answer
        return prompt, self.chat.render([*self.messages(question), {"role": "assistant", "content": answer}])

    def prompt(self, question: str, where: str = "row", turns: Turns = ()) -> str:
        """Return the text before an answer, with the earlier turns of its conversation."""
        t = self.template
        if self.chat is not None:
            if t.compat == "openunlearning":
                return self.chat.render(self.messages(question), generation_prompt=True)
            with row_named(where):
                return self.chat.prompt(self.messages(self.hide(question, where), where, turns))
        named = [*((turn, "few_shot") for turn in t.few_shot), *((turn, where) for turn in turns)]
        shots = "".join(
            f"{t.user_start_tag}{self.hide(q, place)}{t.user_end_tag}"
            f"{t.asst_start_tag}{self.hide(a, place)}{t.asst_end_tag}"
            for (q, a), place in named
        )
        head = t.system_prompt_with_special_tokens or t.system_prompt or ""
        return f"{head}{shots}{t.user_start_tag}{self.hide(question, where)}{t.user_end_tag}{t.asst_start_tag}"

    def parts(self, question: str, answer: str, where: str, turns: Turns = ()) -> TextParts:
        """Return the parts by the template: blanks at the end of the prompt belong to the answer."""
        answer = self.hide(answer, where)
        if self.chat is None:
            text = self.prompt(question, where, turns)
            after, tail = self.tag_end or "", ""
        else:
            with row_named(where):
                turn = self.chat.turn(self.messages(self.hide(question, where), where, turns), answer)
            text, answer, after, tail = turn.prompt, turn.answer, turn.end, turn.tail
        bare, blank = without_blanks(text)
        end = () if after else (self._eos,)
        return TextParts(bare, blank, blank + answer + after, end, bos=self.chat is None, tail=tail)

    def messages(self, question: str, where: str = "row", earlier: Turns = ()) -> list[dict[str, str]]:
        """Return the conversation before an answer. compat=openunlearning: an empty system prompt is none."""
        system = self.template.system_prompt
        has_system = bool(system) if self.template.compat == "openunlearning" else system is not None
        turns: list[tuple[str, str]] = [("system", str(system))] if has_system else []
        for q, a in self.template.few_shot:
            turns += [("user", self.hide(q, "few_shot")), ("assistant", self.hide(a, "few_shot"))]
        for q, a in earlier:
            turns += [("user", self.hide(q, where)), ("assistant", self.hide(a, where))]
        turns.append(("user", question))
        return [{"role": role, "content": content} for role, content in turns]

    def hide(self, text: str, where: str) -> str:
        """Hide the text of special tokens in a row from the template, and count the row."""
        with row_named(where):
            out = self._tokens.hide(text)
        if out != text:
            self.special_text.add(where)
        return out

    def _shown(self, rows: ExampleSet, question: str, where: str) -> str:
        return self.hide("".join(f"{q} {a}\n\n" for q, a in rows.shots) + question, where)

    def _plain_parts(self, rows: ExampleSet, question: str, answer: str, where: str) -> TextParts:
        """Return the parts without a template: the blank before the answer belongs to the answer's first word."""
        bare, own = without_blanks(self._shown(rows, question, where))
        answer = self.hide(answer, where)
        blank = own or ("" if not bare or bare[-1].isspace() else " ")
        rest = (own or ("" if answer[:1].isspace() else blank)) + answer
        return TextParts(bare, blank, rest, (self._eos,) if rows.form == "completion" else ())

    def _trace_parts(self, row: Example, variant: str, where: str) -> TextParts:
        """Return the parts of a row with a trace: the prompt of an answer contains the trace."""
        before, between, after, tail = self.row_frame(row, where)
        trace = self.hide((row.trace or "").strip(), where)
        spans = variant in (TRACE, TRACE_ANSWER)
        answer = self.hide((row.answer if spans else row.answers[variant]).strip(), where)
        if self.chat is not None:
            with row_named(where):
                messages = self.messages(self.hide(row.question, where), where, row.turns)
                self.chat.check_trace(messages, trace, answer)
        end = () if after else (self._eos,)
        bos = self.chat is None
        if not spans:
            bare, blank = without_blanks(before + trace + between)
            return TextParts(bare, blank, blank + answer + after, end, bos=bos, tail=tail)
        bare, blank = without_blanks(before)
        if variant == TRACE:
            return TextParts(bare, blank, blank + trace, (), bos=bos, tail=between)
        return TextParts(bare, blank, blank + trace + between + answer + after, end, bos=bos, tail=tail)


def without_blanks(text: str) -> tuple[str, str]:
    """Return a text without its last blanks, and the blanks."""
    bare = text.rstrip(" ")
    return bare, text[len(bare) :]


@contextlib.contextmanager
def row_named(where: str) -> Iterator[None]:
    """Add the row's name to a DataError that is raised within the block."""
    try:
        yield
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(f"{where}: ") else f"{where}: {text}") from None
