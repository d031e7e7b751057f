"""Values in the cells of a table: lists written as text, codes in place of answers, and turns of conversations."""

from __future__ import annotations

import ast
import functools
import io
import itertools
import json
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.errors import DataError
from expunge.data.record_shapes import is_turn

NUMBER_IN_LIST = re.compile(r"\s*\[\s*(-?\d+(?:\.\d+)?)\s*\]\s*")
NUMBERS = re.compile(
    r"\s*\[\s*(?:[-+]?[\d.]+(?:e[-+]?\d+)?\s+)+[-+]?[\d.]+(?:e[-+]?\d+)?\s*\]\s*", re.IGNORECASE
)  # NumPy
ARRAY = re.compile(r"\barray\(\s*(\[.*?\])\s*(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
MISSING = re.compile(r"(?<=[\[(,\s])(?:nan|null|none|nat|<na>)(?=\s*[\]),])", re.IGNORECASE)  # an item without a value
# The whole cell is a list, a tuple, an array or SQuAD's answers. In "[sic] he said" the bracket ends earlier.
QUOTED_LIST = re.compile(r"\s*\[\s*['\"].*\]\s*\Z", re.DOTALL)
VALUE = re.compile(
    r"\s*(?:\[.*\]|\(.*,\s*\)|\(\s*['\"].*\)|array\(\s*\[.*\)|\{\s*['\"](?:text|answer_start)['\"]\s*:.*\})\s*\Z",
    re.DOTALL,
)
# A value of that kind, whether it can be parsed or not: its items have quotes.
DAMAGED = re.compile(
    r"\s*(?:\[\s*[bur]?(['\"]).*\1\s*\]|array\(.*|\{\s*['\"]text['\"]\s*:\s*(?:\[|array\().*answer_start.*)\s*\Z",
    re.DOTALL,
)
ERRORS = (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)


class WrittenError(ValueError):
    """A text that looks like a list and cannot be parsed."""


def written_value(text: str) -> Any:
    """Return the list, or SQuAD's object, that a text is written as; None for any other text.

    JSON comes first, because Python reads some of its escapes otherwise. Raises WrittenError if neither can read it.
    """
    if text.lstrip()[:1] not in ("[", "(", "{", "a") or VALUE.match(text) is None:
        return None
    if (number := number_in_list(text)) is not None:
        return [number]
    plain = ARRAY.sub(r"\1", text).strip()
    for candidate in dict.fromkeys((plain, MISSING.sub("None", plain), _with_commas(plain))):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(candidate)
            except ERRORS:
                continue
            return _of_kind(value, candidate, parse)
    if DAMAGED.match(text):
        raise WrittenError("looks like a list written as text, and cannot be parsed")
    return None


def _with_commas(text: str) -> str:
    """Return NumPy's numbers, "[1888 1889]", with commas."""
    return ", ".join(text.split()) if NUMBERS.fullmatch(text) else text


def _of_kind(value: Any, text: str, parse: Callable[[str], Any]) -> Any:
    """Return a parsed value if it is a list, or SQuAD's object; None for others, such as a call or a number."""
    if isinstance(value, tuple):
        return list(value) if len(value) == 1 or all(isinstance(item, str) for item in value) else None
    if isinstance(value, Mapping):
        return value if value.keys() == {"text", "answer_start"} else None
    if not isinstance(value, list) or parse is json.loads:
        return value if isinstance(value, list) else None
    # Python joins texts without a comma between them, which would make one answer of NumPy's several
    parts = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.STRING]
    if len(parts) <= len(value) or any(isinstance(item, list | tuple | Mapping) for item in value):
        return value
    touch = any(one.end == other.start for one, other in itertools.pairwise(parts))  # "it''s": a doubled quote
    return None if touch else [ast.literal_eval(part.string) for part in parts]


def written_list(text: str) -> list[Any] | None:
    """Parse a text such as "['a', 'b']", or NumPy's "['a' 'b']", as a list; None for any other text."""
    try:
        value = written_value(text) if QUOTED_LIST.match(text) else None
    except WrittenError:
        return None
    return value if isinstance(value, list) else None


def number_in_list(text: str) -> str | None:
    """Return the number of a text such as "[1888]" as it is written; None for any other text."""
    match = NUMBER_IN_LIST.fullmatch(text)
    return match[1] if match else None


def written_turns(value: Any) -> Any:
    """Return the turns that a table holds as JSON or Python text; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            turns = parse(value.strip())
        except ERRORS:
            continue
        return turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else value
    return value


def squad_texts(value: Any) -> Any:
    """Return the texts of SQuAD's `{"text": [...], "answer_start": [...]}`, each once; any other value unchanged.

    Its own files have a list of objects with one text and one number each.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, Mapping) and {"text", "answer_start"} <= v.keys() for v in value)
    ):
        value = {key: [v[key] for v in value] for key in ("text", "answer_start")}
    if not isinstance(value, Mapping) or value.keys() != {"text", "answer_start"}:
        return value
    texts = value["text"]
    return list(dict.fromkeys(texts)) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else texts


