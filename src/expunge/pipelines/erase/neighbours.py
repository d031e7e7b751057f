"""Questions near the rows to forget: the same question about other things of the same kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from expunge.data.general import others_like
from expunge.data.question_text import QuestionTemplate, question_template

MOST_PER_TEMPLATE = 12
MOST = 48  # neighbours of all rows
MOST_WORDS = 5  # of an entity that a model lists
ASK = "List ten things of the same kind as {}. Answer with their names alone, separated by commas."
_ITEM = re.compile(r"[,;\n]+")
_BULLET = re.compile(r"^\s*(?:\d+[.)]|[-*•])?\s*(?:and\s+)?")


def listed_names(text: str) -> list[str]:
    """Return the names of a list that a model wrote: items between commas or lines, without numbers and bullets."""
    items = [_BULLET.sub("", item).strip(" .:") for item in _ITEM.split(text)]
    return [item for item in dict.fromkeys(items) if item and len(item.split()) <= MOST_WORDS and item[0].isalnum()]


def neighbour_questions(questions: Sequence[str], ask: Callable[[list[str]], list[str]]) -> list[str]:
    """Return questions near the given ones: each template with names that do not occur in them.

    Args:
        questions: The questions of the rows to forget.
        ask: Returns the model's answers to questions. It must give names that the package's lists do not contain.
    """
    templates = [t for q in questions if (t := question_template(q)) is not None]
    known_names = {t.name.casefold() for t in templates}
    by_form: dict[tuple[str, str], list[QuestionTemplate]] = {}
    for template in templates:
        by_form.setdefault((template.before, template.after), []).append(template)
    unknown = list(dict.fromkeys(same[0].name for same in by_form.values() if not others_like(same[0].name)))
    lists = dict(zip(unknown, ask([ASK.format(name) for name in unknown]) if unknown else [], strict=True))
    out: dict[str, None] = {}
    per_form = max(2, min(MOST_PER_TEMPLATE, MOST // max(len(by_form), 1)))
    for same in by_form.values():
        name = same[0].name
        others = others_like(name) or listed_names(lists.get(name, ""))
        fresh = [other for other in others if other.casefold() not in known_names]
        out |= dict.fromkeys(same[0].about(other) for other in fresh[:per_form])
    known = set(questions)
    return [q for q in out if q not in known][:MOST]
