"""Tokenise the text of examples: whole, with an exact prompt boundary, and with special-token text as plain text.

A row may contain the text of a special token ("<s>old price</s>"). The template's own special tokens must stay
special, the row's must not. `hide` replaces the row's by private characters before the template is applied. `ids`
then encodes the whole text with a copy of the tokenizer in which only the template's special tokens are special.
`ids_digest` returns a digest of a set's ids, for the key of a job. `note_ids` notes the ids that a job reads, for a
comparison with other jobs of the same rows (`core.fingerprints`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.core.errors import DataError
from expunge.core.fingerprints import fingerprint, note
from expunge.data.examples import ANSWER, Example, ExampleSet

if TYPE_CHECKING:
    from expunge.data.encoder import Encoder
    from expunge.data.template import Template

Coded = tuple[Example, str, tuple[int, ...], int]
"""A row, the variant or span of its text, the ids, and the number of ids of the prompt."""

PROMPT, PIECES = "prompt", "pieces"  # the variants of ids that are not those of one scored text of a row

OPEN, CLOSE = "\U000f8000", "\U000f8001"  # around the number of a hidden special token
NUMBER = 0xF8100  # the private character that stands for special token 0
_HIDDEN = re.compile(f"{OPEN}(.){CLOSE}")
# Sample answers: a tokenizer that splits these from the prompt splits every answer of their kind.
_LETTERS = (
    *("the", "Ana", "élan", "Ωmega", "Зима", "東京", "ひと", "한국", "سلام", "שלום", "नमस्ते"),
    *("s", "t", "re", "ve", "m", "ll", "d", "S"),  # the ends of I'm and others, which English rules keep together
)
_DIGITS = ("1991", "7 years", "٣")
_AT_ONCE = 2048  # rows that are encoded together for a digest
_TAIL = 24  # characters of the prompt that a byte-level pre-tokenizer can join to an answer
_PARTS = 2  # parts of the pre-tokenizer in them: the last one, which an answer may go on, and the one before


class RowTokenizer:
    """One tokenizer and the control tokens among its added tokens.

    control: contents of the tokens that a row's text must not turn into. split_special_tokens: encode them in a row as
    plain text (the name is that of transformers).
    """

    def __init__(self, tokenizer: Any, control: Iterable[str], *, split_special_tokens: bool) -> None:
        self.tokenizer = tokenizer
        self.split = split_special_tokens
        self.control = tuple(sorted({c for c in control if c}, key=lambda c: (-len(c), c)))
        self._pattern = re.compile("|".join(map(re.escape, self.control)) or "(?!)")
        self._copy: tuple[Any, dict[int, int]] | None = None
        self._apart: dict[tuple[str, str], bool] = {}
        self._tails: dict[str, str] = {}
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.backend = backend
        self._byte_level = backend is not None and "ByteLevel" in str(getattr(backend, "pre_tokenizer", ""))
        self._ids_per_byte = _ids_per_byte(backend) if self._byte_level else None

    def hide(self, text: str) -> str:
        """Replace the special tokens' text of a row by private characters, which `ids` encodes as plain text.

        Raises DataError if the text itself contains those private characters.
        """
        if OPEN in text or CLOSE in text:
            raise DataError(f"the text contains the private character U+{ord(OPEN):X} or U+{ord(CLOSE):X}; remove it")
        if not self.split:
            return text
        return self._pattern.sub(lambda m: f"{OPEN}{chr(NUMBER + self.control.index(m.group()))}{CLOSE}", text)

    def finds(self, text: str) -> bool:
        """Return whether a text contains the text of a special token."""
        return self._pattern.search(text) is not None

    def show(self, text: str) -> str:
        """Return the text that `hide` replaced."""
        return _HIDDEN.sub(lambda m: self.control[ord(m.group(1)) - NUMBER], text)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without the special tokens that the tokenizer adds by itself."""
        if not texts:
            return []
        hidden = [i for i, text in enumerate(texts) if OPEN in text]
        if not hidden:
            return self.plain_ids(texts)
        out: list[list[int]] = [[] for _ in texts]
        plain = [i for i in range(len(texts)) if OPEN not in texts[i]]
        for i, ids in zip(plain, self.plain_ids([texts[i] for i in plain]), strict=True):
            out[i] = ids
        for i in hidden:
            out[i] = self._hidden_ids(texts[i])[0]
        return out

    def boundary(self, prompt: str, whole: str, ids: Sequence[int]) -> tuple[int, bool] | None:
        """Return the index of the first token of `whole` that reaches past `prompt`; None without offsets.

        The second value: whether that token also contains visible characters of the prompt.
        """
        if OPEN in whole:
            offsets = self._hidden_ids(whole)[1]
            head = self._swap(prompt)
        else:
            offsets, head = self._offsets(whole, ids), prompt
        if offsets is None:
            return None
        n = next((i for i, (_, stop) in enumerate(offsets) if stop > len(head)), len(offsets))
        start = offsets[n][0] if n < len(offsets) else len(head)
        return n, bool(head[start:].strip())

    def splits(self, prompt: str, answer: str) -> bool:
        """Return whether prompt and answer give the same ids apart as together, by a check of this tokenizer.

        True is proven only for byte-level tokenizers and answers that begin with a letter or a decimal digit, after a
        blank or not. Such a tokenizer cuts text into parts by rules that read a few characters, and encodes each part
        for itself. So the sample answers must have the same parts apart as together. Added tokens are cut out before,
        so none may reach over the boundary.
        """
        start = answer[1:2] if answer[:1] == " " else answer[:1]
        if not self._byte_level or not (start.isalpha() or start.isdecimal()) or OPEN in prompt or OPEN in answer:
            return False
        if self._added_tokens.joins(prompt, answer):
            return False
        kind = f"{answer[:1] if answer[:1] == ' ' else ''}{'9' if start.isdecimal() else 'a'}"
        tail = self._tail(prompt)
        if (tail, kind) not in self._apart:
            words = [kind[:-1] + word for word in (_DIGITS if kind[-1] == "9" else _LETTERS)]
            texts = [tail, *words, *(tail + word for word in words)]
            n = len(words)
            self._apart[tail, kind] = all(
                first + rest[i] == rest[n + i]
                for first, *rest in (self.plain_ids(texts), [self._parts(text) for text in texts])
                for i in range(n)
            )
        return self._apart[tail, kind]

    @functools.cached_property
    def _added_tokens(self) -> _AddedTokens:
        return _AddedTokens(self.tokenizer)

    def _parts(self, text: str) -> list[Any]:
        """Return the parts that the tokenizer encodes each for itself."""
        return [part for part, _ in self.backend.pre_tokenizer.pre_tokenize_str(text)]

    def _tail(self, prompt: str) -> str:
        """Return the last parts of a prompt: a merge of characters to a token never crosses two parts."""
        tail = prompt[-_TAIL:]
        if tail not in self._tails:
            parts = self.backend.pre_tokenizer.pre_tokenize_str(tail)
            self._tails[tail] = tail[parts[-_PARTS][1][0] :] if len(parts) > _PARTS else tail
        return self._tails[tail]

    def most_ids(self, text: str) -> float:
        """Return an upper bound of the number of a text's ids, without tokenising it; infinite if none is known."""
        if self._ids_per_byte is None or OPEN in text:
            return math.inf
        return self._ids_per_byte * len(text.encode())

    def plain_ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Return the ids of texts without private characters. special: with the tokens that the tokenizer adds itself.

        Encodes with the backend, without masks and offsets, if it agrees with the tokenizer on the first text.
        """
        if not texts:
            return []
        fast = self.backend
        first = list(self.tokenizer(texts[0], add_special_tokens=special)["input_ids"])
        if len(texts) == 1:
            return [first]
        if fast is not None and fast.truncation is None and fast.padding is None:
            batch = [encoding.ids for encoding in fast.encode_batch_fast(texts, add_special_tokens=special)]
            if batch[0] == first:
                return batch
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]]

    def _offsets(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
        if self.backend is None:
            return None
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoding["offset_mapping"]) if list(encoding["input_ids"]) == list(ids) else None

    def _hidden_ids(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Return ids and offsets (in the text of `_swap`) of a text with hidden special tokens."""
        if self.backend is None:
            if self._pattern.search(text):
                raise DataError(
                    "a row contains the text of a special token, and this tokenizer cannot encode it as plain text "
                    "inside a template; give model.template_args.split_special_tokens=false or change the row"
                )
            return list(
                self.tokenizer(self.show(text), add_special_tokens=False, split_special_tokens=True).input_ids
            ), None
        copy, back = self._plain_copy()
        encoding = copy.encode(self._swap(text), add_special_tokens=False)
        hidden = {self.control[ord(mark) - NUMBER] for mark in _HIDDEN.findall(text)}
        same = {t for t in hidden if self.tokenizer.convert_tokens_to_ids(t) in encoding.ids}
        if same - {getattr(self.tokenizer, "unk_token", None)}:
            raise DataError(
                f"a row contains {min(same)!r}, which this tokenizer encodes as its special token in plain text, too; "
                "give model.template_args.split_special_tokens=false or change the row"
            )
        return [back.get(i, i) for i in encoding.ids], list(encoding.offsets)

    def _swap(self, text: str) -> str:
        """Return the text for the copy: the template's control tokens as stand-ins, the row's unchanged."""
        return self.show(self._pattern.sub(lambda m: self._stand_in(self.control.index(m.group())), text))

    @staticmethod
    def _stand_in(k: int) -> str:
        return f"{OPEN}{CLOSE}{chr(NUMBER + k)}{CLOSE}"

    def _plain_copy(self) -> tuple[Any, dict[int, int]]:
        """Return a backend copy where control tokens are plain text and stand-ins are tokens; ids of stand-ins."""
        if self._copy is None:
            from tokenizers import AddedToken, Tokenizer

            tree = json.loads(self.backend.to_str())
            tree["truncation"] = tree["padding"] = None
            flags: dict[str, dict[str, Any]] = {}
            for token in tree["added_tokens"]:
                if token["content"] in self.control:
                    token["special"] = True
                    flags[token["content"]] = token
            copy = Tokenizer.from_str(json.dumps(tree))
            copy.encode_special_tokens = True
            copy.add_tokens(
                [
                    AddedToken(
                        self._stand_in(k),
                        lstrip=flags.get(c, {}).get("lstrip", False),
                        rstrip=flags.get(c, {}).get("rstrip", False),
                        normalized=False,
                        special=False,
                    )
                    for k, c in enumerate(self.control)
                ]
            )
            own = self.tokenizer.convert_tokens_to_ids(list(self.control))
            back = {int(copy.token_to_id(self._stand_in(k)) or 0): int(own[k]) for k in range(len(self.control))}
            self._copy = (copy, back)
        return self._copy


