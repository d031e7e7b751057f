"""SemEval-2025 Task 4 and LUME (arXiv:2504.02883, 2502.15097): documents to continue, questions to answer.

A row's id encodes its kind, `<document><kind><digit>`: `sc` is the end of a document to continue, `qa` a question about
it. The ids of Task1's documents are wrapped in literal quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet, qa_rows
from expunge.data.source import EXTENSIONS, load_raw, read_file
from expunge.data.table_files import Records

HUB_ID = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
TASKS = ("Task1", "Task2", "Task3")
KINDS = {"sc": "regurgitation", "qa": "knowledge"}
SIDES = ("forget", "retain")
SPLITS = ("train", "validation", "all")  # all: a folder with the forget and retain files themselves, as LUME's
MEMBERS = ("member", "nonmember")
Template = Literal["raw", "input_output"]
_SHARD = "-00000-of-00001"  # of a file on the hub
FORMATS = (".jsonl", ".json", ".parquet", ".csv")  # JSON lines before csv: equal rows, without ambiguous quotes
_ID = re.compile(r"(?P<document>.+)(?P<kind>sc|qa)[0-9]", re.DOTALL)


def parse_id(row_id: str) -> tuple[str, str]:
    """Return a row's document and kind ("sc" or "qa"). Raises DataError for an id of another format."""
    match = _ID.fullmatch(row_id)
    if match is None:
        raise DataError(f"id {row_id!r}: expected <document>sc<digit> or <document>qa<digit>")
    return match["document"].strip('"'), match["kind"]


def load_semeval(root: str, split: str) -> dict[str, ExampleSet]:
    """Load `forget` and `retain` of a split, from a local folder or a hub id.

    A folder contains `SPLIT/forget.jsonl` (or csv, parquet), or `forget_SPLIT-00000-of-00001.parquet` (also under
    `data/`, as on the hub), or for the split "all" `forget.jsonl`. A row's meta has id, document, kind and task. Raises
    ConfigError for another split, DataError for data that are missing, malformed or on both sides.
    """
    if split not in SPLITS:
        raise ConfigError(f"forget_split={split}: SemEval-2025 Task 4 has no such split{nearest(split, SPLITS)}")
    return _sides({side: _side(root, side, split) for side in SIDES})


def load_sides(folders: Mapping[str, str]) -> dict[str, ExampleSet]:
    """Load `forget` and `retain` from a folder or a file each, as in the interface of the task's organisers.

    A folder has `forget.parquet` or `forget.jsonl` (or `retain.*`), or the hub's files, of which those of the split
    `train` are read, never those of `validation`; also under `data` or `train`. Several files of a side must have the
    same rows. Raises DataError.
    """
    return _sides({side: (read_file(file), str(file)) for side, file in side_files(folders).items()})


def side_files(folders: Mapping[str, str]) -> dict[str, Path]:
    """Return the file that `load_sides` reads for each side. Raises DataError."""
    return {side: _file_of(Path(folders[side]).expanduser(), side) for side in SIDES}


def _file_of(place: Path, side: str) -> Path:
    """Return the file of a side's rows: the file itself, or the one in a folder. Raises DataError."""
    if place.is_file():
        return place
    if not place.is_dir():
        raise DataError(f"{side} rows: {place} is no folder, and no file of rows")
    validation = ""
    for folder in (place, place / "data", place / "train"):
        files = sorted(p for p in folder.glob(f"{side}*") if p.suffix in EXTENSIONS and p.is_file())
        named = [p for p in files if p.stem == side or p.name.startswith(f"{side}_train")]
        others = [p for p in files if not p.name.startswith(f"{side}_validation")]
        validation = validation or next((p.name for p in files if p not in others), "")
        files = named or others
        if len(files) == 1 or (named and len({_content(p) for p in named}) == 1):
            return min(files, key=lambda p: FORMATS.index(p.suffix) if p.suffix in FORMATS else len(FORMATS))
        if files:
            names = ", ".join(p.name for p in files)
            raise DataError(f"{folder}: expected one file of {side} rows, got: {names}; name the file")
    more = f" ({validation} is for validation)" if validation else ""
    raise DataError(f"{place}: expected one file of {side} rows, got: no file {side}.jsonl, {side}.parquet, ...{more}")


