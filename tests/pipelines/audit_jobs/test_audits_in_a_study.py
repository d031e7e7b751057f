"""Audits as jobs of a study: what they share, what they write, and what is told where they cannot be held."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from expunge.audits import RelearnSpec
from expunge.audits.changes import relearn_args
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.records import token_records
from expunge.engine.job import in_order
from expunge.evaluation.loglikelihood import score_tokens
from expunge.methods.objective import objective
from expunge.metrics.equivalence import WORDS
from expunge.pipelines.audit_jobs.work import relearn
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.study.handle import StudyResult, load_study
from expunge.pipelines.study_jobs import work
from expunge.report.curves import audit_figures
from expunge.report.text import to_markdown
from expunge.training.config import TrainArgs
from expunge.training.encoding import encode_sets
from expunge.training.loop import train

AUDITS = (
    "audits=[{name: relearn, rows: 3, steps: [0, 2]}, {name: quantize, forms: [int8]}, "
    "{name: prompting, ways: [begun, shots], rouge: false}, {name: exposure, ways: [direct]}, "
    "{name: probe, rows: 8}, lens, depth, {name: forensic, gradients: false}, "
    "{name: tamper, rows: 3, budget: 1, steps: [1], attacks: [full]}, "
    "{name: generated, kinds: [alias, multi_turn]}]"
)
WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 1}


@pytest.fixture(scope="module")
def audited(micro: list[str], tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The micro study with every audit."""
    folder = tmp_path_factory.mktemp("audited")
    paths = [f"paths.store={folder}/store", f"paths.output_dir={folder}/out"]
    return load_study([*micro, *paths, "methods=[{trainer: GradDiff}]", AUDITS]).run()


@pytest.mark.slow
def test_every_audit_is_told_with_its_place_between_the_controls(audited: StudyResult) -> None:
    assert not audited.failures
    report = {(a.audit, a.name): a for a in audited.report.audits}
    assert list(report) == [
        ("relearn", "same_rows"),
        ("relearn", "entity_rows"),
        ("relearn", "unrelated"),
        ("quantize", "int8"),
        ("prompting", "worst_prob"),
        ("exposure", "known_rows"),
        ("exposure", "erased_rows"),
        ("probe", "truth"),
        ("probe", "membership"),
        ("lens", "answer"),
        ("depth", "patching"),
        ("forensic", "grey_box"),
        ("forensic", "white_box"),
        ("forensic", "with_reference"),
        ("tamper", "full"),
        ("generated", "alias"),
        ("generated", "multi_turn"),
    ]
    assert {a.label for a in report.values()} == {"GradDiff"}
    for line in report.values():
        assert line.verdict in WORDS
        assert math.isfinite(line.value) or line.note
        if math.isfinite(line.position):
            mine = (line.value - line.retain) / (line.full - line.retain)
            assert line.position == pytest.approx(mine, rel=1e-6)
            assert line.position_low <= line.position <= line.position_high


@pytest.mark.slow
def test_the_findings_are_written_as_text_json_and_tables(audited: StudyResult) -> None:
    text = (audited.folder / "results.md").read_text()
    assert text == to_markdown(audited.report)
    assert "## Audits" in text and "relearn: same_rows" in text
    lines = json.loads((audited.folder / "audits.json").read_text())
    table = pq.read_table(audited.folder / "audits.parquet").to_pylist()
    assert [line["name"] for line in lines] == [row["name"] for row in table]
    assert "model_at_2" in lines[0]["details"]
    exposure = pq.read_table(audited.folder / "audits" / "GradDiff-exposure.parquet")
    assert {"row_id", "probability", "z", "percentile", "rank", "extraction_strength", "min_k_score", "worst_prob"} <= {
        *exposure.column_names
    }
    assert exposure.num_rows == 8


@pytest.mark.slow
def test_what_layers_tell_is_drawn_with_both_controls(audited: StudyResult) -> None:
    report = {a.audit: a for a in audited.report.audits}
    lens = report["lens"].layers
    assert [len(lens[side]) for side in ("model", "retain", "full")] == [len(lens["model"])] * 3
    assert lens["model"][0][0] == 0.0 and not report["lens"].curves
    names = [figure.name for figure in audit_figures(audited.report)]
    assert {"audit-lens-answer", "audit-depth-patching", "audit-relearn-same-rows"} <= set(names)
    sample = next(f for f in audit_figures(audited.report) if f.name == "audit-lens-answer").figure
    assert sample is not None and [t.name for t in sample.data] == ["GradDiff", "retain", "full"]
    # the full model's own states change nothing in it: every layer gives the same
    full = [v for _, v in report["depth"].layers["full"]]
    assert full == pytest.approx([full[0]] * len(full), rel=1e-4)


