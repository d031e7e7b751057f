"""The workspace lists what is in the folders, and shows damage as damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from workspace_folder import HOSTILE, note

from expunge.ui import workspace as of
from expunge.ui.routes import OWN, REPORT, Routes
from expunge.ui.workspace import Workspace, scan

Make = Callable[[], Routes]


def by_name(workspace: Workspace) -> dict[str, of.StudyEntry]:
    return {study.name: study for study in workspace.studies}


def text(routes: Routes, address: str = "/") -> str:
    response = routes.find(address)
    assert response is not None
    return response.body.decode()


def test_it_finds_studies_models_pages_and_stores(saves: Path) -> None:
    result = scan([saves], [])
    first = by_name(result)["first"]
    assert set(by_name(result)) == {"first", f"second{HOSTILE.replace('/', '')}", "grid"}  # no link to a folder
    assert (first.state, first.n_models, first.methods) == ("done", 2, ("NPO", "GradDiff"))
    assert first.choice == "NPO is the choice: 94% [91%, 97%]."
    assert [model.name for model in first.models] == ["NPO, seed 0", "GradDiff, seed 0"]
    assert sorted((page.kind, page.title) for page in result.pages) == [
        ("audit", "given"), ("comparison", "a-b"), ("erasure", "erased"), ("inspect", "layers")
    ]  # fmt: skip
    assert [(store.kinds, store.damaged) for store in result.stores] == [({"metrics": 2, "records": 2}, ())]
    assert result.models[-1].name == "before"


def test_another_way_to_write_a_folder_adds_nothing(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saves.parent / "elsewhere").mkdir()
    (saves.parent / "link").symlink_to(saves)
    monkeypatch.chdir(saves.parent / "elsewhere")
    expected = scan([saves], [])
    for words in (["../{}"], ["../link"], ["../{}", "../link", "../elsewhere/../{}"]):
        result = scan([Path(word.format(saves.name)) for word in words], [Path(f"../{saves.name}/store")])
        assert sorted(study.name for study in result.studies) == sorted(study.name for study in expected.studies)
        assert len(result.models) == len(expected.models) and len(result.pages) == len(expected.pages)
        assert len(result.stores) == 1


def test_the_cells_of_a_grid_belong_to_it(saves: Path) -> None:
    page = by_name(scan([saves], []))["grid"].page
    assert page is not None and (page.kind, page.cells) == ("grid", 1)
    assert set(page.files) == {"report.html", "cells/a=1/report.html"}


def test_a_study_may_be_called_compare(saves: Path) -> None:
    (saves / "study" / "compare").mkdir()
    (saves / "study" / "compare" / "report.html").write_text("x")
    workspace = scan([saves], [])
    assert "compare" in by_name(workspace) and [p.title for p in workspace.pages if p.kind == "comparison"] == ["a-b"]


def test_a_store_alone_is_enough(saves: Path) -> None:
    result = scan([], [saves / "store"])
    assert [study.name for study in result.studies] == ["first"] and result.studies[0].page is not None


def test_a_note_cannot_name_a_page_or_a_result_elsewhere(saves: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "report.html").write_text("private")
    (outside / "X_EVAL.json").write_text("{}")
    note(saves / "store", outside, [["x", "unlearn", "", "../../elsewhere"], ["y", "unlearn", "", str(outside)]])
    study = by_name(scan([saves], []))["elsewhere"]
    assert study.page is None and study.models == ()


@pytest.mark.parametrize("way", ["link", "dots"])
def test_a_note_reaches_nothing_outside_by_another_way(saves: Path, tmp_path: Path, way: str) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "report.html").write_text("private")
    (saves / "away").symlink_to(outside)
    folder = saves / "away" if way == "link" else saves / ".." / "elsewhere"
    note(saves / "store", folder, [])
    studies = [study for study in scan([saves], []).studies if study.folder == folder]
    assert [study.page for study in studies] == [None]


@pytest.mark.parametrize("folder", ["relative", "/a\0b", ""])
def test_a_note_with_a_wrong_folder_is_damaged(saves: Path, folder: str) -> None:
    note(saves / "store", saves / "x", [], folder=folder)
    (store,) = scan([saves], []).stores
    assert ["folder" in line for line in store.damaged] == [True]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"state": "running"}, "running"),
        ({"state": "running", "process": "1"}, "stopped"),  # the number of the process is another one's now
        ({"state": "running", "pid": 2**22 + 1}, "stopped"),
        ({"state": "running", "host": "another"}, "running"),
        ({"state": "running", "host": "another", "updated": 1.0}, "stopped"),
        ({"state": "failed", "failed": 1}, "failed"),
    ],
)
def test_the_state_of_a_run(saves: Path, changes: dict[str, object], state: str) -> None:
    note(saves / "store", saves / "study" / "first", [], **changes)
    assert by_name(scan([saves], []))["first"].state == state


def test_a_running_study_is_shown_with_its_jobs(saves: Path, routes: Make) -> None:
    running = [["train full", 5, 33, 1.9]]
    note(saves / "store", saves / "study" / "new", [], state="running", done=3, left_s=65.0, running=running)
    live = json.loads(text(routes(), "/runs.json"))
    (run,) = live["runs"]
    assert (run["name"], run["done"], run["text"]) == ("new", 3, "3 of 20 jobs, about 1m 05s left")
    assert run["jobs"] == [{"name": "train full", "done": 5, "total": 33, "time": "2s"}]
    page = text(routes())
    assert "train full: 5 of 33" in page and "no report yet" in page
    assert live["mark"] in page


def test_a_study_whose_report_is_elsewhere_says_so(saves: Path, routes: Make, tmp_path: Path) -> None:
    """A store that was copied has notes of studies in other folders."""
    note(saves / "store", tmp_path / "other" / "study" / "far", [], state="done")
    page = text(routes())
    assert "its report is not in these folders" in page and "no report yet" not in page


def test_the_mark_changes_with_results_and_not_with_progress(saves: Path) -> None:
    new = saves / "study" / "new"
    note(saves / "store", new, [], state="running", done=3)
    mark = scan([saves], []).mark
    note(saves / "store", new, [], state="running", done=4)
    assert scan([saves], []).mark == mark
    note(saves / "store", new, [], state="done", done=20)
    assert scan([saves], []).mark != mark


def test_damage_is_shown_as_damage(saves: Path, routes: Make) -> None:
    (saves / "study" / "first" / "results.parquet").write_bytes(b"PAR1 cut")
    (record,) = (saves / "store" / "metrics").glob("NPO-*/job.json")
    record.chmod(0o644)
    record.write_text(record.read_text().replace("NPO", "NPX"))
    (saves / "store" / ".runs" / "cut.json").write_text("{")
    (next((saves / "store" / "metrics").glob("GradDiff-*")) / "job.json").unlink()
    result = scan([saves], [])
    assert by_name(result)["first"].state == "damaged" and "not a table" in by_name(result)["first"].damage
    (store,) = result.stores
    assert len(store.damaged) == 3
    assert any("cut.json" in line for line in store.damaged) and any(
        "lost its job.json" in line for line in store.damaged
    )
    page = text(routes())
    assert "3 damaged files" in page and "is damaged" in page


def test_a_damaged_result_is_not_compared(saves: Path, routes: Make) -> None:
    first = by_name(scan([saves], []))["first"]
    one, other = first.models
    one.file.chmod(0o644)
    one.file.write_text(one.file.read_text().replace("0.2", "0.3"))
    response = routes().find(f"/compare?a={one.id}&b={other.id}")
    assert response is not None and response.status == HTTPStatus.CONFLICT
    assert "its checksum is not the stored one" in response.body.decode()


def test_two_models_and_two_studies_are_compared(saves: Path, routes: Make) -> None:
    result = scan([saves], [])
    first = by_name(result)["first"]
    one, other = (model.id for model in first.models)
    page = text(routes(), f"/compare?a={one}&b={other}")
    assert "NPO, seed 0 and GradDiff, seed 0" in page and "+0.300" in page  # .5 - .2 in every row
    assert '<a href="/">Workspace</a>' in page and "<pre>" not in page
    whole = text(routes(), f"/compare?a=study-{first.id}&b=study-{first.id}")
    assert whole.count("+0.000") >= 2
    before = text(routes(), f"/compare?a={result.models[-1].id}&b={one}")
    assert "-0.700" in before


@pytest.mark.parametrize("query", ["", "?a=x&b=y", "?a=study-x", "?" + "&".join(f"a={k}" for k in range(20))])
def test_a_comparison_of_nothing_is_an_error_page(routes: Make, query: str) -> None:
    response = routes().find(f"/compare{query}")
    assert response is None or response.status == HTTPStatus.BAD_REQUEST


def test_nothing_of_a_file_is_markup(routes: Make) -> None:
    page = text(routes())
    assert HOSTILE not in page and "second&lt;script&gt;" in page


def test_pages_have_their_policies(saves: Path, routes: Make) -> None:
    here = routes()
    page = by_name(here.workspace())["first"].page
    assert page is not None
    report = here.find(f"/page/{page.id}/report.html")
    home = here.find("/")
    assert report is not None and home is not None
    assert (report.policy, home.policy) == (REPORT, OWN)
    assert "sandbox" in REPORT and "allow-same-origin" not in REPORT
    assert "unsafe" not in OWN and "default-src 'none'" in OWN
    assert "<script>" not in home.body.decode() and "<style" not in home.body.decode()  # the policy forbids both


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "secret.txt", "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "cells/../../secret.txt",
        "/etc/passwd", "//etc/passwd", "%00", "%ff", "report.html/", "REPORT.HTML", "report.html%00.png",
    ],
)  # fmt: skip
def test_only_listed_files_are_served(routes: Make, name: str) -> None:
    here = routes()
    for study in here.workspace().studies:
        assert study.page is not None
        assert here.find(f"/page/{study.page.id}/{name}") is None
        assert here.find(f"/page/{name}") is None


def test_an_erasure_key_is_not_served(saves: Path, routes: Make) -> None:
    here = routes()
    page = next(page for page in here.workspace().pages if page.kind == "erasure")
    assert here.find(f"/page/{page.id}/erasure_report.html") is not None
    assert here.find(f"/page/{page.id}/erasure_key.json") is None


def test_a_link_to_a_file_is_not_served(saves: Path, routes: Make) -> None:
    (saves / "study" / "first" / "table.csv").symlink_to(saves / "secret.txt")
    (saves / "study" / "first" / "cells").symlink_to(saves / "eval")
    page = by_name(scan([saves], []))["first"].page
    assert page is not None and set(page.files) == {"report.html", "results.md", "results.parquet"}
    here = routes()
    known = by_name(here.workspace())["first"].page
    assert known is not None
    (saves / "study" / "first" / "report.html").unlink()
    (saves / "study" / "first" / "report.html").symlink_to(saves / "secret.txt")  # after the look at the folder
    assert here.find(f"/page/{known.id}/report.html") is None


def test_too_many_folders_are_named(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of, "MOST_FOLDERS", 3)
    assert any("more than 3 folders" in problem for problem in scan([saves], []).problems)
