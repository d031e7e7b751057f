"""MMLU (Hendrycks et al. 2021, arXiv:2009.03300): multiple-choice questions of 57 subjects, a set of rows each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.choices import ChoiceQuestion, Style, choice_rows, read_questions
from expunge.data.examples import ExampleSet
from expunge.data.source import load_split, read_file

HUB_ID = "cais/mmlu"
PREFIX = "mmlu_"
MAX_SHOTS = 5  # development questions of a subject
LENGTH = 4096  # tokens of a question with its solved ones


def mmlu_sets(
    root: str = HUB_ID,
    *,
    subjects: Sequence[str] = (),
    n_shots: int = MAX_SHOTS,
    style: Style = "letters",
    limit: int = 0,
    max_length: int = LENGTH,
    where: str = "data.args.subjects",
) -> dict[str, ExampleSet]:
    """Return MMLU's test questions as `mmlu_<subject>` -> rows, subjects in alphabetical order.

    Args:
        root: The hub id, a folder in the hub's layout, or one of `test/<subject>_test.csv` and `dev/<subject>_dev.csv`
            with a header line.
        subjects: Subjects to use; empty uses all.
        n_shots: Solved development questions before each.
        style: Options as letters, or as their own texts.
        limit: Number of questions per subject, the first ones (0: all).
        max_length: Largest number of tokens; a longer prompt loses its beginning.
        where: Key of `subjects`, for messages.

    Raises:
        ConfigError: If a subject does not exist.
        DataError: If files are missing or malformed.
    """
    test = _questions(root, "test")
    for name in subjects:
        if name not in test:
            raise ConfigError(f"{where}: MMLU has no subject {name!r}{nearest(name, test)}")
    dev = _questions(root, "dev") if n_shots else {}
    out = {}
    for name in sorted(subjects or test):
        if len(dev.get(name, ())) < n_shots:
            raise DataError(f"{root}: the subject {name} has {len(dev.get(name, ()))} dev questions, {n_shots} needed")
        out[f"{PREFIX}{name}"] = choice_rows(
            f"{PREFIX}{name}",
            test[name][: limit or None],
            about=name.replace("_", " "),
            style=style,
            shots=dev[name][:n_shots] if n_shots else (),
            max_length=max_length,
        )
    return out


def _questions(root: str, split: str) -> dict[str, list[ChoiceQuestion]]:
    files = sorted((Path(root).expanduser() / split).glob(f"*_{split}.csv"))
    if files:
        return {f.name.removesuffix(f"_{split}.csv"): read_questions(read_file(f), str(f)) for f in files}
    raw, where = load_split(root, "all", split, "data.args.mmlu")
    if "subject" not in raw[0]:
        raise DataError(f"{where}: no column 'subject'{nearest('subject', raw[0])}")
    out: dict[str, list[ChoiceQuestion]] = {}
    for record, question in zip(raw, read_questions(raw, where), strict=True):
        out.setdefault(str(record["subject"]), []).append(question)
    return out