@pytest.mark.slow
def test_the_explorer_shows_every_generated_question(audited: StudyResult) -> None:
    table = pq.read_table(audited.folder / "audits" / "GradDiff-generated.parquet").to_pylist()
    display = audited.report.explorer
    entries = [e for e in display.rows if e.set.startswith("probe: ")]
    assert [(e.set, e.question, e.answer) for e in entries] == [
        (f"probe: {row['kind']}", row["question"], row["answer"]) for row in table
    ]
    place = [score.name for score in display.scores].index("probability")
    models = [run.role for run in audited.report.runs]
    for role in ("unlearn", "retain", "full"):
        column = "model" if role == "unlearn" else role
        assert [e.scores[models.index(role)][place] for e in entries] == [row[column] for row in table]


def test_of_a_chain_the_last_model_is_audited() -> None:
    jobs = graph(audits=["lens"], requests=2)
    assert [a.subject.label for a in jobs.audits] == ["NPO@2/2"]
    named = {"spring": (0, 3), "summer": (3, 6)}
    assert [a.subject.label for a in graph(audits=["lens"], requests=named).audits] == ["NPO@summer"]


def graph(**more: Any) -> StudyGraph:
    tree = {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, **more}
    return build_graph(decode_study({"methods": [{"trainer": "NPO"}], **tree}))


def test_controls_are_probed_once_for_all_methods() -> None:
    methods = [{"trainer": "NPO"}, {"trainer": "GradDiff"}]
    jobs = graph(methods=methods, audits=[{"name": "relearn", "rows": 2, "ways": ["same_rows"]}])
    kinds = [j.name for j in in_order(jobs.jobs) if j.kind in ("relearn", "audit")]
    assert sorted(kinds) == [
        "audit GradDiff relearn",
        "audit NPO relearn",
        "relearn GradDiff same_rows",
        "relearn NPO same_rows",
        "relearn full same_rows",
        "relearn retain same_rows",
    ]


def test_an_audit_leaves_the_other_jobs_as_they_are_and_its_settings_count() -> None:
    plain = {j.key for j in in_order(graph().jobs)}
    one, other = (
        {j.key: j.kind for j in in_order(graph(audits=[{"name": "quantize", "margin": m}]).jobs)} for m in (0.1, 0.2)
    )
    assert plain < set(one)
    assert {one[k] for k in set(one) - set(other)} == {"audit"}  # the reading alone


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"audits": ["relern"]}, "audits[0].name: no audit named 'relern'; did you mean 'relearn'"),
        ({"audits": ["exposure", {"name": "relearn", "rowz": 1}]}, "audits[1].rowz: unknown key"),
        ({"audits": ["exposure"], "methods": []}, "audits: there is nothing to audit"),
        ({"audits": ["exposure"], "requests": {"one": (0, 2)}}, "audits: the requests name 2 of 6 forget rows"),
        ({"audits": ["relearn"]}, "relearn.rows: 8 of 6"),
    ],
)
def test_what_cannot_be_audited_is_told_before_anything_runs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(**more)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_one_run_scored_as_it_goes_is_as_many_runs_of_each_length(tmp_path: Path) -> None:
    study = decode_study({"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}})
    setting = build_graph(study).setting
    work.base(base := tmp_path / "base", setting, lambda done, total: None)
    change = RelearnSpec("forget", (0, 1, 3), 1e-2, 2, 0)
    args = relearn_args(change, decode(TrainArgs, dict(study.unlearn), where="unlearn"))
    (tmp_path / "out").mkdir()
    scored = {"forget_eval": ("answer",)}
    relearn(tmp_path / "out", str(base), setting, change, scored, args, lambda done, total: None)

    encoder = setting.encoder(str(base))
    rows = {"retain": encode_sets([setting.benchmark.sets["forget"]], encoder)}
    logps = []
    for step in change.steps:
        model = work.load_weights(str(base), setting)
        if step:
            short = dataclasses.replace(args, max_steps=step)
            train(model, objective("finetune"), rows, short, pad_id=encoder.tokenizer.pad_token_id)
        table = score_tokens(model, setting.benchmark.sets["forget_eval"], ("answer",), encoder)
        result = pq.read_table(tmp_path / "out" / f"forget_eval.{step}.tokens.parquet")
        assert result.equals(table)
        logps.append(float(token_records(result)["answer"].logp.mean()))
    assert logps[0] < logps[1] < logps[2]  # it learns
    assert torch.is_inference_mode_enabled() is False
