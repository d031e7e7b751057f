"""Shows how a task's examples become tokens: one example, what is scored, and what a user should know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from expunge.core.errors import DataError
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoded, Encoder
from expunge.pipelines.study.task_context import TaskContext

SHOWN = 24  # tokens of a prompt that are shown, its last ones


def template_lines(encoder: Encoder, rows: ExampleSet) -> list[str]:
    """Return lines that show the first example of a set as `prompt | answer | end`, its tokens visible.

    Raises DataError if the set is empty or the example leaves no answer token.
    """
    if not len(rows):
        raise DataError(f"{rows.name}: no rows")
    row = rows[0]
    variant = "answer" if "answer" in row.answers else next(iter(row.answers))
    encoded = encoder.row(rows, row, variant)
    prompt = encoder.row_prompt(rows, row)
    answer = list(encoded.ids[len(prompt) :]) if list(encoded.ids[: len(prompt)]) == prompt else _scored(encoded)
    end = [answer.pop()] if answer and answer[-1] in encoder.end_ids else []
    labels = "all tokens are scored" if encoder.template.labels == "all" else "answer and end are scored"
    way = "the chat template" if encoder.template.apply_chat_template and rows.form == "qa" else "plain text"
    return [
        f"example: {rows.name} row {row.row_id}, by {way}; {labels}",
        f"  prompt  {_tokens(encoder.tokenizer, prompt, last=SHOWN)}",
        f"  answer  {_tokens(encoder.tokenizer, answer)}",
        f"  end     {_tokens(encoder.tokenizer, end) if end else 'none'}",
        f"  generation stops at {_names(encoder)}",
    ]


def template_notes(encoder: Encoder, sets: Sequence[ExampleSet]) -> list[str]:
    """Return one line for each thing that a user should know: what the template does, and special text in examples."""
    notes = list(encoder.notes)
    for rows in sets:
        n = sum(1 for row in rows if any(encoder.tokens.finds(t) for t in (row.question, *row.answers.values())))
        if n:
            how = "plain text" if encoder.template.split_special_tokens else "special tokens"
            notes.append(
                f"{rows.name}: {n} of {len(rows)} rows contain the text of a special token; it is encoded as {how} "
                "(model.template_args.split_special_tokens)"
            )
    return notes


def example_of(setting: TaskContext) -> tuple[list[str], list[str]]:
    """Return the lines of one example of a task and its notes; empty while the tokenizer is not at hand."""
    encoder = setting.planned_encoder()
    benchmark = setting.benchmark
    if encoder is None:
        return [], []
    sets = [s for s in benchmark.sets.values() if isinstance(s, ExampleSet)]
    named = next((s for s in sets if s.name == benchmark.forget_set), None) or next(iter(sets), None)
    lines = template_lines(encoder, named) if named is not None and named.rows else []
    return lines, template_notes(encoder, sets)


def print_example(setting: TaskContext, write: Callable[[str], None]) -> None:
    """Write one example and the notes at the start of a run, one line at a time."""
    lines, notes = example_of(setting)
    for line in (*lines, *(f"note: {note}" for note in notes)):
        write(line)


def _scored(encoded: Encoded) -> list[int]:
    return list(encoded.ids[encoded.n_prompt :])


def _tokens(tokenizer: Any, ids: Sequence[int], *, last: int | None = None) -> str:
    """Tokens as text between bars, and how many there are."""
    shown = ids if last is None else ids[-last:]
    more = f"... {len(ids) - len(shown)} more, then " if len(shown) < len(ids) else ""
    texts = (repr(tokenizer.decode([i], skip_special_tokens=False))[1:-1] for i in shown)
    return f"{more}|{'|'.join(texts)}|  ({len(ids)} tokens)" if ids else "(no tokens)"


def _names(encoder: Encoder) -> str:
    tokens = encoder.tokenizer.convert_ids_to_tokens(sorted(encoder.end_ids))
    return " ".join(str(token) for token in tokens) + ", and at the ends that the model's generation_config lists"