def _content(file: Path) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a file as texts, to compare files."""
    return tuple(tuple(str(row.get(key)) for key in ("id", "task", "input", "output")) for row in read_file(file))


def has_validation(place: str) -> bool:
    """Return whether a folder has validation rows of both sides, next to those for training."""
    folder = Path(place).expanduser()
    stems = [[f / f"{s}_validation{end}" for s in SIDES] for f in (folder, folder / "data") for end in ("", _SHARD)]
    stems.append([folder / "validation" / side for side in SIDES])
    return folder.is_dir() and any(all(_there(s.parent, s.name) for s in both) for both in stems)


def _sides(raw: Mapping[str, tuple[Records, str]]) -> dict[str, ExampleSet]:
    """Return the rows of both sides. Raises DataError for a document that is on both."""
    sets = {side: _rows(records, side, place) for side, (records, place) in raw.items()}
    places = {side: place for side, (_, place) in raw.items()}
    documents = {row.meta["document"]: row.row_id for row in sets["retain"]}
    for row in sets["forget"]:
        if row.meta["document"] in documents:
            raise DataError(
                f"{places['forget']} row {row.row_id}: its document {row.meta['document']} is also that of "
                f"{places['retain']} row {documents[row.meta['document']]}; a document cannot be on both sides"
            )
    return sets


def with_template(sets: Mapping[str, ExampleSet], template: Template) -> dict[str, ExampleSet]:
    """Return the rows as training reads them.

    "raw": input, blank, output. "input_output": the text of a participant's pipeline, "### Input: ...", a line break,
    " ### Output: ..." . The official evaluation always uses the raw input.
    """
    if template == "raw":
        return dict(sets)
    return {
        side: replace(
            rows, rows=tuple(replace(r, question=f"### Input: {r.question}\n ### Output:") for r in rows.rows)
        )
        for side, rows in sets.items()
    }


def by_term(sets: dict[str, ExampleSet]) -> dict[str, ExampleSet]:
    """Return the rows of each side, task and kind, if there are any, as `forget_Task1_regurgitation`, ..."""
    out = {}
    for side in SIDES:
        for task in TASKS:
            for kind, score in KINDS.items():
                rows = [r for r in sets[side] if (r.meta["task"], r.meta["kind"]) == (task, kind)]
                if rows:
                    out[f"{side}_{task}_{score}"] = _renumbered(f"{side}_{task}_{score}", rows)
    return out


def load_members(root: str, split: str, *, named: bool, among: ExampleSet | None = None) -> dict[str, ExampleSet]:
    """Return the documents of the membership attack, `member` and `nonmember`: whole texts, without prompt.

    They are in `root` itself, in `mia` or in `mia_data/SPLIT`; otherwise the result is empty, or with `named` (the user
    named this very folder) a DataError. among: limits the members to documents of these rows; a DataError if none is.
    """
    base = Path(root).expanduser()
    for folder in (base, base / "mia", base / "mia_data" / split, base / split):
        files = [_there(folder, name) for name in MEMBERS]
        if all(files):
            known = {"member": {r.meta["document"] for r in among}} if among is not None else {}
            both = zip(MEMBERS, files, strict=True)
            return {name: _documents(name, file, known.get(name)) for name, file in both if file}
    if named:
        raise DataError(f"data.args.mia={root}: no member and nonmember files there, in mia/ or in mia_data/{split}/")
    return {}


def first_documents(sets: dict[str, ExampleSet], most: int) -> dict[str, ExampleSet]:
    """Return the rows of the first `most` documents of each task and side, for a quick run."""
    out = {}
    for side, rows in sets.items():
        documents: dict[str, dict[str, None]] = {task: {} for task in TASKS}
        for row in rows:
            if len(documents[row.meta["task"]]) < most:
                documents[row.meta["task"]][row.meta["document"]] = None
        out[side] = _renumbered(side, [r for r in rows if r.meta["document"] in documents[r.meta["task"]]])
    return out


def _side(root: str, side: str, split: str) -> tuple[Records, str]:
    base = Path(root).expanduser()
    if not base.is_dir():
        return load_raw(root, split=side if split == "all" else f"{side}_{split}")
    names = [(base, side)] if split == "all" else [(base / split, side)]
    if split != "all":
        stem = f"{side}_{split}"
        names += [(f, n) for f in (base, base / "data") for n in (stem, f"{stem}{_SHARD}")]
    for folder, name in names:
        file = _there(folder, name)
        if file is not None:
            return read_file(file), str(file)
    looked = ", ".join(str((folder / name).relative_to(base)) for folder, name in names)
    raise DataError(f"{base}: no {side} rows of the split {split}: looked for {looked} ({', '.join(EXTENSIONS)})")


def _there(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{extension}" for extension in FORMATS)
    return next((path for path in candidates if path.is_file()), None)


def _rows(raw: Records, side: str, where: str) -> ExampleSet:
    parsed = qa_rows(raw, name=side, where=where, question_key="input", answer_key="output")
    rows, ids = [], dict[str, int]()
    for row, record in zip(parsed, raw, strict=True):
        place = f"{where} row {row.row_id}"
        for key in ("id", "task"):
            if not isinstance(record.get(key), str):
                near = "" if key in record else nearest(key, record)
                raise DataError(f"{place}: '{key}' must be text, got {record.get(key)!r}{near}")
        if record["task"] not in TASKS:
            raise DataError(f"{place}: task {record['task']!r}{nearest(record['task'], TASKS)}")
        try:
            document, kind = parse_id(record["id"])
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        if record["id"] in ids:
            raise DataError(f"{place}: the id {record['id']!r} is also that of row {ids[record['id']]}")
        ids[record["id"]] = row.row_id
        meta = {"id": record["id"], "document": document, "kind": kind, "task": record["task"]}
        rows.append(Example(row.row_id, row.question, row.answers, meta=meta))
    return ExampleSet(side, tuple(rows), "completion")


def _documents(name: str, file: Path, known: set[str] | None) -> ExampleSet:
    """Return documents of a file; known: only those whose id is in this set."""
    records = [r for r in read_file(file) if known is None or _document_id(str(r.get("id", ""))) in known]
    if not records:
        raise DataError(f"data.args.members=forget: no document in {file} is one of the forget rows'")
    raw = [{"question": name, "document": record.get("document")} for record in records]
    parsed = qa_rows(raw, name=name, where=str(file), answer_key="document")
    return ExampleSet(name, tuple(Example(r.row_id, "", {ANSWER: r.answer}) for r in parsed), "text")


def _document_id(member_id: str) -> str:
    """Return the document of a member's id, which is a row's id or the document's own."""
    return parse_id(member_id)[0] if _ID.fullmatch(member_id) else member_id.strip('"')


def _renumbered(name: str, rows: Sequence[Example]) -> ExampleSet:
    return ExampleSet(
        name, tuple(Example(i, r.question, r.answers, meta=r.meta) for i, r in enumerate(rows)), "completion"
    )
