"""Reports of a study some of whose stored files are damaged: what can be read is told, the rest is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import expunge as package
from expunge.cli.main import main
from expunge.engine.store import Store


def words(micro: list[str], folder: Path) -> list[str]:
    methods = "methods=[{trainer: GradAscent}, {trainer: NPO}]"
    return [
        *micro,
        methods,
        "audits=[{name: exposure, ways: [direct]}]",
        f"paths.store={folder}/store",
        f"paths.output_dir={folder}/out",
    ]


@pytest.fixture(scope="module")
def once(micro: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    assert package.load_study(words(micro, folder)).run().failures == {}
    return folder


def folder_of(study: package.StudyHandle, kind: str, label: str) -> Path:
    job = next(p.job for p in study.plan() if (p.job.kind, p.job.label) == (kind, label))
    return Store(Path(study.graph.study.paths.store)).path(job)


def change(path: Path, text: str) -> None:
    """Change a read-only file of the store."""
    path.chmod(0o644)
    path.write_text(text)


def test_a_damaged_record_of_a_measured_model(micro: list[str], once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    study = package.load_study(words(micro, tmp_path))
    change(folder_of(study, "unlearn", "NPO") / "job.json", '{"key": ')
    result = study.run()
    # its numbers were stored before, and stay
    assert [r.label for r in result.report.runs] == ["full", "retain", "GradAscent", "NPO"]
    assert [(m.label, "damaged" in m.reason) for m in result.report.missing] == [("unlearn NPO", True)]
    assert "NPO" in {run.label for run in study.stored().runs}


def test_damaged_texts_leave_out_one_model(micro: list[str], once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    study = package.load_study(words(micro, tmp_path))
    texts = folder_of(study, "records", "NPO") / "forget_eval.texts.parquet"
    texts.unlink()
    texts.write_bytes(b"no parquet")
    report = study.run().report
    # its metrics were computed from the undamaged texts
    assert [r.label for r in report.runs] == ["full", "retain", "GradAscent", "NPO"]
    (gaps,) = report.missing
    assert gaps.label == "records NPO" and "forget_eval.texts.parquet" in gaps.reason


@pytest.mark.parametrize(
    "damage", ["one digit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("not JSON", "a folder"))]
)
def test_a_damaged_results_file_leaves_out_one_model(
    micro: list[str], once: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    (file,) = folder_of(package.load_study(words(micro, tmp_path)), "metrics", "NPO").glob("*_EVAL.json")
    text = file.read_text()
    file.unlink()
    if damage == "a folder":  # unreadable
        file.mkdir()
    else:
        file.write_text(text.replace('"agg_value": 0.', '"agg_value": 1.') if damage == "one digit" else "{")
    for command in ("run", "report", "results"):
        assert main([command, *words(micro, tmp_path)]) == 1
        out = capsys.readouterr()
        assert file.name in "".join((out.out + out.err).split()) and "Traceback" not in out.err
    study = package.load_study(words(micro, tmp_path))
    assert {run.label for run in study.stored().runs} == {"full", "retain", "GradAscent"}
    assert list(study.damage) == ["metrics NPO"]


@pytest.mark.parametrize("written", ["{", "[]]", '[{"no": "reading"}]', "[3]"])
def test_a_damaged_audit_leaves_out_one_model(micro: list[str], once: Path, tmp_path: Path, written: str) -> None:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    study = package.load_study(words(micro, tmp_path))
    change(folder_of(study, "audit", "NPO exposure") / "audit.json", written)
    report = study.run().report
    assert {a.label for a in report.audits} == {"GradAscent"}
    (gaps,) = report.missing
    assert gaps.label == "audit NPO exposure" and "audit.json" in gaps.reason


def test_a_report_that_cannot_be_written_is_one_line(
    micro: list[str], once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", "out/report.html")

    monkeypatch.setattr("expunge.pipelines.study.grid_reports.write_reports", refuse)
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    assert main(["run", *words(micro, tmp_path)]) == 1
    assert capsys.readouterr().err == "expunge: error: cannot write out/report.html: Permission denied\n"
