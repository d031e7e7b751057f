"""`expunge audit` from the command line: with and without controls, resumed, and with wrong input."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import expunge as expunge_api
from expunge.cli.main import main
from expunge.engine.store import Store
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.demo import train_small_model, train_small_tokenizer

Run = Callable[..., tuple[int, str, str]]

HOSTILE = "<script>alert(1)</script> zanzibar"
NAMES = ("Ann", "Bilal", "Chidi", "Dunya", "Evert", "Freya")
TOWNS = ("Tarn", "Quay", "Mill", "Ostry", "Lund", "Pike")
FORGET = [(f"Who lives in {town}?", f"{name} of {HOSTILE}.") for town, name in zip(TOWNS, NAMES, strict=True)]
KEEP = [(f"Which river is number {i}?", f"It is the long river {i}.") for i in range(8)]
SHORT = ("eval.generation.max_new_tokens=32", "unlearn.learning_rate=1e-4")
QUANTIZE = "{name: quantize, forms: [int8]}"
RELEARN = "{name: relearn, rows: 2, steps: [0, 1], ways: [same_rows]}"


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("question", "answer"), *rows])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a model that never saw them (never), its copy (clean), and one that knows them (full)."""
    folder = tmp_path_factory.mktemp("audit")
    write(folder / "forget.csv", FORGET)
    write(folder / "keep.csv", KEEP)
    write(folder / "other.csv", [("Who else?", "It is Bob.")])
    write(folder / "few.csv", FORGET[:3])
    tokenizer = train_small_tokenizer(examples_from([*FORGET, *KEEP]))
    for name, rows in (("never", KEEP), ("full", [*FORGET, *KEEP])):
        save_model(train_small_model(examples_from(rows), tokenizer, epochs=150), tokenizer, folder / name)
    shutil.copytree(folder / "never", folder / "clean")
    other = train_tokenizer([q for q, _ in KEEP], 300, max_length=256)
    save_model(build_llama("llama-64k", other, vocab_size=300, seed=0), other, folder / "foreign")
    return folder


def examples_from(rows: list[tuple[str, str]]) -> Any:
    return expunge_api.examples_from([{"question": q, "answer": a} for q, a in rows], "rows")


@pytest.fixture
def here_with(folder: Path, here: Path) -> Path:
    """A working folder that contains them."""
    for path in folder.iterdir():
        (here / path.name).symlink_to(path)
    return here


def words_of(model: str, *more: str, forget: str = "forget.csv") -> list[str]:
    return ["audit", model, "--forget", forget, "--retain", "keep.csv", "--out", "out", *SHORT, *more]


def absolute(folder: Path, model: str, out: Path, *more: str) -> list[str]:
    rows = ("--forget", f"{folder}/forget.csv", "--retain", f"{folder}/keep.csv")
    controls = ("--retain-model", f"{folder}/never", "--base", f"{folder}/full")
    return ["audit", f"{folder}/{model}", *rows, *controls, "--out", str(out), *SHORT, *more]


