"""Read conversations: lists of turns with roles, and earlier turns of a question."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.errors import DataError
from expunge.data.cells.written import WrittenError, written_turns, written_value
from expunge.data.record_shapes import is_turn

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
