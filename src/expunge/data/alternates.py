"""Other answers to the forget questions, from a file: methods such as DPO train towards them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import DataError
from expunge.data.examples import Example, ExampleSet
from expunge.data.source import read_file


@dataclass(frozen=True)
class Alternates:
    """The other answers of each question. key: the column that contains them."""

    path: Path
    key: str
    answers: dict[str, tuple[str, ...]]

    @property
    def n(self) -> int:
        """The number of other answers of each question."""
        return len(next(iter(self.answers.values())))

    def of(self, examples: ExampleSet) -> list[tuple[str, ...]]:
        """Return the other answers of each example. Raises DataError for a question that the file lacks."""
        return [self._of(row, examples.name) for row in examples.rows]

    def _of(self, row: Example, name: str) -> tuple[str, ...]:
        answers = self.answers.get(row.question)
        if answers is None:
            raise DataError(f"data.alternates: {self.path} lacks the question of {name} row {row.row_id}: "
                            f"{row.question[:60]!r}")  # fmt: skip
        return answers


def read_alternates(path: Path, key: str) -> Alternates:
    """Read a file of rows with `question` and a list of texts in the column `key`.

    Raises DataError for a row of another form, or if the rows have different numbers of texts.
    """
    if not path.exists():
        raise DataError(f"data.alternates: no file {path}")
    answers: dict[str, tuple[str, ...]] = {}
    for i, record in enumerate(read_file(path)):
        texts = record.get(key)
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(record.get("question"), str) or not isinstance(texts, list) or not texts:
            raise DataError(f"{path} row {i}: needs the columns question and {key} (a text or a list of texts); "
                            f"it has {', '.join(record)}")  # fmt: skip
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{path} row {i}: {key}: every other answer must be a text")
        answers[record["question"]] = (*answers.get(record["question"], ()), *texts)
    if len({len(texts) for texts in answers.values()}) != 1:
        raise DataError(f"{path}: all questions need equally many texts in {key}")
    return Alternates(path, key, answers)
