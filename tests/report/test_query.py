"""Results as tables to query: the lines, the means over seeds, and their text forms."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import t as student_t

from expunge.core.errors import ConfigError, DataError
from expunge.pipelines.study.grid_reports import in_one
from expunge.report.model import ReportModel
from expunge.report.query import LIMITS, RESULTS, _student, query, read_results, results_table, to_text, write_results


def test_every_number_of_every_run_is_a_line(model: ReportModel) -> None:
    lines = results_table(model).to_pylist()
    npo = [x for x in lines if x["label"] == "npo" and x["seed"] == "1"]
    assert {x["metric"]: x["value"] for x in npo}["forget_quality.ks_distance"] == 0.75
    (rouge,) = (x for x in npo if x["metric"] == "forget_Q_A_ROUGE")
    assert (rouge["value"], rouge["reason"]) == (None, "generation was switched off")
    (ratio,) = (x for x in npo if x["metric"] == "forget_truth_ratio")
    assert (ratio["ci_low"], ratio["ci_high"]) == (0.4375, 0.5625)


def test_means_over_seeds_have_a_student_interval(model: ReportModel) -> None:
    result = query(results_table(model), "SELECT * FROM means WHERE label = 'npo' AND metric = 'model_utility'")
    (row,) = result.to_dict("records")
    # 0.5 and 0.375: mean 0.4375, sd 0.125 / sqrt 2; the 97.5 % quantile of Student's t with one degree is 12.7062
    assert (row["n"], row["mean"]) == (2, 0.4375)
    assert row["sd"] == pytest.approx(0.125 / math.sqrt(2), rel=1e-12)
    assert row["ci_high"] - row["mean"] == pytest.approx(12.706204736432095 * 0.125 / 2, rel=1e-9)
    (alone,) = query(
        results_table(model), "SELECT * FROM means WHERE label = 'ga' AND metric = 'model_utility'"
    ).to_dict("records")
    assert (alone["n"], alone["mean"]) == (1, 0.125)
    assert math.isnan(alone["ci_low"]) and row["interval"] == "seeds" and alone["interval"] is None


def test_the_interval_of_a_single_seed_is_over_its_rows(model: ReportModel) -> None:
    sql = "SELECT * FROM means WHERE label = 'ga' AND metric = 'forget_truth_ratio'"
    (alone,) = query(results_table(model), sql).to_dict("records")
    assert (alone["n"], alone["ci_low"], alone["ci_high"], alone["interval"]) == (1, 0.4375, 0.5625, "rows")


def test_values_without_a_type_of_ours_are_text() -> None:
    sql = (
        "SELECT '1f0e6b3a-0000-4000-8000-000000000001'::UUID AS id, 'x'::BLOB AS part, [1, NULL] AS list, NULL AS list"
    )
    frame = query(RESULTS.empty_table(), sql)
    (row,) = json.loads(to_text(frame, "json"))
    assert row == {"id": "1f0e6b3a-0000-4000-8000-000000000001", "part": "b'x'", "list": [1.0, None], "list_1": None}


def test_the_file_and_back(model: ReportModel, tmp_path: Path) -> None:
    path = write_results(model, tmp_path / "a")
    assert read_results([path]).equals(results_table(model))
    assert read_results([path, path]).num_rows == 2 * results_table(model).num_rows
    bad = tmp_path / "bad.parquet"
    bad.write_text("no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet: not a table of results"):
        read_results([bad])
    pq.write_table(pa.table({"study": ["x"]}), bad)
    with pytest.raises(DataError, match=r"bad\.parquet: not a table of results"):
        read_results([bad])
    pq.write_table(results_table(model).drop_columns("cell"), path)  # as files were before there was such a column
    assert read_results([path]).equals(results_table(model))


def test_cells_of_a_grid_can_be_asked_for(model: ReportModel) -> None:
    both = in_one({"forget01": model, "forget05": model})
    requests = (
        "SELECT cell, label, n FROM means WHERE metric = 'model_utility' AND cell = 'forget05' AND label LIKE '%npo'"
    )
    assert query(results_table(both), requests).to_dict("records") == [
        {"cell": "forget05", "label": "forget05/npo", "n": 2}
    ]
    assert results_table(model)["cell"].null_count == results_table(model).num_rows


@pytest.mark.parametrize(
    "sql",
    ["SELECT nothing FROM results", "SELEC", "SELECT * FROM read_csv('/etc/passwd')", "COPY results TO 'here.csv'"],
)
def test_a_wrong_query_is_one_line_and_reaches_no_file(
    model: ReportModel, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^--query: ") as error:
        query(results_table(model), sql)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_text_forms_keep_markup_harmless_and_gaps_empty(model: ReportModel) -> None:
    frame = query(
        results_table(model), "SELECT label, value FROM results WHERE metric = 'model_utility' AND role = 'unlearn'"
    )
    assert to_text(frame, "csv").splitlines()[0] == "label,value"
    assert "\\|x | |".replace(" | |", " |  |") in to_text(frame, "markdown")
    assert "<script" not in to_text(frame, "markdown")
    assert "npo & 0.5 \\\\" in to_text(frame, "latex")
    assert json.loads(to_text(frame, "json"))[0] == {"label": "npo", "value": 0.5}


def test_no_form_for_programs_loses_digits(model: ReportModel) -> None:
    frame = query(results_table(model), "SELECT 0.001879101503938e0::DOUBLE AS x")
    assert json.loads(to_text(frame, "json")) == [{"x": 0.001879101503938}]
    assert to_text(frame, "csv").splitlines()[1] == "0.001879101503938"


def test_an_unknown_table_is_told_those_there_are(model: ReportModel) -> None:
    with pytest.raises(ConfigError, match=r"nothing does not exist! \(the tables are results and means\)$"):
        query(results_table(model), "SELECT * FROM nothing")


@pytest.mark.parametrize("sql", [";", "-- nothing", "SELECT 1; SELECT 2", "; ;"])
def test_a_query_is_one_statement(model: ReportModel, sql: str) -> None:
    with pytest.raises(ConfigError, match=r"^--query: must be one SQL statement, got \d"):
        query(results_table(model), sql)


ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"


@pytest.mark.parametrize("sql", [ENDLESS, "SELECT count(*) FROM range(1000000) a, range(1000000) b"])
def test_a_query_has_a_time_limit(model: ReportModel, sql: str) -> None:
    with pytest.raises(ConfigError, match=r"^--query: does not end within 0.5 s; select fewer rows") as error:
        query(results_table(model), sql, limits=dataclasses.replace(LIMITS, wall_s=0.5))
    assert "\n" not in str(error.value)


def test_a_query_ends_at_ctrl_c(model: ReportModel) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    key = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        key.start()
        with pytest.raises(KeyboardInterrupt):
            query(results_table(model), ENDLESS)
    finally:
        key.cancel()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 3000000000)",
        "SELECT string_agg(repeat('x', 1000)) FROM range(3000000)",
        "SELECT list(a.i) FROM range(100000000) a(i)",
        "WITH RECURSIVE t(n, s) AS (SELECT 1, 'x' UNION ALL SELECT n + 1, s || s FROM t) SELECT max(len(s)) FROM t",
    ],
)
def test_a_query_has_a_memory_limit(model: ReportModel, sql: str) -> None:
    with pytest.raises(ConfigError, match=r"^--query: needs more than 1024 MB of memory; select fewer rows") as error:
        query(results_table(model), sql)
    assert "\n" not in str(error.value)


def test_the_texts_of_a_result_have_a_limit(model: ReportModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.report.query.BYTES", 2 << 20)
    for sql in ("SELECT repeat('x', 3000000)", "SELECT repeat('x', 100) FROM range(300000)"):
        with pytest.raises(ConfigError, match=r"^--query: the result has more than 2 MB; select fewer rows"):
            query(results_table(model), sql)


@pytest.mark.slow
def test_a_query_cannot_raise_its_limits_or_write_files(
    model: ReportModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert query(results_table(model), "SELECT current_setting('temp_directory') AS x")["x"][0] == ""
    with pytest.raises(ConfigError, match=r"^--query: needs more than 1024 MB"):  # sorting would spill to a file
        query(results_table(model), "SELECT * FROM range(300000000) t(a) ORDER BY hash(a)")
    assert not list(tmp_path.iterdir())


def test_a_query_whose_process_dies_is_one_line(model: ReportModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.report.query.run_limited", lambda *args, **how: None)
    with pytest.raises(ConfigError, match=r"^--query: DuckDB ended without an answer"):
        query(results_table(model), "SELECT 1")


def test_the_quantiles_are_those_of_student() -> None:
    table = _student(40).to_pydict()
    assert table["t"] == pytest.approx([student_t.ppf(0.975, n - 1) for n in table["n"]], rel=1e-14)


def test_latex_has_a_limit() -> None:
    with pytest.raises(ConfigError, match=r"^--format latex: the result has 100001 rows; add LIMIT"):
        to_text(pandas.DataFrame({"a": range(100_001)}), "latex")


def test_the_rows_of_a_result_have_a_limit(model: ReportModel) -> None:
    with pytest.raises(ConfigError, match=r"^--query: the result has more than 2000000 rows; select fewer, or add LIM"):
        query(results_table(model), "SELECT 1 FROM range(3000000)")
    assert len(query(results_table(model), "SELECT 1 FROM range(100000)")) == 100_000


@pytest.mark.parametrize("style", ["csv", "latex", "markdown", "json"])
def test_lists_and_structs_are_values(model: ReportModel, style: str) -> None:
    frame = query(
        results_table(model), "SELECT label, list(value) AS v, {'n': count(*)} AS s FROM results GROUP BY label"
    )
    assert "npo" in to_text(frame, style)  # type: ignore[arg-type]


def test_csv_holds_no_formula(model: ReportModel) -> None:
    frame = query(results_table(model), "SELECT '=1+1' AS \"=head\", '  @x' AS b, -1.5 AS n, 'fine' AS c")
    assert to_text(frame, "csv") == "'=head,b,n,c\n'=1+1,'  @x,-1.5,fine\n"
