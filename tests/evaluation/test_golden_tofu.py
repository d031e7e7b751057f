"""The whole TOFU evaluation of two tiny checkpoints, against the numbers OpenUnlearning gives for them."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.benchmarks.metric_suite import as_openunlearning, tofu_panel
from expunge.core.decode import decode
from expunge.data.encoder import Encoder
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator, results_of
from expunge.metrics.api import MetricResult
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer

pytestmark = pytest.mark.shared

PANEL = list(as_openunlearning(tofu_panel(holdout=True)))
SIDES = {
    f"{m.name}_{side}": (m.name, side) for m in PANEL if m.family == "attack_auc" for side in ("forget", "holdout")
}
NAMES = [m.name for m in PANEL if m.name not in SIDES]
MODELS = ("retain90", "full")  # the order matters: retain90's results reach full's forget quality
NO_RETAIN_MODEL = ("retain90", "forget_quality")
STEP = 1 / 160_000  # of an AUC of 400 rows against 400

Results = Mapping[str, Mapping[str, MetricResult]]


def evaluate(
    folder: Path, sets: Any, encoder: Encoder, retain: Mapping[str, MetricResult] | None
) -> dict[str, MetricResult]:
    """The panel of one model. Without a retain model the attacks that need one take the model itself, as theirs did."""
    model = load_model(str(folder), ModelArgs(), device=torch.device("cpu"))
    generation = Generation(max_new_tokens=200)
    evaluator = Evaluator(metrics=PANEL, sets=sets, encoder=encoder, generation=generation, retain=retain)
    tables = evaluator.score(model)
    result = evaluator.results(tables)
    if retain is None:
        alone = [m for m in PANEL if m.name.startswith("mia_")]
        losses = {n: r for n, r in result.items() if n.startswith("mia_loss_")}
        result |= results_of(alone, tables, sets, losses)
    return result


@pytest.fixture(scope="session")
def results(shared: Path) -> Results:
    """Both models, scored once for all tests of this file."""
    golden = shared / "golden" / "visible"
    settings = json.loads((golden / "tofu_eval" / "settings.json").read_text())
    tags = {k: v for k, v in settings["template"].items() if k.endswith("_tag")}
    template = decode(Template, tags | {"compat": "openunlearning", "max_length": settings["max_length"]})
    encoder = Encoder(template, load_tokenizer(str(golden / "tiny_llama" / "full"), TokenizerArgs()))
    folder = str(shared / "data" / "tofu")
    sets = load_tofu(folder, forget_split="forget10", retain_split="retain90", holdout_split="holdout10")
    out: dict[str, dict[str, MetricResult]] = {}
    for which in MODELS:
        out[which] = evaluate(golden / "tiny_llama" / which, sets, encoder, out.get("retain90"))
    return out


@pytest.fixture(scope="session")
def peer(shared: Path) -> dict[str, dict[str, Any]]:
    """The stored numbers by model: `aggregates`, and `per_row` by metric."""
    folder = shared / "golden" / "visible" / "tofu_eval"
    out: dict[str, dict[str, Any]] = {}
    for which in MODELS:
        with gzip.open(folder / which / "per_row.json.gz", "rt") as f:
            per_row = json.load(f)
        out[which] = json.loads((folder / which / "summary.json").read_text()) | {"per_row": per_row}
    return out


def clear_rows(peer: Mapping[str, Any]) -> list[int]:
    """The forget rows in which no token's rank hangs on rounding."""
    margins = peer["per_row"]["_not_from_the_peer"]["forget_Q_A_argmax_margin_min"]
    return [int(i) for i, margin in margins.items() if margin >= 1e-3]


AUC = {"abs": 4 * STEP, "rel": 0}
AGGREGATE = {
    "forget_quality": {"rel": 1e-3},
    "privleak": {"abs": 100 * 8 * STEP / 0.5, "rel": 0},  # of two AUCs, over 1 - AUC_ref > 0.5
    "exact_memorization": {"abs": 1e-4, "rel": 0},  # the rows that hang on rounding are in the mean
    "extraction_strength": {"abs": 1e-4, "rel": 0},
} | {m.name: AUC for m in PANEL if m.family == "attack_auc"}


@pytest.mark.slow
@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_aggregate(results: Results, peer: dict[str, dict[str, Any]], which: str, name: str) -> None:
    expected, actual = peer[which]["aggregates"][name], results[which][name]
    if expected is None:
        assert (which, name) == NO_RETAIN_MODEL
        assert math.isnan(actual.value)
        assert actual.reason
        return
    assert actual.value == pytest.approx(expected, **AGGREGATE.get(name, {"rel": 1e-4})), actual.reason


@pytest.mark.parametrize("which", MODELS)
def test_every_stored_aggregate_that_the_panel_knows_was_compared(peer: dict[str, dict[str, Any]], which: str) -> None:
    others = set(peer[which]["aggregates"]) - set(NAMES)
    assert set(NAMES) <= set(peer[which]["aggregates"])
    assert others == {"mia_gradnorm"}


@pytest.mark.slow
@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("name", SIDES)
def test_attack_scores(results: Results, peer: dict[str, dict[str, Any]], which: str, name: str) -> None:
    attack, side = SIDES[name]
    rows = {int(i): stats["score"] for i, stats in peer[which]["per_row"][attack][side].items()}
    actual = results[which][name]
    tolerance = 1e-6 if attack == "mia_zlib" else 5e-5  # a loss over some hundred bytes
    assert {i: s["score"] for i, s in actual.per_row.items()} == pytest.approx(rows, abs=tolerance, rel=0)
    assert len(rows) == 400
    assert actual.value == pytest.approx(peer[which]["mia_mean_scores"][attack][side], abs=tolerance, rel=0)
    extra = results[which][attack].extra[{"forget": "mean_members", "holdout": "mean_others"}[side]]
    assert extra == actual.value


@pytest.mark.slow
@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("name", ["exact_memorization", "extraction_strength"])
def test_memorization(results: Results, peer: dict[str, dict[str, Any]], which: str, name: str) -> None:
    rows, actual = peer[which]["per_row"][name], results[which][name].per_row
    clear = clear_rows(peer[which])
    assert 370 <= len(clear) <= len(actual) == 400
    for i in clear:
        assert actual[i]["score"] == pytest.approx(rows[str(i)]["score"], abs=1e-6), i


TOLERANCE = {"avg_loss": {"abs": 5e-5}, "prob": {"rel": 1e-4, "abs": 1e-9}, "score": {"rel": 1e-4}}
ROWS = [m.name for m in PANEL if m.family not in ("attack_auc", "exact_memorization", "extraction_strength")]


@pytest.mark.slow
@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("name", [n for n in ROWS if n not in SIDES])
def test_rows(results: Results, peer: dict[str, dict[str, Any]], which: str, name: str) -> None:
    rows = peer[which]["per_row"].get(name)
    actual = results[which][name].per_row
    if not rows:
        assert not actual  # forget_quality and model_utility have no rows of their own
        return
    assert sorted(int(i) for i in rows) == sorted(actual)
    compared = 0
    for index, expected in rows.items():
        for statistic, number in expected.items():
            tolerance = TOLERANCE.get(statistic, {"abs": 1e-12})  # rouge: counts of words
            assert actual[int(index)][statistic] == pytest.approx(number, **tolerance), (index, statistic)
            compared += 1
    assert compared >= len(rows)
