"""Examples as token ids for a run in memory, and the other answers that some methods read."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.records import GeneratedText
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Encoded, Encoder, Template, n_truncated
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import resolve_generation, resolve_template
from expunge.evaluation.generation import generate_texts

_logger = logging.getLogger(__name__)
N_ALTERNATES = 5
ALTERNATE = "alternate"


def encoder_for(tokenizer: Any, template: Template | Mapping[str, Any] | None) -> Encoder:
    """Return a template bound to a tokenizer. None: the tokenizer's chat template if it has one, else the default tags.

    A tokenizer without a pad token is copied, and the copy pads with EOS: padded positions are never read.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return Encoder(resolve_template(template, tokenizer), tokenizer)


def encode_examples(examples: ExampleSet, encoder: Encoder) -> list[Encoded]:
    """Return the encoded true answer of every example, or its pieces if the set is `long="pieces"`."""
    if examples.long == "pieces":
        return encoder.pieces(examples)
    encoded = encoder.rows(examples, [(row, "answer") for row in examples.rows])
    cut = n_truncated(encoded)
    if cut:
        _logger.warning(
            "%d of %d answers of %s are truncated at %d tokens, question included; the rest is not trained on. "
            "template={'max_length': N} sets another limit.",
            cut, len(encoded), examples.name, examples.max_length or encoder.template.max_length,
        )  # fmt: skip
    return encoded


def encode_alternates(examples: ExampleSet, texts: Sequence[Sequence[str]], encoder: Encoder) -> list[Encoded]:
    """Return each example's question with each of its other answers, example by example."""
    variants = [
        (dataclasses.replace(row, answers={ALTERNATE: text}), ALTERNATE)
        for row, others in zip(examples.rows, texts, strict=True)
        for text in others
    ]
    return encoder.rows(examples, variants)


def sampled_answers(
    model: Any,
    examples: ExampleSet,
    encoder: Encoder,
    generation: Generation | Mapping[str, Any],
    refusals: Sequence[str],
) -> list[list[str]]:
    """Return other answers to each question, sampled from the model; refusals if all samples are the true answer."""
    how = dataclasses.replace(resolve_generation(generation, 0), temperature=1.0, samples=N_ALTERNATES, seed=0)
    texts = generate_texts(model, examples, "answer", encoder, how)
    out = []
    for row in examples.rows:
        answers = other_answers(row, texts) or list(refusals)
        out.append([answers[k % len(answers)] for k in range(N_ALTERNATES)])
    return out


def other_answers(row: Example, texts: Sequence[GeneratedText]) -> list[str]:
    """Return the samples of one example that are neither empty nor its true answer."""
    truth = row.answer.strip().casefold()
    samples = [t.generation for t in texts if t.row_id == row.row_id]
    return [t for t in samples if t.strip() and t.strip().casefold() != truth]
