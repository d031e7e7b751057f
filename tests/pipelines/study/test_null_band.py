"""The spread of the retain models of several training seeds."""

from __future__ import annotations

from expunge.metrics.api import MetricResult, missing
from expunge.pipelines.study.results import counted, null_band
from expunge.report.model import ReportModel, ReportRun, SeedRange
from expunge.report.table import table
from expunge.report.text import to_csv, to_markdown


def ratios(*scores: float) -> MetricResult:
    return MetricResult(sum(scores) / len(scores), per_row={i: {"score": s} for i, s in enumerate(scores)})


def retain(seed: int, utility: float, *scores: float) -> ReportRun:
    results = {
        "model_utility": MetricResult(utility),
        "forget_truth_ratio": ratios(*scores),
        "forget_quality": missing("is the retain model"),
    }
    return ReportRun("retain", "retain", seed=seed, results=results)


RUNS = [
    retain(0, 0.5, 0.1, 0.2, 0.3, 0.4),
    retain(1, 0.7, 0.1, 0.2, 0.3, 0.4),
    retain(2, 0.6, 0.35, 0.5, 0.6, 0.7),
    ReportRun("npo", "unlearn", seed=0, results={"model_utility": MetricResult(0.1)}),
]


def test_lowest_highest_and_mean_of_the_retain_models() -> None:
    result = null_band(RUNS)
    assert result["model_utility"] == SeedRange(0.5, 0.7, 0.6, 3)
    assert "forget_quality" not in result
    # the first two are equal (0); three of four lie below all of the third's: .3 < .35 < .4, so 3/4, twice
    assert result["forget_quality.ks_distance"] == SeedRange(0.0, 0.75, 0.5, 3)


def test_one_retain_model_has_no_band_and_two_have_one_distance() -> None:
    assert null_band(RUNS[:1] + RUNS[3:]) == {}
    assert null_band(RUNS[1:3])["forget_quality.ks_distance"] == SeedRange(0.75, 0.75, 0.75, 2)


def test_the_band_stands_in_every_table() -> None:
    model = ReportModel("t", "s", "c", "d", {}, tuple(RUNS), null_band=null_band(RUNS))
    text = table(model)
    row = next(r for r in text.rows if r.kind == "band")
    keys = [c.key for c in text.columns]
    assert row.name == "retain models, lowest to highest (n=3)"
    assert row.cells[keys.index("ks_distance")].text == "0.000 to 0.750"
    assert "| 0.500 to 0.700 |" in to_markdown(model)
    lines = {line.split(",")[0]: line for line in to_csv(model).splitlines()}
    assert ",0.5," in lines["null_low"] and ",0.7," in lines["null_high"]
    plain = ReportModel("t", "s", "c", "d", {}, tuple(RUNS))
    assert not [r for r in table(plain).rows if r.kind == "band"]


def test_attacks_have_columns_where_there_are_attacks() -> None:
    attacked = ReportRun(
        "x",
        "full",
        results={"mia_min_k": MetricResult(0.9, extra={"auc_distance": 0.4}), "privleak": MetricResult(-80)},
    )
    text = table(ReportModel("t", "s", "c", "d", {}, (attacked,)))
    texts = dict(zip([c.key for c in text.columns], [c.text for c in text.rows[0].cells], strict=True))
    assert (texts["mia_distance"], texts["privleak"]) == ("0.400", "-80.000")
    keys = {c.key for c in table(ReportModel("t", "s", "c", "d", {}, tuple(RUNS))).columns}
    assert not keys & {"mia_distance", "privleak"}


def test_many_sets_with_one_first_word_are_one_line() -> None:
    subjects = {f"mmlu_{k}": 3 for k in range(57)}
    assert counted({"forget": 60, "forget_eval": 30, **subjects, "retain": 9}) == {
        "forget": 60, "forget_eval": 30, "mmlu_* (57 sets)": 171, "retain": 9,
    }  # fmt: skip
