"""MUSE (Shi et al. 2024, arXiv:2407.06460): news articles and books to forget, and questions about them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from expunge.core.errors import ConfigError, nearest
from expunge.data.examples import ExampleSet, qa_rows, text_rows, without_empty_texts
from expunge.data.source import EXTENSIONS, load_split
from expunge.data.table_files import Records

HUB_IDS = {"News": "muse-bench/MUSE-News", "Books": "muse-bench/MUSE-Books"}
SERIES = ("scal", "sust")  # growing and consecutive forget sets: News only
BOOKS = re.compile(r"\b(?:Harry|Hermione|Hagrid|Hogwarts|Dumbledore|Weasley|Snape)\b")
FEW_QUESTIONS = 20  # a part has 100
RETAIN = ("retain1", "retain2")


def forget_source(forget_split: str, data_split: str, series: str | None) -> tuple[str, str]:
    """Return the subset and split of a forget split: `forget`, `scal_1`..`scal_4`, `sust_1`..`sust_4`.

    With a series also `forget_1`..`forget_4`. Raises ConfigError.
    """
    sources = {"forget": ("raw", "forget")}
    if data_split == "News":
        sources |= {f"{s}_{k}": (s, f"forget_{k}") for s in SERIES for k in range(1, 5)}
        sources |= {f"forget_{k}": (series, f"forget_{k}") for k in range(1, 5) if series}
    if forget_split not in sources:
        raise ConfigError(
            f"forget_split={forget_split}: MUSE-{data_split} has no such split{nearest(forget_split, sources)}"
        )
    return sources[forget_split]


def note_on_part(root: str, data_split: str, questions: ExampleSet) -> tuple[str, ...]:
    """Return a note if the data are probably the other part's (News, Books), else nothing.

    The forget questions of Books name people of Harry Potter. With few questions only the name of the hub id or the
    folder counts.
    """
    words = set(re.findall("[a-z]+", root.rstrip("/").rpartition("/")[2].lower()))
    (other,) = (part for part in HUB_IDS if part != data_split)
    n = sum(1 for row in questions if BOOKS.search(f"{row.question} {row.answer}"))
    if len(questions) >= FEW_QUESTIONS and (n >= len(questions) / 10) == (other == "Books"):
        count = f"{n} of {len(questions)} forget questions name people of Harry Potter"
        return (f"data_split={data_split}: {count}; did you mean {other}?",)
    if other.lower() not in words or data_split.lower() in words:
        return ()
    return (f"data.root={root}: named after MUSE-{other}, and data_split is {data_split}; did you mean {other}?",)


def load_muse(
    root: str, *, forget: tuple[str, str], retain: str = "retain1", max_length: int = 2048
) -> tuple[dict[str, ExampleSet], tuple[str, ...]]:
    """Load MUSE's sets by role, and notes on rows that are left out, from a hub id or a folder.

    A folder has the hub's layout (`raw/forget`, `knowmem/forget_qa`, ..., with any extension) or that of the authors'
    repository: JSON lists of texts, and questions about the retained texts in `knowmem/retain2_qa.json`. Empty texts
    are left out; MUSE-News has one.

    Training, as pieces of max_length tokens: `forget`, `retain`, and `retain2` (further texts of the target model).
    Evaluation: `forget_knowmem`, `retain_knowmem` (questions, with ten solved ones before each), `forget_verbmem`
    (beginnings of texts to continue), `privleak_forget`, `privleak_holdout` (texts for the membership attack).

    Raises DataError for files that are missing or malformed.
    """
    sets: dict[str, ExampleSet] = {}
    notes: list[str] = []

    def texts(name: str, subset: str, split: str, **how: str) -> None:
        raw, where = load_split(root, subset, split)
        texts_left, dropped = without_empty_texts(raw, where)
        notes.extend(note for note in dropped if note not in notes)
        sets[name] = text_rows(texts_left, name=name, where=where, max_length=max_length, **how)

    texts("forget", *forget, long="pieces")
    texts("retain", "raw", retain, long="pieces")
    texts("retain2", "raw", "retain2", long="pieces")
    for side in ("forget", "retain"):
        sets[f"{side}_knowmem"] = _knowmem(root, side)
    raw, where = load_split(root, "verbmem", "forget")
    completed = qa_rows(raw, name="forget_verbmem", where=where, question_key="prompt", answer_key="gt")
    sets["forget_verbmem"] = dataclasses.replace(completed, form="completion", max_length=2 * max_length)
    for side in ("forget", "holdout"):
        texts(f"privleak_{side}", "privleak", side)
    return sets, tuple(notes)


def _knowmem(root: str, side: str) -> ExampleSet:
    name = f"{side}_knowmem"
    raw, where = _questions(root, side, "qa")
    solved, shots_at = _questions(root, side, "qa_icl")
    shots = tuple((r.question, r.answer) for r in qa_rows(solved, name=name, where=shots_at))
    return dataclasses.replace(qa_rows(raw, name=name, where=where), shots=shots)


def _questions(root: str, side: str, kind: str) -> tuple[Records, str]:
    """Return the questions of a side; the authors' repository names those about retained texts `retain2`."""
    folder = Path(root).expanduser() / "knowmem"
    stem = next((s for s in (side, f"{side}2") if any((folder / f"{s}_{kind}{e}").is_file() for e in EXTENSIONS)), side)
    return load_split(root, "knowmem", f"{stem}_{kind}")