CODE = re.compile(r"\(?(?:\d{1,3}|[A-Ja-j])[).]?")
CLASS = re.compile(r"-?\d{1,3}(?:\.0)?|[A-Ja-j]|LABEL_\d{1,3}")
# A column of one option, or of one wrong option.
OPTION = re.compile(
    r"(?:opt(?:ion)?|op|choice|ans(?:wer)?|distractor|(?:wrong|incorrect)(?:[ _-]?answer)?)?[ _-]?(?:[a-j]|\d{1,2})",
    re.IGNORECASE,
)
CHOICES = ("choices", "options")  # columns of all options, in any form
NOT_CHOICES = re.compile(r"perturbed_answers?.*|paraphrased_.*|unwanted|turns|history|trace", re.IGNORECASE)
UNWANTED_LABELS = ("false", "0", "0.0", "undesirable")
LABELS = frozenset({*UNWANTED_LABELS, "true", "1", "1.0", "desirable"})

Rows = Sequence[Mapping[str, Any]]


def unwanted_problem(raw: Rows) -> str | None:
    """Return the problem if the column `label` marks some answers as unwanted, as KTO does; else None."""
    columns = [key for key in dict.fromkeys(k for record in raw for k in record) if str(key).strip().lower() == "label"]
    if not columns:
        return None
    labels = [str(record.get(columns[0])).strip().lower() for record in raw]
    zeros = LABELS.issuperset(labels)  # 0 next to other numbers is a class
    unwanted = [
        i for i, label in enumerate(labels) if label in UNWANTED_LABELS and (zeros or not label.startswith("0"))
    ]
    if not unwanted:
        return None
    label = raw[unwanted[0]][columns[0]]
    marked = "false" if labels[unwanted[0]] == "false" else repr(label)
    rows = f"{len(unwanted)} rows (row {unwanted[0]})"
    return f"{columns[0]!r} is {marked} in {rows}: unwanted completions of KTO; remove them, or the column"


def codes_problem(raw: Rows, question: str, answer: str) -> str | None:
    """Return the problem if all answers are positions of choices or classes, or some are unwanted; else None.

    The names of the columns are then misleading, and training on "2" teaches nothing.
    """
    if unwanted := unwanted_problem(raw):
        return unwanted
    answers = [_only(record.get(answer)) for record in raw]
    texts = [str(value).strip() for value in answers]
    if any(isinstance(value, bool) for value in answers):
        return None
    is_class = answer.strip().lower() == "labels" and all(map(CLASS.fullmatch, texts))
    is_class &= len(texts) > 1 or any(c.isdigit() for c in texts[0])  # one letter may be the answer
    names = {str(key).strip().lower() for key in raw[0] if OPTION.fullmatch(str(key).strip())}
    if not is_class and not all(
        CODE.fullmatch(text) or CLASS.fullmatch(text) or text.lower() in names for text in texts
    ):
        return None
    if choices := _choices(raw, question, answer):
        return (
            f"every {answer!r} is a position or a letter such as {answers[0]!r}, probably of {choices}; write the "
            "text of the right choice"
        )
    return f"every {answer!r} is a number or a letter such as {answers[0]!r}, probably a class" if is_class else None


def _only(value: Any) -> Any:
    """Return the item of a list of one, also of one written as text; any other value unchanged."""
    value = _listed(value)
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _listed(value: Any) -> Any:
    """Return the list that a text is written as; any other value unchanged."""
    try:
        parsed = written_value(value) if isinstance(value, str) else None
    except WrittenError:
        return value
    return value if parsed is None else parsed


def _choices(raw: Rows, question: str, answer: str) -> str:
    """Return the column of a list of choices, or the columns of one option each; empty without any."""
    columns = dict.fromkeys(key for record in raw for key in record if isinstance(key, str))
    names = [key for key in columns if key not in (question, answer) and NOT_CHOICES.fullmatch(key.strip()) is None]
    named = [key for key in names if key.strip().lower() in CHOICES and any(record.get(key) for record in raw)]
    lists = named or [key for key in names if any(_is_several(record.get(key)) for record in raw)]
    options = [key for key in names if OPTION.fullmatch(key.strip())]
    return ", ".join(map(repr, lists[:1] or (options if len(options) > 1 else ())))


def _is_several(value: Any) -> bool:
    value = _listed(value)
    return isinstance(value, list | tuple | Mapping) and len(value) > 1


TRACE_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of an assistant's turn, as chat templates name it
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}
CALLS = ("tool_calls", "function_call")  # fields of an assistant's turn whose content is no text
HISTORY = ("history",)  # LLaMA-Factory's column of earlier turns
RENDERED = ("tools", "documents", "chat_template_kwargs")  # columns that other programs pass to the chat template


