"""`write_probes`: probe questions from a model, for the audit `generated`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.audits.probe_rows import ALIAS, PARAPHRASE, REVERSE, ProbeRow, subjects
from expunge.core.errors import ConfigError, as_list, as_path, nearest
from expunge.core.files import write_text
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.in_memory import examples_from
from expunge.data.question_text import first_sentence, listed_questions
from expunge.data.template import Template

ASKED = {
    PARAPHRASE: "Ask this question in other words, with the same names. Reply with the question alone.\n{question}",
    ALIAS: "By which shorter name do people call {name}? Reply with the name alone.",
    REVERSE: 'Write one question whose answer is "{name}", from this fact: {fact} Do not use the name in it.',
}
Answers = Callable[[Sequence[str]], list[str]]
MOST_WORDS = 4  # of an alias
WRITTEN = (PARAPHRASE, REVERSE)  # the kinds that a model writes, unless others are named


def write_probes(
    model: Any,
    tokenizer: Any = None,
    *,
    forget: Any,
    kinds: Sequence[str] = WRITTEN,
    file: str | Path | None = None,
    template: Template | Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Let a model write probe questions about the forget examples, for the audit `generated` (its setting `file`).

    Use a capable instruction model, or the model before unlearning, not the audited one. Replies that are no question,
    repeat the question, lose its name (paraphrase) or contain the answer (reverse) are left out.

    Args:
        model: The model that writes, or its name. It is not changed.
        tokenizer: Its tokenizer. A model given by name needs none.
        forget: The forget examples: any data that `evaluate` reads.
        kinds: Some of paraphrase, alias and reverse.
        file: Where the probes are written as JSON lines. None: they are only returned.
        template: How an example becomes text, as for `evaluate`.

    Returns:
        A dict for each probe with kind, row (the number of the forget example), question and answer.

    Raises:
        ConfigError: If a kind is unknown, or the model gives no usable probe.
        DataError: If the examples cannot be read.
    """
    target = None if file is None else as_path(file, "write_probes: file")
    for kind in as_list(kinds, "write_probes: kinds"):
        if kind not in ASKED:
            raise ConfigError(f"write_probes: kinds: no model writes {kind!r}{nearest(kind, ASKED)}")
    from expunge.evaluation.config import Generation
    from expunge.evaluation.evaluator import resolve_model, resolve_template
    from expunge.evaluation.generation import generate_texts

    rows = examples_from(forget, "forget")
    model, tokenizer = resolve_model(model, tokenizer)
    encoder = Encoder(resolve_template(template, tokenizer), tokenizer)

    def answers(questions: Sequence[str]) -> list[str]:
        prompts = ExampleSet("asked", tuple(Example(i, q, {"answer": q}) for i, q in enumerate(questions)))
        texts = generate_texts(model, prompts, "answer", encoder, Generation(max_new_tokens=80))
        return [text.generation for text in texts]

    probes = [probe for kind in kinds for probe in model_probes(rows, kind, answers)]
    if not probes:
        raise ConfigError("write_probes: the model wrote no usable question; try a larger instruction model")
    records = [vars(probe) for probe in probes]
    if target is not None:
        write_text(target, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return records


def model_probes(rows: ExampleSet, kind: str, answers: Answers) -> list[ProbeRow]:
    """Return the usable probes of one kind. answers: returns the model's replies to texts, in order."""
    about = subjects(rows)
    usable = [(row, about.get(row.row_id)) for row in rows if kind == PARAPHRASE or row.row_id in about]
    prompts = [
        ASKED[kind].format(question=row.question, name=template.name if template else "", fact=row.answer)
        for row, template in usable
    ]
    out = []
    for (row, template), reply in zip(usable, answers(prompts) if prompts else [], strict=True):
        name = template.name if template else ""
        if kind == ALIAS and template is not None:
            alias = first_sentence(reply).strip(" .\"'")
            good = 0 < len(alias.split()) <= MOST_WORDS and alias.casefold() != name.casefold()
            question, answer = template.about(alias), row.answer
        else:
            question = next(iter(listed_questions(reply)), "")
            answer = row.answer if kind == PARAPHRASE else name
            same = question.casefold() == row.question.casefold()
            good = bool(question) and not same and (name in question) == (kind == PARAPHRASE)
        if good:
            out.append(ProbeRow(kind, row.row_id, question, answer))
    return out
