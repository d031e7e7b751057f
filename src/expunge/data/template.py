"""From a question and an answer to token ids, with a boundary that is clean.

Prompt and answer are tokenised apart and joined, so no token spans both, every answer token is scored, and generation
starts from exactly the prompt ids of training. `compat=openunlearning` tokenises the whole text and takes the first
len(tokens(prompt)) ids as the prompt, as that project does: with plain tags the first answer token then goes unscored.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example, ExampleSet


@strict
@dataclass(frozen=True, kw_only=True)
class Template:
    """How a question and its answer become text.

    apply_chat_template uses the tokenizer's own template (with `system_prompt` if given); otherwise the tags are
    joined around question and answer. Names are those of OpenUnlearning's `template_args`. max_length counts tokens;
    what is longer is cut on the right and reported.
    """

    apply_chat_template: bool = False
    chat_template: str | None = None
    system_prompt: str | None = None
    system_prompt_with_special_tokens: str | None = None
    user_start_tag: str = "Question: "
    user_end_tag: str = "\n"
    asst_start_tag: str = "Answer: "
    asst_end_tag: str = "\n\n"
    date_string: str | None = None
    few_shot: tuple[tuple[str, str], ...] = ()
    max_length: int = 512
    labels: Literal["answer", "all"] = "answer"
    compat: Literal["clean", "openunlearning"] = "clean"

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row; the first `n_prompt` are not scored. `truncated`: how many ids were cut off."""

    ids: tuple[int, ...]
    n_prompt: int
    truncated: int = 0

    @property
    def n_answer(self) -> int:
        """Scored tokens, the final EOS included."""
        return len(self.ids) - self.n_prompt


def row_lengths(rows: Sequence[Encoded]) -> NDArray[np.int64]:
    """Tokens of each row, shape (R,); of rows that know their `lengths` (token shards), without reading any."""
    known = getattr(rows, "lengths", None)
    return np.array([len(r.ids) for r in rows], np.int64) if known is None else known


def n_truncated(rows: Sequence[Encoded]) -> int:
    """How many rows were cut."""
    known = getattr(rows, "n_truncated", None)
    return sum(1 for r in rows if r.truncated) if known is None else int(known)


