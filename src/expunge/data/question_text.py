"""Names and questions in texts: the name that a question is about, the questions of a list, the first sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A run of capitalised words, with small words between two of them: "Pride and Prejudice", "the University of Oxford".
_NAME = re.compile(
    r"\b[A-ZÀ-ÞΑ-ΩА-Я][\w'\u2019.-]*(?:\s+(?:(?:of|and|the|de|van|von|in|da|la)\s+)*[A-ZÀ-ÞΑ-ΩА-Я][\w'\u2019.-]*)*"
)
SENTENCE_END = re.compile(r"[.!?。！？]+[\"')\]]*(?=\s|$)|\n")  # noqa: RUF001


@dataclass(frozen=True)
class QuestionTemplate:
    """A question with a slot for a name: `before` + name + `after`."""

    before: str
    after: str
    name: str

    def about(self, name: str) -> str:
        """Return the question about another name."""
        return f"{self.before}{name}{self.after}"


def question_template(question: str) -> QuestionTemplate | None:
    """Return a question's template: the slot is its last name that is not the first word. None without a name."""
    templates = question_templates(question)
    return templates[-1] if templates else None


def question_templates(question: str) -> list[QuestionTemplate]:
    """Return a template for each name of a question that is not its first word. A name has no possessive "'s"."""
    out = []
    for match in _NAME.finditer(question):
        start, end = match.span()
        if question[start:end].endswith(("'s", "\u2019s")):
            end -= 2
        while end > start and question[end - 1] in ".'\u2019":
            end -= 1
        if start > 0:
            out.append(QuestionTemplate(question[:start], question[end:], question[start:end]))
    return out


def listed_questions(text: str) -> list[str]:
    """Return the questions of a list that a model wrote, one per line."""
    lines = [name for line in text.splitlines() for name in [line.strip().lstrip("0123456789.)-*• ").strip()]]
    return list(dict.fromkeys(line for line in lines if line.endswith("?")))


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, or all of it."""
    match = SENTENCE_END.search(text)
    return text[: match.end()].strip() if match else text.strip()
