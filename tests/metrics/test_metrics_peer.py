"""Our families on the losses and generations of another implementation must give its aggregates (../shared/golden)."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from expunge.benchmarks.metric_suite import UTILITY_PARTS, as_openunlearning, tofu_panel
from expunge.core.records import GeneratedText, GeneratedTexts, TokenRecords
from expunge.metrics.api import Metric, MetricInputs, MetricResult, find_family
from expunge.metrics.compute import compute

pytestmark = pytest.mark.shared

ROWS = {"forget": "forget_eval", "retain": "retain_eval", "ra": "real_authors", "wf": "world_facts"}
NAMED = {"Prob": "answer", "PARA_Prob": "paraphrase", "PERT_Prob": "perturbed"}
OTHERS = ("rouge", "model_utility", "exact_memorization", "extraction_strength")  # not from losses alone
PANEL = [m for m in tofu_panel() if m.family not in OTHERS]
MODELS = ("retain90", "full")


@pytest.fixture(scope="module")
def peer(shared: Path) -> dict[str, dict]:
    """model -> {"rows": per-row statistics, "aggregates": numbers, "generations": list, "folder": path}."""
    result = {}
    for model in MODELS:
        folder = shared / "golden" / "visible" / "tofu_eval" / model
        result[model] = {
            "rows": json.loads(gzip.decompress((folder / "per_row.json.gz").read_bytes())),
            "aggregates": json.loads((folder / "summary.json").read_text())["aggregates"],
            "generations": [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()],
        }
    return result


@pytest.fixture(scope="module")
def tokens(peer, records) -> dict[str, dict[str, TokenRecords]]:
    """model -> rows -> records with one token per answer, whose loss is the answer's mean loss."""
    out: dict[str, dict[str, TokenRecords]] = {}
    for model in MODELS:
        out[model] = {}
        for short, rows in ROWS.items():
            variants: dict[str, dict[int, list[float]]] = {}
            for ending, variant in NAMED.items():
                for i, stats in peer[model]["rows"].get(f"{short}_Q_A_{ending}", {}).items():
                    losses = stats["avg_loss"]
                    named = (
                        {variant: losses}
                        if not isinstance(losses, list)
                        else {f"{variant}_{k}": loss for k, loss in enumerate(losses)}
                    )
                    for name, loss in named.items():
                        variants.setdefault(name, {})[int(i)] = [-loss]
            out[model][rows] = records(variants)
    return out


@pytest.fixture(scope="module")
def ours(tokens) -> dict[str, dict[str, MetricResult]]:
    retain = compute(PANEL, {"tokens": tokens["retain90"]})
    return {"retain90": retain, "full": compute(PANEL, {"tokens": tokens["full"]}, retain)}


@pytest.mark.parametrize("model", MODELS)
def test_aggregates(peer, ours, model: str) -> None:
    for metric in PANEL:
        if metric.name == "forget_quality":
            continue
        result, expected = ours[model][metric.name], peer[model]["aggregates"][metric.name]
        assert result.value == pytest.approx(expected, rel=2e-6), metric.name
        assert result.extra["n_missing"] == 0
        assert result.extra["ci_low"] < result.value < result.extra["ci_high"]


@pytest.mark.parametrize("model", MODELS)
def test_rows(peer, ours, model: str) -> None:
    for metric in PANEL:
        if metric.name == "forget_quality":
            continue
        theirs = peer[model]["rows"][metric.name]
        assert [str(i) for i in ours[model][metric.name].per_row] == sorted(theirs, key=int)
        for statistic in next(iter(theirs.values())):
            x = np.array([stats[statistic] for stats in ours[model][metric.name].per_row.values()])
            y = np.array([theirs[i][statistic] for i in sorted(theirs, key=int)])
            np.testing.assert_allclose(x, y, rtol=1e-5, err_msg=f"{metric.name} {statistic}")


@pytest.mark.parametrize("model", MODELS)
def test_their_floor_gives_their_rows_more_closely(peer, tokens, ours, model: str) -> None:
    """1e-10 in the denominator is what is left of the difference in the truth ratios."""
    floored = compute(
        [m for m in as_openunlearning(tofu_panel()) if m.family == "truth_ratio"], {"tokens": tokens[model]}
    )
    for name, result in floored.items():
        theirs = [peer[model]["rows"][name][str(i)]["score"] for i in result.per_row]
        ours_off = np.max(np.abs(np.array(ours[model][name].column("score")) / theirs - 1))
        floor_off = np.max(np.abs(np.array(result.column("score")) / theirs - 1))
        assert floor_off <= ours_off + 1e-9, name
        assert floor_off < 1e-6, name