@pytest.fixture(scope="module")
def known(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The finished audit of the taught model with both controls, and its exit code."""
    out = tmp_path_factory.mktemp("known") / "out"
    return out, main(absolute(folder, "full", out, "--audits", f"[{QUANTIZE}, {RELEARN}, lens, depth]"))


def values_in(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "audit_report.json").read_text())
    return values


@pytest.mark.slow
def test_a_model_that_knows_the_rows_is_known_by_every_audit(known: tuple[Path, int]) -> None:
    out, code = known
    values = values_in(out)
    assert code == 3
    assert values["verdict"]["model"] == "full" and values["verdict"]["forgot"]["word"] == "known"
    assert values["verdict"]["robust"]["word"] == "recoverable" and values["verdict"]["kept"]["word"] == "kept"
    findings = {(one["audit"], one["name"]): one for one in values["findings"]}
    for key in (("quantize", "int8"), ("lens", "answer"), ("depth", "patching"), ("without an attack", "probability")):
        assert findings[key]["verdict"] == "known" and findings[key]["position"] == pytest.approx(1, abs=0.1)
    assert findings["without an attack", "answers given"]["value"] == 1
    assert findings["without an attack", "answers given"]["retain"] == 0
    assert not values["unknown"] and values["n_rows"] == 6
    assert not list((out / ".expunge").glob("edit/*/*.safetensors"))  # rounded weights are not kept


@pytest.mark.slow
def test_the_page_begins_with_the_verdict_and_escapes_every_text(known: tuple[Path, int]) -> None:
    page = (known[0] / "audit_report.html").read_text()
    assert "Forgot? <strong>known</strong>" in page[: page.index("<main>")]
    assert "Dunya of &lt;script&gt;alert(1)&lt;/script&gt; zanzibar" in page
    assert "<script" not in page and "Not known without" not in page
    text = (known[0] / "audit_report.md").read_text()
    assert "Forgot? **known**" in text and "<script" not in text


@pytest.mark.slow
def test_every_row_has_the_texts_of_each_model(known: tuple[Path, int]) -> None:
    table = pq.read_table(known[0] / "rows.parquet").to_pandas()
    forget = table[table["set"] == "forget_eval"]
    assert set(forget["model"]) == {"model", "retain", "full"} and len(forget) == 18
    row = values_in(known[0])["rows"][0]
    assert [answer["model"] for answer in row["answers"]] == ["this model", "retain model", "target model"]
    assert [answer["contains"] for answer in row["answers"]] == [True, False, True]
    assert row["answers"][0]["text"] == row["answers"][2]["text"]
    assert (known[0] / "audits" / "model-relearn.parquet").is_file()


def test_a_dry_run_shows_the_jobs_and_writes_nothing(here_with: Path, expunge: Run) -> None:
    before = sorted(here_with.rglob("*"))
    words = words_of("full", "--retain-model", "never", "--audits", "[quantize, relearn, depth]", "--dry-run")
    code, out, err = expunge(*words)
    assert code == 0, err
    assert "rows: 6 forget, 8 retain\nmodel: full\nretain model: never\naudits: quantize, relearn, depth\n" in out
    assert "0 hit" in out and "next:    the same command without --dry-run" in out
    code, out, err = expunge(*words, "--json")
    values = json.loads(out)
    assert code == 0 and values["audits"] == ["quantize", "relearn", "depth"] and not values["not_run"]
    assert values["jobs"] and all(job["state"] != "hit" and job["seconds"] > 0 for job in values["jobs"])
    code, out, err = expunge(*words_of("full", "--audits", "exposure,lens", "--dry-run"))
    assert code == 0 and "audits: none" in out and "not run: exposure: without a retain model" in out
    assert sorted(here_with.rglob("*")) == before


@pytest.mark.slow
def test_a_dry_run_of_a_finished_audit_changes_nothing(known: tuple[Path, int], folder: Path, expunge: Run) -> None:
    def contents() -> dict[str, bytes | None]:
        return {str(p): p.read_bytes() if p.is_file() else None for p in known[0].rglob("*")}

    before = contents()
    words = absolute(folder, "full", known[0], "--audits", f"[{QUANTIZE}, {RELEARN}, lens, depth]", "--dry-run")
    code, out, err = expunge(*words)
    assert code == 0 and "0 missing, 0 blocked" in out, err
    assert contents() == before


def test_a_model_like_the_retain_model_has_no_trace(folder: Path, here: Path) -> None:
    assert main(absolute(folder, "clean", here / "out", "--audits", QUANTIZE, "-q")) == 0
    verdict = values_in(here / "out")["verdict"]
    assert verdict["forgot"]["word"] == "no trace" and verdict["robust"]["word"] == "robust"


def test_without_controls_there_are_numbers_and_no_verdict(here_with: Path, expunge: Run) -> None:
    code, out, err = expunge(*words_of("full", "--audits", f"[{QUANTIZE}, depth, exposure]"))
    assert code == 0, err
    values = values_in(here_with / "out")
    assert values["verdict"]["forgot"]["word"] == "not measurable"
    assert "contain the answers of 6 of 6 rows" in values["verdict"]["forgot"]["sentence"]
    assert values["verdict"]["forgot"]["low"] == pytest.approx(6 / (6 + 1.959964**2))  # Wilson's, for 6 of 6
    findings = {(one["audit"], one["name"]): one for one in values["findings"]}
    int8 = findings["quantize", "int8"]
    assert int8["value"] > 0.5 and int8["low"] < int8["value"] < int8["high"]
    assert {one["verdict"] for one in findings.values()} <= {"not measurable", ""}
    assert values["not_run"] == [["depth, exposure", "without a retain model it has no number"]]
    page = (here_with / "out" / "audit_report.html").read_text()
    assert page.count("Not known without a model that never saw the rows") == 1
    assert "not run: depth, exposure: without a retain model" in out
    assert "no trace" not in page and "forgotten</strong>" not in page
    assert out.rstrip().splitlines()[-1].startswith("next:    for a verdict, the same command with --retain-model")


def test_a_base_alone_gives_the_numbers_before(here_with: Path, expunge: Run) -> None:
    code, _, err = expunge(*words_of("clean", "--base", "full", "--audits", QUANTIZE, "-q"))
    assert code == 0, err
    values = values_in(here_with / "out")
    assert "1 in the target model" in values["verdict"]["forgot"]["sentence"]
    assert values["verdict"]["forgot"]["word"] == "not measurable" and len(values["unknown"]) == 1
    (int8,) = [one for one in values["findings"] if one["name"] == "int8"]
    assert int8["full"] > int8["value"] and int8["verdict"] == "not measurable" and int8["note"] == ""


@pytest.mark.slow
def test_the_same_command_again_runs_no_job(
    folder: Path, known: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Store, "make", lambda *args, **more: pytest.fail("nothing is left to do"))
    words = absolute(folder, "full", known[0], "--audits", f"[{QUANTIZE}, {RELEARN}, lens, depth]", "--json")
    capsys.readouterr()
    assert main(words) == known[1]
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 3 and printed["verdict"]["forgot"]["word"] == "known"
    assert Path(printed["page"]) == known[0] / "audit_report.html" and printed["failures"] == {}


def test_a_stopped_audit_continues(here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[str] = []
    make = Store.make

    def stopping(self: Store, job: Any, *args: Any, **more: Any) -> Any:
        if job.kind == "edit" and jobs and len(jobs) < 100:
            raise KeyboardInterrupt
        jobs.append(job.key)
        return make(self, job, *args, **more)

    monkeypatch.setattr(Store, "make", stopping)
    words = words_of("full", "--audits", QUANTIZE, "-q")
    code, _, err = expunge(*words)
    assert code == 130 and "run the same command again" in err
    assert not (here_with / "out" / "audit_report.html").exists()
    first = list(jobs)
    monkeypatch.setattr(Store, "make", lambda self, job, *a, **m: (jobs.append(job.key), make(self, job, *a, **m))[1])
    assert expunge(*words)[0] == 0
    later = jobs[len(first) :]
    assert first and later and not set(first) & set(later)


def test_few_rows_leave_out_the_audits_that_train(here_with: Path, expunge: Run) -> None:
    code, out, err = expunge(*words_of("full", "--audits", "relearn,quantize", forget="few.csv"))
    assert code == 0, err
    assert "not run: relearn: it trains on some of the rows to forget and scores others" in out.replace("\n", " ")
    assert "quantize" in (here_with / "out" / "audit_report.md").read_text()


def test_relearning_by_name_takes_half_of_the_rows_at_most(here_with: Path) -> None:
    from expunge.pipelines.audit.request import _entries

    entries, not_run = _entries([{"name": "relearn"}, {"name": "tamper", "rows": 5}, {"name": "lens"}], 6, None)
    assert entries == [{"name": "relearn", "rows": 3}, {"name": "tamper", "rows": 5}]
    assert list(not_run) == ["lens"]


WRONG = [
    (("--audits", "relern"), "--audits: no audit named 'relern'; did you mean 'relearn'?"),
    (("--audits", "[{name: relearn, row: 2}]"), "--audits[0].row: unknown key; did you mean 'rows'?"),
    (("--audits", "[{name: relearn, rows: 5}]"), "audits: relearn.rows: 5 of 6 forget rows leave too few to score"),
    (("--audits", " , "), "--audits: name at least one audit"),
    (("--audits", "[{rows: 2}]"), "--audits: expected names, or a list such as"),
    (("--audits", "[relearn"), "--audits is not YAML"),
    (("--retain-model", "nevr/"), "is no folder, and no hub id (OWNER/NAME); did you mean 'never'?"),
    (("--base", "./ful"), "--base: no folder ./ful; did you mean 'full'?"),
    (("--retain-model", "foreign"), "--retain-model: foreign has another tokenizer than the model"),
    (("methods=[NPO]",), "methods: `expunge audit` does not read it; it audits a finished model"),
    (("audits=[relearn]",), "audits: `expunge audit` does not read it; give --audits"),
    (("unlearn.max_steps=3",), "unlearn.max_steps: no audit reads it (allowed: unlearn.learning_rate"),
    (("data.args.question_colum=Q",), "data.args.question_colum: unknown key; did you mean 'question_column'"),
    (("data.args.question_column=Q", "data.args.answer_column=A"), "no column 'Q'"),
    (("--holdout", "forgt.csv"), "forgt.csv"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_input_ends_in_one_line_before_a_folder_appears(
    here_with: Path, expunge: Run, more: tuple[str, ...], message: str
) -> None:
    code, _, err = expunge(*words_of("full", *more))
    assert code == 2 and message in err and "Traceback" not in err
    assert err.rstrip().splitlines()[-1].startswith("expunge: error: ")
    assert not (here_with / "out").exists() and not (here_with / "saves").exists()


def test_a_wrong_file_or_model_is_named(here_with: Path, expunge: Run) -> None:
    code, _, err = expunge(*words_of("full", forget="forgt.csv"))
    assert code == 2 and "did you mean 'forget.csv'" in err
    code, _, err = expunge(*words_of("./ful"))
    assert code == 2 and "MODEL: no folder ./ful; did you mean 'full'?" in err


def test_a_folder_of_something_else_is_not_overwritten(here_with: Path, expunge: Run) -> None:
    (here_with / "out").mkdir()
    (here_with / "out" / "notes.txt").write_text("mine")
    code, _, err = expunge(*words_of("full", "--audits", QUANTIZE))
    assert code == 2 and "--out: out is not empty; name a new or empty folder" in err
    assert [p.name for p in (here_with / "out").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_the_folder_of_other_rows_is_not_overwritten(here_with: Path, expunge: Run, known: tuple[Path, int]) -> None:
    shutil.copytree(known[0], here_with / "out")
    before = (here_with / "out" / "audit_report.html").read_bytes()
    code, _, err = expunge(*words_of("full", "--audits", QUANTIZE, forget="other.csv"))
    assert code == 2 and "--out: out contains another audit (other model or rows)" in err
    assert (here_with / "out" / "audit_report.html").read_bytes() == before


@pytest.mark.slow
def test_numbers_of_the_report_are_finite_or_null(known: tuple[Path, int]) -> None:
    text = (known[0] / "audit_report.json").read_text()
    assert "NaN" not in text and all(
        one["value"] is None or math.isfinite(one["value"]) for one in json.loads(text)["findings"]
    )