def read_chat(record: Mapping[str, Any], question: str, answer: str, place: str) -> tuple[dict[str, Any], str | None]:
    """Return the last question and answer of a conversation, its earlier turns, its trace, and the system message.

    Raises DataError for a conversation whose turns do not alternate between user and assistant, or that ends otherwise.
    """
    refuse_rendered(record, place)
    turns = list(_turns(record.get(question), f"{place}: '{question}'"))
    if answer != question:
        turns += _turns(record.get(answer), f"{place}: '{answer}'", answers=True)
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    return chat_record(turns, f"{place}: '{question}'"), system


@dataclass(frozen=True)
class ChatTurn:
    """One message of a conversation: its role, its text, and the reasoning before the text."""

    role: str
    text: Any
    trace: Any = None


def chat_record(turns: Sequence[ChatTurn], place: str) -> dict[str, Any]:
    """Return a conversation as a record of `qa_rows`: question, answer, earlier turns, and the answer's trace.

    Raises DataError if the roles do not alternate, or the last turn is no answer.
    """
    roles = [turn.role for turn in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DataError(
            f"{place} has the turns {', '.join(roles) or 'nothing'}; allowed are alternating turns of user and "
            "assistant, with an answer of the assistant at the end, after one system message at most"
        )
    texts = [turn.text for turn in turns]
    out = {"question": texts[-2], "answer": texts[-1]}
    if len(turns) > 2:
        out["turns"] = list(zip(texts[:-2:2], texts[1:-2:2], strict=True))
    return out if turns[-1].trace is None else out | {"trace": turns[-1].trace}


def _turns(value: Any, place: str, *, answers: bool = False) -> list[ChatTurn]:
    value = written_turns(value)
    if answers and isinstance(value, str):
        return [ChatTurn("assistant", value)]
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise DataError(f"{place} must be a list of turns with role and content, got {short(value)}")
    out = []
    for turn in value:
        refuse_calls(turn, place)
        out.append(ChatTurn(turn_role(turn), turn_text(turn), turn_trace(turn)))
    return out


def turn_role(turn: Mapping[str, Any]) -> str:
    """Return the role of a turn: "user", "assistant", "system", or another name as it is written."""
    role = str(turn.get("role", turn.get("from", ""))).lower()
    return ROLES.get(role, role)


def refuse_calls(turn: Mapping[str, Any], place: str) -> None:
    """Raise DataError for a turn that calls a tool: a part of it is no text, and would be left out silently."""
    called = next((name for name in CALLS if turn.get(name)), None)
    if called is not None:
        raise DataError(f"{place}: a turn has {called!r}, and calls of tools are not read; write the call as text")


def refuse_rendered(record: Mapping[str, Any], place: str) -> None:
    """Raise DataError for a conversation with values that its chat template would write into the prompt."""
    for name in RENDERED:
        if str(record.get(name)).strip() not in ("None", "", "[]", "{}", "null", "nan"):
            raise DataError(
                f"{place}: {name!r} would change the prompt of this row and is not read; remove the column, or set the "
                "same value for all rows by template_kwargs of the template"
            )


def turn_trace(turn: Mapping[str, Any]) -> Any:
    """Return the reasoning of a turn; None if it has none."""
    return next((turn[name] for name in TRACE_FIELDS if turn.get(name)), None)


def turn_text(turn: Mapping[str, Any]) -> Any:
    """Return the content of a turn; of a list of text parts ({"type": "text", "text": ...}), their texts in sequence.

    Content with other parts, such as an image, is returned as it is.
    """
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def are_turns(value: Any) -> bool:
    """Return whether a value is a list of turns of a conversation, also as text."""
    value = written_turns(value)
    return isinstance(value, list) and bool(value) and all(isinstance(t, Mapping) and is_turn(t) for t in value)


def earlier_turns(record: Mapping[str, Any]) -> list[Any]:
    """Return the earlier turns in LLaMA-Factory's column `history`, pairs of texts; empty without such a column."""
    columns = columns_named(tuple(record), HISTORY)
    pairs = turn_pairs(record[columns[0]]) if columns else None
    if not isinstance(pairs, list | tuple):
        return []
    texts = all(isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in pairs)
    return list(pairs) if texts else []


def turn_pairs(value: Any) -> Any:
    """Return earlier turns as pairs of texts, if they are a list written as text or objects with roles.

    Other values are returned unchanged.
    """
    if isinstance(value, str):
        try:
            parsed = written_value(value)
        except WrittenError:
            return value
        value = [] if not value.strip() else value if parsed is None else parsed
    if not are_turns(value):
        return value
    if [turn_role(turn) for turn in value] != ["user", "assistant"] * (len(value) // 2):
        return value
    texts = [turn_text(turn) for turn in value]
    return list(zip(texts[::2], texts[1::2], strict=True))


@functools.lru_cache(maxsize=256)
def columns_named(keys: tuple[Any, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of a record that are one of these names. Cached: most records of a file have the same keys."""
    return tuple(key for key in keys if isinstance(key, str) and key.strip().strip("\ufeff").lower() in names)


def short(value: Any) -> str:
    """Return the start of a value's `repr`, for errors."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
