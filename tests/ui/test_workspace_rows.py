"""Rows before and after: the answers of two models to the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from workspace_folder import HOSTILE, answers

from expunge.ui.routes import Routes
from expunge.ui.rows import N_ROWS, change_of, texts_of
from expunge.ui.workspace import scan

Make = Callable[[], Routes]


def test_the_change_from_one_text_to_another() -> None:
    assert change_of("born in Seville .", "born near Rome .") == (
        ("same", "born "), ("gone", "in"), ("added", "near"), ("same", " "), ("gone", "Seville"), ("added", "Rome"),
        ("same", " ."),
    )  # fmt: skip
    assert change_of("a b", "a b") == (("same", "a b"),)
    assert change_of("", "x") == (("added", "x"),) and change_of("x", "") == (("gone", "x"),)
    for before, after in (("a  b\nc", "a b"), ("x y z", "z y x")):
        pieces = change_of(before, after)
        assert "".join(text for kind, text in pieces if kind != "added") == before
        assert "".join(text for kind, text in pieces if kind != "gone") == after


def page(routes: Routes, address: str) -> tuple[HTTPStatus, str]:
    response = routes.find(address)
    assert response is not None
    return response.status, response.body.decode()


def test_two_models_of_a_store(saves: Path, routes: Make) -> None:
    one, other = next(s for s in scan([saves], []).studies if s.name == "first").models
    assert set(texts_of(one)) == {"forget_eval", "retain_eval"}
    status, text = page(routes(), f"/rows?a={one.id}&b={other.id}")
    assert status == HTTPStatus.OK and "first: NPO, seed 0" in text
    assert f"{N_ROWS + 5} rows; the answers of the two models differ in {N_ROWS + 5}" in text
    assert text.count("<article") == N_ROWS and "Page 1 of 2" in text
    assert "<del>NPO</del><ins>GradDiff</ins>" in text
    assert HOSTILE not in text and "&lt;script&gt;" in text
    _, last = page(routes(), f"/rows?a={one.id}&b={other.id}&page=1&set=forget_eval&q=")
    assert last.count("<article") == 5 and "Previous rows" in last
    _, few = page(routes(), f"/rows?a={one.id}&b={other.id}&q=QUESTION%2017%3F")
    assert few.count("<article") == 1
    _, far = page(routes(), f"/rows?a={one.id}&b={other.id}&page=99999")
    assert "Page 2 of 2" in far


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("a=x&b=y", "not in the workspace"),
        ("a=study-1&b=y", "choose models, not whole studies"),
        ("a={0}&b={1}&set=forget_evil", "did you mean &#39;forget_eval&#39;"),
        ("a={0}&b={2}", "no generations of the same rows"),
    ],
)
def test_rows_that_are_not_there(saves: Path, routes: Make, query: str, message: str) -> None:
    models = scan([saves], []).models
    status, text = page(routes(), "/rows?" + query.format(*(model.id for model in models)))
    assert status == HTTPStatus.BAD_REQUEST and message in text


def test_damaged_records_are_named(saves: Path, routes: Make) -> None:
    one, other = next(s for s in scan([saves], []).studies if s.name == "first").models
    (file,) = (saves / "store" / "records").glob("NPO-*/forget_eval.texts.parquet")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    status, text = page(routes(), f"/rows?a={one.id}&b={other.id}")
    assert status == HTTPStatus.CONFLICT and "its checksum is not the stored one" in text


def test_the_records_next_to_a_log(saves: Path) -> None:
    log = scan([saves], []).models[-1]
    folder = saves / "eval" / "before" / "records"
    folder.mkdir()
    pq.write_table(answers("before", 2), folder / "forget_eval.texts.parquet")
    assert [text.generation for text in texts_of(log)["forget_eval"].values()] == ["before says 0", "before says 1"]
    (folder / "forget_eval.texts.parquet").write_text(json.dumps("no table"))
    with pytest.raises(Exception, match="no table of generations"):
        texts_of(log)
