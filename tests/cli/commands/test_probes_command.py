"""`expunge data probes`: other questions about rows, from templates or a model, in a file that the audit reads."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.audits import write_probes
from expunge.audits.api import AuditInputs, make_audit
from expunge.data.custom import Columns, load_rows

Run = Callable[..., tuple[int, str, str]]
ROWS = [
    ("Where was Ada Lee born?", "Ada Lee was born in Tarn."),
    ("What does Ada Lee write?", "Ada Lee writes satire."),
]


@pytest.fixture
def rows(here: Path) -> Path:
    with open(here / "rows.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("question", "answer"), *ROWS])
    return here


def test_templates_write_a_file_that_the_audit_reads(rows: Path, expunge: Run) -> None:
    code, out, err = expunge("data", "probes", "--forget", "rows.csv", "--out", "probes.jsonl")
    assert code == 0, err
    records = [json.loads(line) for line in (rows / "probes.jsonl").read_text().splitlines()]
    counts = Counter(record["kind"] for record in records)
    assert counts == dict.fromkeys(("paraphrase", "alias", "reverse", "multi_hop", "multi_turn"), 2)
    alias = next(record for record in records if record["kind"] == "alias")
    assert alias == {"kind": "alias", "row": 0, "question": "Where was A. Lee born?", "answer": ROWS[0][1]}
    assert (
        "alias: 2 questions, such as: Where was A. Lee born?" in out and "expunge audit MODEL --forget rows.csv" in out
    )
    inputs = AuditInputs(load_rows("rows.csv", "forget", Columns()), None, None)
    plan = make_audit({"name": "generated", "file": "probes.jsonl"}).expand(inputs)
    assert {name: len(of) for name, of in plan.sets.items()} == {f"audit_generated_{kind}": 2 for kind in counts}


def test_a_model_writes_them_if_it_is_named(rows: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    def answers(model: Any, **settings: Any) -> list[dict[str, Any]]:
        calls.append((model, settings))
        return [{"kind": "reverse", "row": 0, "question": "Who was born in Tarn?", "answer": "Ada Lee"}]

    monkeypatch.setattr(write_probes, "write_probes", answers)
    words = ("data", "probes", "--forget", "rows.csv", "--out", "probes.jsonl", "--model", "owner/instruct")
    code, out, _ = expunge(*words, "--kinds", "reverse")
    assert code == 0 and "reverse: 1 questions, such as: Who was born in Tarn? -> Ada Lee" in out
    ((model, settings),) = calls
    assert model == "owner/instruct" and settings["kinds"] == ["reverse"] and len(settings["forget"]) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--kinds", "alia"), "--kinds: no template writes 'alia'; did you mean 'alias'?"),
        (("--kinds", "multi_hop", "--model", "a/b"), "--kinds: no model writes 'multi_hop'"),
        (("--model", "./gone"), "--model: no folder ./gone"),
        (("--question-column", "Q", "--answer-column", "A"), "no column 'Q'"),
        (("--out", "rows.csv"), "--out: rows.csv is an input (--forget)"),
    ],
)
def test_wrong_input_writes_nothing(rows: Path, expunge: Run, more: tuple[str, ...], message: str) -> None:
    code, _, err = expunge("data", "probes", "--forget", "rows.csv", "--out", "probes.jsonl", *more)
    assert code == 2 and message in err
    assert [path.name for path in rows.iterdir()] == ["rows.csv"]


def test_an_existing_file_is_not_overwritten_and_texts_have_no_questions(rows: Path, expunge: Run) -> None:
    (rows / "probes.jsonl").write_text("mine")
    code, _, err = expunge("data", "probes", "--forget", "rows.csv", "--out", "probes.jsonl")
    assert code == 2 and "--out: probes.jsonl exists" in err and (rows / "probes.jsonl").read_text() == "mine"
    (rows / "texts.txt").write_text("One text.\nAnother text.\n")
    code, _, err = expunge("data", "probes", "--forget", "texts.txt", "--out", "new.jsonl")
    assert code == 2 and "--forget: texts.txt contains texts without questions" in err