def _many(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, without special tokens.

    A fast tokenizer's own library is asked, which spares masks and offsets nobody reads, where it says the same of the
    first text as the tokenizer does.
    """
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    first = list(tokenizer(texts[0], add_special_tokens=False)["input_ids"])
    if fast is not None and fast.truncation is None and fast.padding is None:
        found = [encoding.ids for encoding in fast.encode_batch_fast(texts, add_special_tokens=False)]
        if found[0] == first:
            return found
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


class Encoder:
    """A template bound to a tokenizer. `prompt` and `encode` agree on the prompt's ids."""

    def __init__(self, template: Template, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("model.tokenizer_args: the tokenizer has no EOS token, so no answer could ever end")
        if template.apply_chat_template and not (template.chat_template or tokenizer.chat_template):
            raise ConfigError("model.template_args.apply_chat_template: this tokenizer has no chat template")
        self.template, self.tokenizer = template, tokenizer
        self.eos = int(tokenizer.eos_token_id)
        probe = tokenizer("a", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token_id
        self._bos = [int(bos)] if bos is not None and probe and probe[0] == bos else []
        self._last: tuple[str, list[int]] = ("", [])
        self._known: Mapping[str, list[int]] = {}
        self._others: dict[tuple[Any, int], Encoder] = {}

    def row(self, rows: ExampleSet, row: Example, variant: str) -> Encoded:
        """Ids of one answer of a row of a set, by the set's form and shots."""
        where = f"{rows.name} row {row.row_id}"
        own = self._for(rows)
        if rows.form != "qa":
            return own._plain(rows, row.question, row.answers[variant], where)
        return own.encode(row.question, row.answers[variant], where=where)

    def rows(self, rows: ExampleSet, wanted: Sequence[tuple[Example, str]]) -> list[Encoded]:
        """`row` of many answers, their texts tokenised in one call."""
        own = self._with_known(rows, wanted)
        return [own.row(rows, row, variant) for row, variant in wanted]

    def row_prompts(self, rows: ExampleSet, wanted: Sequence[Example]) -> list[list[int]]:
        """`row_prompt` of many rows, tokenised in one call."""
        own = self._with_known(rows, [(row, None) for row in wanted])
        return [own.row_prompt(rows, row) for row in wanted]

    def _texts(self, rows: ExampleSet, row: Example, variant: str | None) -> list[str]:
        """What is tokenised for a row's prompt and an answer, where no chat template joins them."""
        own = self._for(rows)
        if rows.form != "qa":
            if variant is None:
                return [self._shown(rows, row.question).rstrip(" ")]
            return list(self._split(rows, row.question, row.answers[variant]))
        text, lead = own._clean_prompt(row.question)
        return [text] if variant is None else [text, lead + row.answers[variant]]

    def _with_known(self, rows: ExampleSet, wanted: Sequence[tuple[Example, str | None]]) -> Encoder:
        """This encoder for a set, with the ids of what it will tokenise at hand, as far as that is known before."""
        own = copy.copy(self._for(rows))
        apart = rows.form != "qa" or (self.template.compat == "clean" and not self.template.apply_chat_template)
        if apart and wanted:
            texts = list(dict.fromkeys(text for row, v in wanted for text in self._texts(rows, row, v)))
            own._known = dict(zip(texts, _many(self.tokenizer, texts), strict=True))
        return own

    def pieces(self, rows: ExampleSet) -> list[Encoded]:
        """The texts of a set, joined by a blank line and cut into pieces of max_length tokens at most.

        Pieces differ by one token at most, so none is short. Each text is tokenised apart, with the blank line that
        follows it; no piece is ever decoded. A piece starts with BOS where the tokenizer has one, and is all scored
        but for its first token, before which there is nothing.
        """
        texts = [row.answer for row in rows]
        texts = [f"{text}\n\n" for text in texts[:-1]] + texts[-1:]
        ids = np.concatenate(_many(self.tokenizer, texts))
        size = self._for(rows).template.max_length - len(self._bos)
        cut = np.array_split(ids.astype(np.int64), max(1, math.ceil(len(ids) / size)))
        return [Encoded((*self._bos, *piece.tolist()), 1) for piece in cut]

    def row_prompt(self, rows: ExampleSet, row: Example) -> list[int]:
        """The ids generation starts from, for a row of a set."""
        if rows.form != "qa":
            return list(self._bos) + self._prompt_ids(self._shown(rows, row.question).rstrip(" "))
        return self._for(rows).prompt(row.question)

    def _for(self, rows: ExampleSet) -> Encoder:
        """This encoder with what a set says in place of the template."""
        shots, limit = rows.shots or self.template.few_shot, rows.max_length or self.template.max_length
        if (shots, limit) == (self.template.few_shot, self.template.max_length):
            return self
        if (shots, limit) not in self._others:
            other = copy.copy(self)
            other.template = dataclasses.replace(self.template, few_shot=shots, max_length=limit)
            self._others[shots, limit] = other
        return self._others[shots, limit]

    @staticmethod
    def _shown(rows: ExampleSet, question: str) -> str:
        return "".join(f"{q} {a}\n\n" for q, a in rows.shots) + question

    def _split(self, rows: ExampleSet, question: str, answer: str) -> tuple[str, str]:
        """Without template: the blank between prompt and answer belongs to the answer's first word."""
        text = self._shown(rows, question)
        bare = text.rstrip(" ")
        joined = not bare or bare[-1].isspace() or answer[:1].isspace()
        return bare, (text[len(bare) :] or ("" if joined else " ")) + answer

    def _plain(self, rows: ExampleSet, question: str, answer: str, where: str) -> Encoded:
        bare, said = self._split(rows, question, answer)
        prompt = list(self._bos) + self._prompt_ids(bare)
        tail = self._ids(said) + ([self.eos] if rows.form == "completion" else [])
        if rows.long == "left":
            over = max(0, len(prompt) + len(tail) - self.template.max_length)
            start = len(self._bos)
            if over <= len(prompt) - start:
                return Encoded((*self._bos, *prompt[start + over :], *tail), len(prompt) - over, over)
        return self._cut(prompt, tail, where)

    def prompt(self, question: str) -> list[int]:
        """The ids generation starts from."""
        if self.template.compat == "openunlearning":
            return self._peer_ids(self._prompt_text(question), cut=False)
        return self._start() + self._prompt_ids(self._clean_prompt(question)[0])

    def encode(self, question: str, answer: str, *, where: str = "row") -> Encoded:
        """Ids of the whole row. Raises DataError if truncation would leave no answer token."""
        if self.template.compat == "openunlearning":
            return self._encode_peer(question, answer)
        text, lead = self._clean_prompt(question)
        prompt = self._start() + self._prompt_ids(text)
        chat = self.template.apply_chat_template
        tail = self._chat_answer(question, answer) if chat else self._ids(lead + answer)
        if not tail or tail[-1] != self.eos:
            tail = [*tail, self.eos]
        return self._cut(prompt, tail, where)

    def _cut(self, prompt: list[int], tail: list[int], where: str) -> Encoded:
        ids = prompt + tail
        over = max(0, len(ids) - self.template.max_length)
        ids = ids[: self.template.max_length]
        if len(ids) <= len(prompt):
            raise DataError(
                f"{where}: the prompt alone has {len(prompt)} tokens, max_length is {self.template.max_length}: "
                "no answer token is left"
            )
        return Encoded(tuple(ids), 0 if self.template.labels == "all" else len(prompt), over)

    def _start(self) -> list[int]:
        return [] if self.template.apply_chat_template else list(self._bos)

    def _prompt_ids(self, text: str) -> list[int]:
        """Ids of a prompt; those of the last one are kept, since the answers of a row come one after another."""
        if self._last[0] != text:
            self._last = (text, self._ids(text))
        return self._last[1]

    def _ids(self, text: str) -> list[int]:
        known = self._known.get(text)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if known is None else known

    def _clean_prompt(self, question: str) -> tuple[str, str]:
        """The prompt's text without its trailing blanks, and those blanks, which belong to the answer's first word."""
        text = self._prompt_text(question)
        if self.template.apply_chat_template:
            return text, ""
        bare = text.rstrip(" ")
        return bare, text[len(bare) :]

    def _prompt_text(self, question: str) -> str:
        t = self.template
        if t.apply_chat_template:
            return self._chat(self._messages(question), add_generation_prompt=True)
        shots = "".join(
            f"{t.user_start_tag}{q}{t.user_end_tag}{t.asst_start_tag}{a}{t.asst_end_tag}" for q, a in t.few_shot
        )
        head = t.system_prompt_with_special_tokens or t.system_prompt or ""
        return f"{head}{shots}{t.user_start_tag}{question}{t.user_end_tag}{t.asst_start_tag}"

    def _messages(self, question: str, answer: str | None = None) -> list[dict[str, str]]:
        turns: list[tuple[str, str]] = [("system", self.template.system_prompt)] if self.template.system_prompt else []
        for q, a in self.template.few_shot:
            turns += [("user", q), ("assistant", a)]
        turns.append(("user", question))
        if answer is not None:
            turns.append(("assistant", answer))
        return [{"role": role, "content": content} for role, content in turns]

    def _chat(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        extra: dict[str, Any] = {"date_string": self.template.date_string} if self.template.date_string else {}
        if self.template.chat_template:
            extra["chat_template"] = self.template.chat_template
        text = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **extra
        )
        return str(text)

    def _chat_answer(self, question: str, answer: str) -> list[int]:
        """The assistant turn's ids up to its end-of-turn token; what a template adds after that is not an answer."""
        prompt = self._prompt_text(question)
        whole = self._chat(self._messages(question, answer))
        if not whole.startswith(
            prompt
        ):  # templates that rewrite earlier turns: keep their prompt, add the plain answer
            return self._ids(answer)
        tail = whole[len(prompt) :]
        special = set(self.tokenizer.all_special_ids)
        end = tail.find(answer.strip())
        if end < 0:  # a template that rewrites the answer: all it wrote, up to its last special token
            ids = self._ids(tail)
            return ids[: max((i + 1 for i, token in enumerate(ids) if token in special), default=len(ids))]
        body = tail[: end + len(answer.strip())]
        marks = self._ids(tail[len(body) :])
        first = next((i for i, token in enumerate(marks) if token in special), None)
        return self._ids(body) + (marks[: first + 1] if first is not None else [])

    def _peer_ids(self, text: str, *, cut: bool) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=not self.template.apply_chat_template)["input_ids"])
        return ids[: self.template.max_length] if cut else ids

    def _encode_peer(self, question: str, answer: str) -> Encoded:
        chat = self.template.apply_chat_template
        prompt = self._prompt_text(question)
        whole = self._chat(self._messages(question, answer)) if chat else prompt + answer
        ids = self._peer_ids(whole, cut=not chat)
        over = max(0, len(self._peer_ids(whole, cut=False)) - len(ids))
        if ids[-1] != self.eos:
            ids = [*ids, self.eos]
        n_prompt = 0 if self.template.labels == "all" else min(len(self._peer_ids(prompt, cut=not chat)), len(ids) - 1)
        return Encoded(tuple(ids), n_prompt, over)
