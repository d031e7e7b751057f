"""RWKU (Jin et al. 2024, arXiv:2406.10890): 200 famous people, probes about them and about their neighbours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet, qa_rows, text_in
from expunge.data.source import load_raw, read_file
from expunge.data.table_files import Records

HUB_ID = "jinzhuoran/RWKU"
FORGET_LEVELS = ("forget_level1", "forget_level2", "forget_level3")  # blanks, questions, adversarial questions
NEIGHBOR_LEVELS = ("neighbor_level1", "neighbor_level2")
MEMBERS = ("mia_forget", "mia_retain")
CORPORA = (
    "train_original_passage",
    "train_positive_llama3",
    "train_positive_phi3",
    "train_negative_llama3",
    "train_negative_phi3",
)
# The hub's subsets, and the names of their files in its folders All/ and Target/NAME/.
FILES = {
    "forget_target": "intro",
    **{name: name for name in (*FORGET_LEVELS, *NEIGHBOR_LEVELS)},
    "mia_forget": "forget_mia",
    "mia_retain": "retain_mia",
    "train_original_passage": "passage",
    "train_positive_llama3": "positive",
    "train_positive_phi3": "positive_phi",
    "train_negative_llama3": "negative",
    "train_negative_phi3": "negative_phi",
    "utility_general": "retain_mmlu",
    "utility_reason": "retain_bbh",
    "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa",
    "utility_fluency": "fluency",
}


def load_subset(root: str, subset: str) -> tuple[Records, str]:
    """Return the records of a subset, and their source. Raises DataError.

    root: a hub id; or a folder with the hub's files (All/forget_level1.json, ...), with one person's, with files named
    after the subsets, or with a folder for each person (Target/1_Stephen_King/, ...). Records of persons are joined.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        split = "train" if subset.startswith("train") or subset == "forget_target" else "test"
        return load_raw(root, subset=subset, split=split)
    files = subset_files(base, subset)
    if not files:
        names = " and ".join(dict.fromkeys((subset, FILES[subset])))
        raise DataError(
            f"{base}: no rows of {subset}: looked for {names} (json, jsonl, parquet), also in All and in "
            "Target/NUMBER_NAME"
        )
    if len(files) == 1:
        return read_file(files[0]), str(files[0])
    return [record for file in files for record in read_file(file)], f"{files[0].parent.parent}/*/{files[0].name}"


def subset_files(base: Path, subset: str) -> list[Path]:
    """Return the file of a subset in a folder, or those of all people, in the order of their numbers."""
    names = dict.fromkeys((subset, FILES[subset]))
    for folder in (base, base / "All"):
        for path in _named(folder, names):
            return [path]
    people: dict[int, Path] = {}
    for folder in (base, base / "Target"):
        for path in folder.iterdir() if folder.is_dir() else ():
            number = path.name.partition("_")[0]
            if number.isdecimal() and path.is_dir():
                people[int(number)] = path
    return [file for _, folder in sorted(people.items()) for file in list(_named(folder, names))[:1]]


def _named(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    paths = (folder / f"{name}{end}" for name in names for end in (".json", ".jsonl", ".parquet"))
    return (path for path in paths if path.is_file())


def check_targets(root: str, targets: Sequence[str]) -> None:
    """Raise DataError, with the nearest right name, unless all are people of `forget_target`."""
    raw, where = load_subset(root, "forget_target")
    known = [record["target"] for record in raw if isinstance(record.get("target"), str)]
    for target in targets:
        if target not in known:
            raise DataError(f"data.args.targets: {where} has no person named {target!r}{nearest(target, known)}")


def probes(root: str, subset: str, targets: Collection[str], prompt: str) -> ExampleSet:
    """Return questions about the targets or their neighbours; about all people without targets.

    prompt: prompt template, with the query at {query}.
    """
    raw, where = load_subset(root, subset)
    records, place = of_people(raw, targets, where)
    rows = qa_rows(records, name=subset, where=place, question_key="query")
    return ExampleSet(
        subset,
        tuple(
            Example(
                row.row_id,
                prompt.replace("{query}", row.question),
                row.answers,
                meta={"subject": record["subject"]} | _kind(record, f"{place} row {row.row_id}"),
            )
            for row, record in zip(rows, records, strict=True)
        ),
    )


def texts(root: str, subset: str, name: str, targets: Collection[str], *, others: bool = False) -> ExampleSet:
    """Return plain texts about the targets, or with `others` about all other people; empty if there are none."""
    raw, where = load_subset(root, subset)
    records, place = of_people(raw, targets, where)
    if others:
        records, place = [r for r in raw if r.get("subject") not in targets], f"{where}, other people,"
    if not records:
        return ExampleSet(name, (), "text")
    rows = qa_rows([{"question": name, **_text(r)} for r in records], name=name, where=place, answer_key="text")
    return ExampleSet(name, tuple(Example(r.row_id, "", {ANSWER: r.answer}) for r in rows), "text")


def _text(record: dict[str, object]) -> dict[str, object]:
    return {"text": record["text"]} if "text" in record else {}


def _kind(record: Mapping[str, Any], place: str) -> dict[str, str]:
    """Return the kind of a probe, such as an attack, if it has one."""
    return {"type": text_in(record, "type", place)} if record.get("type") not in (None, "") else {}


def of_people(raw: Records, targets: Collection[str], where: str) -> tuple[Records, str]:
    """Return the records about the targets, all without targets, and the place to name their rows by.

    Raises DataError if there is none.
    """
    for i, record in enumerate(raw):
        if not isinstance(record.get("subject"), str):
            raise DataError(f"{where} row {i}: 'subject' must be text, got {record.get('subject')!r}")
    if not targets:
        return raw, where
    people = ", ".join(sorted(targets))
    matching = [record for record in raw if record["subject"] in targets]
    if not matching:
        raise DataError(f"{where}: no row about {people}")
    return matching, f"{where}, {people},"
