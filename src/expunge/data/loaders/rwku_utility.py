"""RWKU's five utility sets: abilities that a model must keep after it forgot a person."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError
from expunge.data.choices import ChoiceQuestion, choice_rows, read_questions
from expunge.data.examples import ANSWER, Example, ExampleSet, text_in
from expunge.data.loaders.rwku import FILES, load_subset, of_people, subset_files

UTILITY = tuple(name for name in FILES if name.startswith("utility"))
# Our own wording of the instructions, as in the probes.
REASONING = "{cot}\n\nSolve the next one in the same way, and end with: So the answer is ...\nQ: {question}"
TRIVIA = "Answer with a name, a number or a few words, nothing else.\nQ: {question}"


def has_utility(root: str) -> bool:
    """Return whether the place has the utility sets: a hub id always, a folder if all five files are there."""
    base = Path(root).expanduser()
    if not base.is_dir():
        return True
    return all(subset_files(base, name) for name in UTILITY)


def utility_sets(root: str, targets: Collection[str]) -> dict[str, ExampleSet]:
    """Return the five sets by name, with the rows that RWKU gives for the targets. Raises DataError."""
    read: Mapping[str, Callable[[Sequence[Mapping[str, Any]], str], list[Example]]] = {
        "utility_general": _general,
        "utility_reason": _reason,
        "utility_truthfulness": _truthfulness,
        "utility_factuality": _factuality,
        "utility_fluency": _fluency,
    }
    sets = {}
    for name, convert in read.items():
        raw, where = load_subset(root, name)
        rows = convert(*of_people(raw, targets, where))
        form = "text" if name in ("utility_general", "utility_truthfulness") else "qa"
        sets[name] = ExampleSet(name, tuple(rows), form, max_length=4096, long="left")  # type: ignore[arg-type]
    return sets


def _general(raw: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
    """Multiple-choice questions of MMLU, each after its own solved examples."""
    out = []
    for i, record in enumerate(raw):
        solved = read_questions(_list(record, "examples", f"{where} row {i}"), f"{where} row {i}: examples")
        (question,) = read_questions([record], f"{where} row {i}")
        about = _optional(record, "task", f"{where} row {i}").replace("_", " ")
        rows = choice_rows("utility_general", [question], about=about, shots=solved)
        text = "".join(f"{q} {a}\n\n" for q, a in rows.shots) + rows[0].question
        out.append(Example(i, text, rows[0].answers))
    return out


def _reason(raw: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
    """Tasks of BIG-bench hard, to be answered with reasoning."""
    return [
        _open_question(
            i, r, REASONING.replace("{cot}", _optional(r, "cot", f"{where} row {i}").strip()), "answer", where
        )
        for i, r in enumerate(raw)
    ]


def _truthfulness(raw: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
    """Questions of TruthfulQA with one true answer among false ones (MC1)."""
    out = []
    for i, record in enumerate(raw):
        place = f"{where} row {i}"
        options = record.get("mc1_targets")
        if not isinstance(options, Mapping):
            raise DataError(f"{place}: 'mc1_targets' must have choices and labels")
        choices, labels = (_list(options, key, f"{place}: mc1_targets") for key in ("choices", "labels"))
        if len(choices) != len(labels) or list(labels).count(1) != 1:
            raise DataError(f"{place}: 'mc1_targets' must label one choice as true")
        texts = tuple(text_in({"choice": choice}, "choice", f"{place}: mc1_targets") for choice in choices)
        question = ChoiceQuestion(f"Q: {text_in(record, 'question', place)}", texts, list(labels).index(1))
        row = choice_rows("utility_truthfulness", [question], about="", style="options")[0]
        out.append(Example(i, f"{question.text}\nA:", row.answers))
    return out


def _factuality(raw: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
    """Questions of TriviaQA, with all accepted answers."""
    return [_open_question(i, record, TRIVIA, "answers", where) for i, record in enumerate(raw)]


def _fluency(raw: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
    """Instructions of AlpacaEval; only the form of the answer is measured."""
    out = []
    for i, record in enumerate(raw):
        text = text_in(record, "instruction", f"{where} row {i}")
        output = _optional(record, "output", f"{where} row {i}")
        out.append(Example(i, f"Instruction: {text}", {ANSWER: output or text}))
    return out


def _open_question(i: int, record: Mapping[str, Any], prompt: str, key: str, where: str) -> Example:
    """Return a question whose accepted answers are the lines of its answer."""
    place, value = f"{where} row {i}", record.get(key)
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list | tuple) or not all(type(answer) in (str, int) for answer in answers):
        raise DataError(f"{place}: '{key}' must be one text or a list of texts, got {value!r:.60}")
    lines = [line for answer in answers if (line := " ".join(str(answer).split()))]
    if not lines:
        raise DataError(f"{place}: '{key}' is empty")
    question = text_in(record, "question", place)
    return Example(i, prompt.replace("{question}", question), {ANSWER: "\n".join(lines)})


def _optional(record: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text of a column that may be absent or empty."""
    return "" if record.get(key) in (None, "") else text_in(record, key, place)


def _list(record: Mapping[str, Any], key: str, place: str) -> Sequence[Any]:
    value = record.get(key)
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: '{key}' must be a list, got {value!r:.60}")
    return value