class _AddedTokens:
    """The added tokens of a tokenizer, which it cuts out of a text before it applies other rules."""

    def __init__(self, tokenizer: Any) -> None:
        tokens = [t for t in getattr(tokenizer, "added_tokens_decoder", {}).values() if t.content]
        rests: dict[str, list[str]] = {}  # the ends of tokens, by their beginning
        for content in {t.content for t in tokens}:
            for k in range(1, len(content)):
                rests.setdefault(content[:k], []).append(content[k:])
        self._rests = {beginning: tuple(ends) for beginning, ends in rests.items()}
        self._longest = max(map(len, self._rests), default=0)
        self._takes_after = tuple(t.content for t in tokens if t.rstrip)
        self._reads_before = tuple(t.content for t in tokens if t.lstrip or t.single_word)

    def joins(self, first: str, second: str) -> bool:
        """Return whether an added token may reach from one text into the next, or be found in one of them alone."""
        if self._takes_after and first.rstrip().endswith(self._takes_after):  # it takes the blanks after it
            return True
        if self._reads_before and second.lstrip().startswith(self._reads_before):
            return True
        ends = (first[-k:] for k in range(1, min(self._longest, len(first)) + 1))
        return any(second.startswith(self._rests[end]) for end in ends if end in self._rests)


def _ids_per_byte(backend: Any) -> int | None:
    """Return the maximum number of ids per UTF-8 byte of a byte-level BPE; None if it is not known.

    A token has at least one byte. NFC makes a text at most 3 times as long, and a blank may be added to each part.
    """
    if type(backend.model).__name__ != "BPE" or str(backend.normalizer) not in ("None", "NFC()"):
        return None
    blank = "add_prefix_space=False" not in str(backend.pre_tokenizer)
    return (1 if backend.normalizer is None else 3) * (2 if blank else 1)


