"""Words of texts in every script, for metrics that compare or count words.

Two tokenizers:

rouge_score  that of the package rouge_score, as in the publications: lower case, ASCII letters and digits alone. Words
             of more than three letters are stemmed (Porter). It drops all other letters.
unicode      words of all scripts. Scripts that put no blanks between words (Han, kana, Thai, Lao, Khmer, Myanmar,
             Tibetan) count by characters. Combining marks stay with their letter. Text is brought to NFC and case
             folded, digits of all scripts become 0 to 9, and invisible format characters are removed. No stemming.

`auto` takes rouge_score if it drops at most 1 % of the letters and digits of the references, else unicode. The choice
is made for a set of rows and does not depend on the model. TOFU stays with rouge_score (its largest share is 0.6 %).
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

import regex

from expunge.core.on_use import stand_ins

Tokenizer = Literal["auto", "rouge_score", "unicode"]
Chosen = Literal["rouge_score", "unicode"]
MOST_DROPPED = 0.01  # share of letters and digits that rouge_score may drop from a set's references

_BY_CHARACTER = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
_CHARACTER = rf"[[{_BY_CHARACTER}\u30fc]&&[\p{{L}}\p{{N}}]]\p{{M}}*"
_WORD = regex.compile(rf"(?V1){_CHARACTER}|[[\p{{L}}\p{{N}}\p{{M}}]--[{_BY_CHARACTER}\u30fc]]+")
UNSPACED = regex.compile(rf"(?V1){_CHARACTER}")
_FORMAT = regex.compile(r"\p{Cf}|\u0640")  # joiners, soft hyphens, direction marks; the Arabic lengthening stroke
_LETTER = regex.compile(r"[\p{L}\p{N}]")


def choose_tokenizer(tokenizer: Tokenizer, references: Iterable[str]) -> Chosen:
    """Return the tokenizer for a set of rows: the named one, or for `auto` the one that fits the references."""
    if tokenizer != "auto":
        return tokenizer
    letters = dropped = 0
    for text in references:
        if text.isascii():
            letters += sum(map(str.isalnum, text))
            continue
        matches = _LETTER.findall(text)
        letters += len(matches)
        dropped += sum(not c.isascii() for c in matches)
    return "unicode" if dropped > MOST_DROPPED * letters else "rouge_score"


def words(text: str, tokenizer: Chosen) -> list[str]:
    """Return the words of a text, in order."""
    return unicode_words(text) if tokenizer == "unicode" else rouge_score_words(text)


def unicode_words(text: str) -> list[str]:
    """Return the words of a text in any script, normalised so that equal words are equal strings."""
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    if not plain.isascii():
        plain = _FORMAT.sub("", plain).translate(_digits())
    parts: list[str] = _WORD.findall(plain)
    return [w for w in parts if not unicodedata.category(w[0]).startswith("M")]  # a mark without a letter is no word


def rouge_score_words(text: str) -> list[str]:
    """Return the words of a text, split and stemmed as the package rouge_score does."""
    from rouge_score import tokenize

    return list(tokenize.tokenize(text, _Stems()))


def blank_separated(text: str) -> list[str]:
    """Return the unchanged pieces of a text between blanks; characters in scripts without blanks.

    For counts of words and of repeated word sequences: "fox" and "fox." differ.
    """
    pieces = text.split()
    if text.isascii():
        return pieces
    out: list[str] = []
    for piece in pieces:
        if UNSPACED.search(piece) is None:
            out.append(piece)
            continue
        at = 0
        for match in UNSPACED.finditer(piece):
            out += [piece[at : match.start()]] if match.start() > at else []
            out.append(match[0])
            at = match.end()
        out += [piece[at:]] if at < len(piece) else []
    return out


def whole_words_pattern(text: str) -> str:
    """Return a regular expression (module `regex`) that matches unchanged words, with any blanks between them.

    A match does not begin or end inside a longer word, combining marks included. Scripts without blanks have no such
    edges, so there any place counts.
    """
    parts = [regex.escape(w, literal_spaces=True) for w in text.split()]
    inside = rf"[[\w\p{{M}}]--[{_BY_CHARACTER}\u30fc]]"
    before = rf"(?<!{inside})" if parts and UNSPACED.match(text.strip()[0]) is None else ""
    after = rf"(?!{inside})" if parts and UNSPACED.search(text.strip()[-1]) is None else ""
    return "(?V1)" + before + r"\s+".join(parts) + after


@functools.cache
def _digits() -> dict[int, str]:
    """Map each decimal digit outside ASCII to the ASCII digit of its value."""
    return {
        code: str(unicodedata.decimal(chr(code)))
        for code in range(0x80, 0x20000)
        if unicodedata.category(chr(code)) == "Nd"
    }


class _Stems:
    """Porter's stems with a cache: stemming takes most of the time of a ROUGE score."""

    def stem(self, word: str) -> str:
        return _stem(word)


@functools.lru_cache(maxsize=2**17)
def _stem(word: str) -> str:
    return str(_porter().stem(word))


@functools.cache
def _porter() -> Any:
    # A late import: nltk takes a quarter of a second. The packages that its other modules use take two more.
    with stand_ins("scipy", "sklearn"):
        from nltk.stem import porter

    return porter.PorterStemmer()
