"""Show how a task's examples become tokens: one example, its scored positions, and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import ANSWER, TRACE, TRACE_ANSWER, Example, ExampleSet
from expunge.engine.run import JobEvent
from expunge.engine.store import Store
from expunge.evaluation.config import Generation
from expunge.evaluation.prompts import check_lengths, long_rows
from expunge.models.config import looks_local
from expunge.models.folder_settings import unapplied_generation
from expunge.models.load import context_of
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs.model_jobs import BaseJob

SHOWN = 24  # tokens of a prompt that are shown, its last ones
MOST_SHOWN = 150  # tokens of an answer that are shown: MUSE's texts have 2048


def template_lines(encoder: Encoder, rows: ExampleSet) -> list[str]:
    """Return lines that show the first example of a set as `prompt | answer | end`, its tokens visible.

    A trace and the tag that closes it are lines of their own. Raises DataError if the set is empty or the example
    leaves no answer token.
    """
    if not len(rows):
        raise DataError(f"{rows.name}: no rows")
    row = rows[0]
    variant = ANSWER if ANSWER in row.answers else next(iter(row.answers))
    encoded = encoder.row(rows, row, TRACE_ANSWER if row.trace is not None and variant == ANSWER else variant)
    prompt = encoder.row_prompt(rows, row)
    answer = list(encoded.ids[len(prompt) :]) if list(encoded.ids[: len(prompt)]) == prompt else _scored(encoded)
    n = len(answer) - encoder.n_end(answer)
    answer, end = answer[:n], answer[n:]
    spans: list[str] = []
    if row.has(TRACE) and row.trace is not None:
        of_trace = _scored(encoder.row(rows, row, TRACE))
        n_answer = encoder.row(rows, row, variant).n_answer - len(end)
        closing = answer[len(of_trace) : len(answer) - n_answer]
        spans = [
            f"  trace   {_tokens(encoder.tokenizer, of_trace, last=SHOWN)}",
            f"  closing {_tokens(encoder.tokenizer, closing)}",
        ]
        answer = answer[len(answer) - n_answer :]
    labels = "all tokens are scored" if encoder.template.labels == "all" else "answer and end are scored"
    if row.trace is not None and encoder.template.labels != "all":
        labels = "the spans trace and answer are scored by name, and train_on chooses the span that unlearning reads"
    way = "the chat template" if encoder.template.apply_chat_template and rows.form == "qa" else "plain text"
    return [
        f"example: {rows.name} row {row.row_id}, by {way}; {labels}",
        f"  prompt  {_tokens(encoder.tokenizer, prompt, last=SHOWN)}",
        *spans,
        f"  answer  {_tokens(encoder.tokenizer, answer)}",
        f"  end     {_tokens(encoder.tokenizer, end) if end else 'none'}",
        f"  generation stops at {_names(encoder)}",
    ]


def template_notes(encoder: Encoder, sets: Sequence[ExampleSet]) -> list[str]:
    """Return one line for each behaviour of the template, and for special text in examples."""
    notes = list(encoder.notes)
    for rows in sets:
        n = sum(
            1
            for row in rows
            if any(encoder.tokens.finds(t) for t in (row.question, row.trace or "", *row.answers.values()))
        )
        if n:
            how = "plain text" if encoder.template.split_special_tokens else "special tokens"
            notes.append(
                f"{rows.name}: {n} of {len(rows)} rows contain the text of a special token; it is encoded as {how} "
                "(model.template_args.split_special_tokens)"
            )
    return notes


def cut_note(encoder: Encoder, rows: ExampleSet) -> list[str]:
    """Return a line with the number of rows whose answer is cut off, if there are any."""
    if rows.long == "pieces" or not rows.rows:  # tokens on disk are cut when they are written
        return []
    most = rows.max_length or encoder.max_length
    n = sum(_is_cut(encoder, rows, row) for row in long_rows(rows, encoder, most) if ANSWER in row.answers)
    if not n:
        return []
    return [
        f"{rows.name}: {n} of {len(rows)} rows are longer than {most} tokens, and the end of their answers is cut off. "
        "It is neither trained on nor measured (model.template_args.max_length sets another limit)"
    ]


def _is_cut(encoder: Encoder, rows: ExampleSet, row: Example) -> bool:
    """Return whether an answer is cut off, also if nothing of it is left."""
    try:
        return bool(encoder.row(rows, row, ANSWER).truncated)
    except DataError:
        return True


def check_measured(setting: TaskContext, generation: Generation, encoder: Encoder, source: str) -> None:
    """Raise DataError for a row to measure that leaves no room for its answer. source: the folder of a model."""
    context = context_of(source, setting.model.model_args)
    check_lengths(setting.benchmark.panel, setting.benchmark.sets, encoder, generation, context)


def example_of(
    setting: TaskContext, source: str | None = None, generation: Generation | None = None
) -> tuple[list[str], list[str]]:
    """Return the lines of one example of a task and its notes; empty without an available tokenizer.

    source: the folder of the tokenizer, if a job created it. generation: the settings of generated texts, if the run
    measures the task's metrics; a row that leaves no room for its answer is then a DataError.
    """
    encoder = setting.planned_encoder() if source is None else setting.encoder(source)
    benchmark = setting.benchmark
    if encoder is None:
        return [], []
    folder = source or setting.model.source
    if generation is not None and folder is not None:
        check_measured(setting, generation, encoder, folder)
    sets = [s for s in benchmark.sets.values() if isinstance(s, ExampleSet)]
    named = next((s for s in sets if s.name == benchmark.forget_set), None) or next(iter(sets), None)
    lines = template_lines(encoder, named) if named is not None and named.rows else []
    read = {benchmark.forget_set, benchmark.retain_set, *benchmark.full_sets}
    cut = [note for rows in sets if rows.name in read for note in cut_note(encoder, rows)]
    return lines, [*cut, *template_notes(encoder, sets), *_generation_notes(setting.model.source)]


def _generation_notes(source: str | None) -> list[str]:
    """Return a note if the model's own `generate` writes other texts than the greedy ones that are measured here."""
    settings = unapplied_generation(Path(source).expanduser()) if source and looks_local(source) else []
    if not settings:
        return []
    return [
        f"generation_config.json lists {', '.join(settings)}, which is not applied: texts are the most likely tokens, "
        "and model.generate may write others"
    ]


