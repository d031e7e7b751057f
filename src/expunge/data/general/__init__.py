"""Short items on general ability, and lists of named things of one kind; both come with the package."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from expunge.data.examples import ANSWER, Example, ExampleSet, perturbed_name

AREAS = ("facts", "reasoning", "subjects")  # multiple choice; the questions of `subjects` are those of school exams
FLUENCY = "fluency"  # prompts without a right answer


@functools.cache
def _read(name: str) -> Mapping[str, Any]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return dict(json.loads(text))


def anchors() -> list[str]:
    """Return everyday questions and requests that are no items: a model's own answers to them are to stay."""
    return [str(text) for text in _read("items.json")["anchors"]]


def general_sets() -> dict[str, ExampleSet]:
    """Return the items by set name: `general_facts`, ... with wrong answers, and `general_fluency` with prompts."""
    items = _read("items.json")
    out = {}
    for area in AREAS:
        rows = tuple(
            Example(i, item["question"], {ANSWER: item["answer"]} | _wrong(item["wrong"]))
            for i, item in enumerate(items[area])
        )
        out[f"general_{area}"] = ExampleSet(f"general_{area}", rows)
    name = f"general_{FLUENCY}"
    prompts = tuple(Example(i, text, {ANSWER: text}) for i, text in enumerate(items[FLUENCY]))
    return {**out, name: ExampleSet(name, prompts)}


def _wrong(answers: list[str]) -> dict[str, str]:
    return {perturbed_name(i): text for i, text in enumerate(answers)}


def others_like(entity: str) -> list[str]:
    """Return the other members of the first list that contains a name, in the list's order; none if no list does."""
    for names in _read("entities.json").values():
        if entity.casefold() in {str(name).casefold() for name in names}:
            return [str(name) for name in names if str(name).casefold() != entity.casefold()]
    return []
