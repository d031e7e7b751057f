"""Examples as token ids for training, and the other answers that some methods read."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expunge.core.errors import ConfigError, DataError
from expunge.core.records import GeneratedText, split_trace
from expunge.data.encoder import Encoded, Encoder, n_truncated
from expunge.data.examples import ANSWER, TEMPLATE_LIMIT, TRACE, TRACE_ANSWER, Example, ExampleSet, Span
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import resolve_template, with_pad_token
from expunge.methods.api import Marks
from expunge.models.capabilities import check_ids
from expunge.models.load import context_in

_logger = logging.getLogger(__name__)
N_ALTERNATES, ALTERNATES_SEED = 5, 0
ALTERNATE = "alternate"


def encoder_for(tokenizer: Any, template: Template | Mapping[str, Any] | None) -> Encoder:
    """Return a template bound to a tokenizer. None: the tokenizer's chat template if it has one, else the default tags.

    A tokenizer without a pad token is copied, and the copy pads with EOS.
    """
    tokenizer = with_pad_token(tokenizer)
    return Encoder(resolve_template(template, tokenizer), tokenizer)


def check_rows(model: Any, rows: Mapping[str, Sequence[Encoded]]) -> None:
    """Raise an error for a row to train on that the model cannot read.

    Token rows on disk are not read here, because their tokenizer has been checked.

    Raises:
        ConfigError: If an id is beyond the model's embeddings.
        DataError: If a row has more tokens than the model has positions.
    """
    context = context_in(model.config)
    for side, encoded in rows.items():
        if not isinstance(encoded, list):
            continue
        check_ids(model, ((f"{side} row {k}", row.ids) for k, row in enumerate(encoded)))
        for k, row in enumerate(encoded):
            if context is not None and len(row.ids) > context:
                raise DataError(
                    f"{side} row {k}: it has {len(row.ids)} tokens, but the model's context is {context}; to cut such "
                    f"rows, set {TEMPLATE_LIMIT}, or data.args.max_length of a benchmark that has it"
                )


def encode_sets(
    sets: Sequence[ExampleSet], encoder: Encoder, span: Span | None = None, marks: Marks = ""
) -> Sequence[Encoded]:
    """Return the encoded true answers of all examples of some sets, in order. Sets with `long=pieces` give pieces.

    span: the span with a loss, for examples with a trace. None: the trace and the answer. marks: the tokens that the
    loss treats apart (`training.marks`). Sets of tokens stay on disk and are read row by row.

    Raises ConfigError if they are not the model's tokens. Raises DataError if an example has no text in the span
    `trace`, or no answer if unwanted words are marked.
    """
    if any(one.n_tokens is not None for one in sets):
        from expunge.data.stories.shards import TokenDataset, joined

        shards = [one for one in sets if isinstance(one, TokenDataset)]
        if len(shards) < len(sets):
            raise ConfigError("benchmark: sets of tokens and sets of texts cannot be trained on as one side")
        for each in shards:
            each.check_tokenizer(encoder.tokenizer)
        return joined(shards)
    out: list[Encoded] = []
    for one in sets:
        named = [(row, trained_span(row, span, one.name)) for row in one.rows]
        encoded = encoder.pieces(one) if one.long == "pieces" else encoder.rows(one, named)
        if marks:
            from expunge.training.marks import mark_rows

            encoded = mark_rows(encoded, one, encoder, marks)
        out += encoded
    return out


def trained_span(row: Example, span: Span | None, name: str) -> str:
    """Return the span of an example that has a loss. Raises DataError for a span that the example lacks."""
    if row.trace is None and span != TRACE:
        return ANSWER
    if span == TRACE and not row.has(TRACE):
        raise DataError(
            f"{name} row {row.row_id}: no trace to train on; set train_on=answer, or give every row a trace"
        )
    return span or TRACE_ANSWER


def check_span(
    sets: Sequence[ExampleSet], span: Span, *, forgets: bool, alternates: bool, where: str, marks: Marks = ""
) -> None:
    """Raise ConfigError if a run has no use for its span (`train_on`), or its loss needs another one."""
    if marks == TRACE and span != TRACE_ANSWER:
        raise ConfigError(f"{where}: this method reads traces and answers; set {where}={TRACE_ANSWER}")
    if span == ANSWER:
        return
    if not forgets:
        raise ConfigError(f"{where}: {span} is of the forget side, and this method forgets nothing; leave it out")
    if alternates:
        raise ConfigError(f"{where}: this method reads other or sampled answers, which have no such span; use answer")
    if not any(one.has_traces for one in sets):
        names = ", ".join(one.name for one in sets)
        raise ConfigError(f"{where}: no example of {names} has a trace (a column 'trace'); leave {where} out")


def warn_truncated(examples: ExampleSet, encoded: Sequence[Encoded], encoder: Encoder) -> None:
    """Log a warning if answers are cut at the length limit."""
    cut = n_truncated(encoded)
    if cut:
        _logger.warning(
            "%d of %d answers of %s are truncated at %d tokens, question included; the rest is not trained on. "
            "template={'max_length': N} sets another limit.",
            cut, len(encoded), examples.name, examples.max_length or encoder.max_length,
        )  # fmt: skip


def encode_alternates(sets: Sequence[ExampleSet], texts: Sequence[Sequence[str]], encoder: Encoder) -> list[Encoded]:
    """Return each question of some sets with each of its other answers, example by example.

    Raises ValueError if `texts` does not have one list for each example.
    """
    out: list[Encoded] = []
    rest = iter(texts)
    for one in sets:
        variants = [
            (dataclasses.replace(row, answers={ALTERNATE: text}), ALTERNATE)
            for row, others in zip(one.rows, itertools.islice(rest, len(one.rows)), strict=True)
            for text in others
        ]
        out += encoder.rows(one, variants)
    if n := len(list(rest)):
        raise ValueError(f"{n} lists of other answers belong to no row")
    return out


def sampling_of_alternates(generation: Generation) -> Generation:
    """Return the settings that sample other answers: temperature 1 and a fixed seed."""
    return dataclasses.replace(generation, temperature=1.0, samples=N_ALTERNATES, seed=ALTERNATES_SEED)


def sampled_answers(
    model: Any,
    examples: ExampleSet,
    encoder: Encoder,
    generation: Generation,
    refusals: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> tuple[list[list[str]], int]:
    """Sample other answers to each question from the model.

    Samples that repeat the true answer are left out and the others cycled. An example without other samples gets
    refusals.

    Returns:
        `generation.samples` texts for each example, and the number of examples with refusals.
    """
    from expunge.evaluation.generation import generate_texts

    texts = generate_texts(model, examples, "answer", encoder, generation, progress=progress)
    out, bare = [], 0
    for row in examples.rows:
        answers = _other_answers(row, texts)
        bare += not answers
        answers = answers or list(refusals)
        out.append([answers[k % len(answers)] for k in range(generation.samples)])
    return out, bare


def _other_answers(row: Example, texts: Sequence[GeneratedText]) -> list[str]:
    """Return the samples of one example that are neither empty nor its true answer."""
    truth = row.answer.strip().casefold()
    whole = [t.generation for t in texts if t.row_id == row.row_id]
    samples = whole if row.trace is None else [split_trace(text)[1] for text in whole]
    return [t for t in samples if t.strip() and t.strip().casefold() != truth]