def print_example(
    setting: TaskContext,
    write: Callable[[str], None],
    source: str | None = None,
    generation: Generation | None = None,
) -> None:
    """Write one example and the notes at the start of a run, one line at a time. Arguments as of `example_of`."""
    lines, notes = example_of(setting, source, generation)
    for line in (*lines, *(f"note: {note}" for note in notes)):
        write(line)


def with_example(
    setting: TaskContext,
    store: Store,
    tell: Callable[[JobEvent], None],
    write: Callable[[str], None],
    generation: Generation | None = None,
) -> Callable[[JobEvent], None]:
    """Write an example at the start of a run; if a job creates the tokenizer, once that job is done.

    tell: the receiver of the events of the jobs. generation: as in `example_of`. Returns the receiver to
    use in its place.
    """
    if setting.model.scratch is None:
        print_example(setting, write, generation=generation)
        return tell
    waiting = True

    def tell_once(event: JobEvent) -> None:
        nonlocal waiting
        tell(event)
        if waiting and event.job.kind == BaseJob.kind and event.what in ("hit", "done"):
            waiting = False
            print_example(setting, write, str(store.path(event.job)), generation)

    return tell_once


def _scored(encoded: Encoded) -> list[int]:
    return list(encoded.ids[encoded.n_prompt :])


def _tokens(tokenizer: Any, ids: Sequence[int], *, last: int | None = None) -> str:
    """Return tokens as text between bars, with their number: the last ones, or the first `MOST_SHOWN`."""
    shown = ids[:MOST_SHOWN] if last is None else ids[-last:]
    more = f"... {len(ids) - len(shown)} more, then " if last is not None and len(shown) < len(ids) else ""
    rest = f" ... {len(ids) - len(shown)} more" if last is None and len(shown) < len(ids) else ""
    texts = (repr(tokenizer.decode([i], skip_special_tokens=False))[1:-1] for i in shown)
    return f"{more}|{'|'.join(texts)}|{rest}  ({len(ids)} tokens)" if ids else "(no tokens)"


def _names(encoder: Encoder) -> str:
    tokens = encoder.tokenizer.convert_ids_to_tokens(sorted(encoder.end_ids))
    return (
        " ".join((*map(repr, encoder.stops), *map(str, tokens)))
        + ", and at the ends that the model's generation_config lists"
    )