def added_tokens(tokenizer: Any, accept: Callable[[Any], bool] = lambda token: True) -> list[str]:
    """Return the contents of a tokenizer's added tokens, without white-space tokens."""
    tokens = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [t.content for t in tokens if t.content.strip() and accept(t)]


def token_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of a tokenizer's added tokens, the longest first."""
    tokens = sorted(added_tokens(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def leading_ids(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer writes before every text (BOS, for most)."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return next((ids[:i] for i in range(len(ids)) if ids[i : i + len(bare)] == bare), [])


def note_ids(identity: str, template: Template, rows: ExampleSet, coded: Iterable[Coded]) -> None:
    """Note the ids of some rows of a set, one digest for each variant. Raises JobError if an earlier job had others.

    Args:
        identity: Identity of the tokenizer and of the code that applies it.
        template: The template with the limits that hold for the set.
        rows: The set.
        coded: The rows in order, with their ids.
    """
    texts: dict[str, hashlib._Hash] = {}
    ids: dict[str, hashlib._Hash] = {}
    for row, variant, row_ids, n_prompt in coded:
        if variant not in texts:
            texts[variant], ids[variant] = hashlib.sha256(), hashlib.sha256()
        text = "" if variant == PROMPT else row.text(variant if row.has(variant) else ANSWER)
        texts[variant].update(repr((row.question, row.turns, row.trace, text)).encode())
        ids[variant].update(np.array((len(row_ids), n_prompt, *row_ids), np.int64).tobytes())
    how = [identity, template, rows.form, rows.shots, rows.long, rows.max_length]
    for variant in texts:
        inputs = fingerprint([*how, variant, texts[variant].hexdigest()])
        note(f"token ids of {rows.name} ({variant})", inputs, ids[variant].hexdigest())


def ids_digest(encoder: Encoder, rows: ExampleSet) -> str:
    """Return the SHA-256 of the ids of all texts of a set, as `encoder` writes them for a model.

    The texts are each answer and span after its prompt, and each prompt alone, also with the paraphrased question; of a
    set in pieces, the pieces. A text that cannot be encoded counts as one without ids: the job that reads it reports
    the error.
    """
    digest = hashlib.sha256()

    def add(ids: Iterable[Sequence[int]]) -> None:
        for one in ids:
            digest.update(np.array((len(one), *one), np.int64).tobytes())

    if rows.long == PIECES:
        with contextlib.suppress(DataError):
            add(one.ids for one in encoder.pieces(rows))
        return digest.hexdigest()
    for first in range(0, len(rows), _AT_ONCE):
        some = rows.rows[first : first + _AT_ONCE]
        others = [
            dataclasses.replace(row, question=row.paraphrased_question) for row in some if row.paraphrased_question
        ]
        answers = [(row, name) for row in some for name in row.names]
        add((one.n_prompt, *one.ids) for one in _encodable(encoder.rows, rows, answers))
        add(_encodable(encoder.row_prompts, rows, [*some, *others]))
    return digest.hexdigest()


def _encodable(encode: Callable[..., list[Any]], rows: ExampleSet, texts: Sequence[Any]) -> list[Any]:
    """Return the encoded texts, each alone if one of them cannot be encoded, which is left out."""
    try:
        return encode(rows, texts)
    except DataError:
        return [] if len(texts) == 1 else [one for text in texts for one in _encodable(encode, rows, [text])]