def test_forget_quality(peer, ours) -> None:
    result = ours["full"]["forget_quality"]
    assert result.value == pytest.approx(peer["full"]["aggregates"]["forget_quality"], rel=1e-3)
    assert result.extra["log10_p"] == pytest.approx(math.log10(result.value), rel=1e-9)
    assert result.extra["n_rows"] == 400
    alone = ours["retain90"]["forget_quality"]
    assert math.isnan(alone.value)
    assert "needs a retain model's truth ratios" in (alone.reason or "")


def test_a_retain_model_against_itself(tokens, ours) -> None:
    again = compute(PANEL, {"tokens": tokens["retain90"]}, ours["retain90"])["forget_quality"]
    assert (again.value, again.extra["ks_distance"]) == (1.0, 0.0)


def test_a_retain_model_of_another_split_gives_no_number(tokens, ours) -> None:
    theirs = ours["retain90"]["forget_truth_ratio"]
    half = replace(theirs, per_row=dict(list(theirs.per_row.items())[:200]))
    result = compute(PANEL, {"tokens": tokens["full"]}, {"forget_truth_ratio": half})["forget_quality"]
    assert math.isnan(result.value)
    assert "cover other rows: 200 against 400" in (result.reason or "")


@pytest.mark.parametrize("model", MODELS)
def test_model_utility(peer, ours, model: str) -> None:
    parents = {}
    for part in UTILITY_PARTS:
        if part.endswith("ROUGE"):  # their generations are given for some rows only: take their row values
            parents[part] = MetricResult(
                float(np.mean([s["rougeL_recall"] for s in peer[model]["rows"][part].values()]))
            )
        else:
            parents[part] = ours[model][part]
    metric = Metric("model_utility", "model_utility", parents={part: part for part in UTILITY_PARTS})
    result = find_family("model_utility").compute(MetricInputs(metric, {}, parents))
    assert result.value == pytest.approx(peer[model]["aggregates"]["model_utility"], rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("metric", "reference"), [("forget_Q_A_ROUGE", None), ("forget_Q_A_PARA_ROUGE", "paraphrase")])
def test_rouge(peer, shared: Path, model: str, metric: str, reference: str | None) -> None:
    """The given generations against their ground truth, and the same ones against the paraphrased answer."""
    lines = (shared / "data" / "tofu" / "forget10_perturbed.json").read_text(encoding="utf-8").splitlines()
    data = [json.loads(line) for line in lines]
    texts = [
        GeneratedText(
            g["index"],
            0,
            g["prompt"],
            g["generation"],
            data[g["index"]]["paraphrased_answer"] if reference else g["ground_truth"],
            g["n_new_tokens"],
            g["stopped_at_eos"],
        )
        for g in peer[model]["generations"]
    ]
    named = next(m for m in tofu_panel() if m.name == metric)
    result = compute([named], {"texts": {"forget_eval": GeneratedTexts(texts)}})[metric]
    assert len(result.per_row) == 50
    for row, stats in result.per_row.items():
        assert stats == pytest.approx(peer[model]["rows"][metric][str(row)], abs=1e-9), row


def test_no_reference_of_the_panel_is_without_words(shared: Path) -> None:
    """Ours gives NaN where a reference has no word to recall, theirs 0: in TOFU there is no such answer."""
    metric = Metric("m", "rouge", rows="r", reads={"texts": ("answer",)})
    for name in ("forget10", "retain", "real_authors", "world_facts"):
        lines = (shared / "data" / "tofu" / f"{name}_perturbed.json").read_text(encoding="utf-8").splitlines()
        texts = [
            GeneratedText(i, 0, "", "", row[key], 1, True)
            for i, row in enumerate(json.loads(line) for line in lines)
            for key in ("answer", "paraphrased_answer")
            if key in row
        ]
        result = compute([metric], {"texts": {"r": GeneratedTexts(texts)}})["m"]
        assert (result.value, result.extra["n_missing"]) == (0.0, 0.0), name
        assert len(result.per_row) == len(lines)
