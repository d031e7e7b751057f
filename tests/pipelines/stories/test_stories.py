"""The stories protocol as a study: jobs, results and report."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.stories.documents import TokenDocuments
from expunge.data.stories.records import load_records
from expunge.pipelines.stories import work
from expunge.pipelines.stories.jobs import NEVER, PRESENT, story_jobs
from expunge.pipelines.stories.results import read_points, steps_back
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.study.handle import StudyHandle, StudyResult
from expunge.training.config import CheckpointArgs

STEPS = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}


def tree(**stories: Any) -> dict[str, Any]:
    """A study of stories of seconds."""
    own: dict[str, Any] = {
        "delete": "Twist",
        "generate": {"n": 90, "shards": 3},
        "instruction_subset": "Features",
        "max_seq_len": 160,
        "datasets": ["filter-adv-Twist"],
        "delete_at": [2],
        "recover_at": [1, 2],
        "shown_at": [0, 2],
        "eval_rows": 4,
        "judge": {"prompts": 4, "max_new_tokens": 4},
        "probe": {"rows": 24, "features": ["Twist", "Dialogue"]},
    }
    return {
        "name": "tiny<b>",
        "model": {"preset": "llama-64k"},
        "train": {**STEPS, "max_steps": 2},
        "unlearn": STEPS,
        "stories": {**own, **stories},
    }


def handle(folder: Path, **stories: Any) -> StudyHandle:
    settings = {**tree(**stories), "paths": {"store": str(folder / "store"), "output_dir": str(folder / "out")}}
    return StudyHandle(study_graph(settings))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyHandle, StudyResult]:
    study = handle(tmp_path_factory.mktemp("stories"))
    return study, study.run(command="expunge run study=tiny")


def test_every_job_is_done_and_none_is_done_again(ran: tuple[StudyHandle, StudyResult]) -> None:
    study, result = ran
    assert not result.failures
    assert {p.state for p in study.plan()} == {"hit"}
    notes = [values[0] for p in study.plan() for values in (study.store.record(p.job) or {})["digests"].values()]
    assert "token ids of the stories" in notes
    kinds = [p.job.kind for p in study.plan()]
    assert {k: kinds.count(k) for k in ("pretrain", "measure", "delete", "recover", "probe")} == {
        "pretrain": 2, "measure": 2, "delete": 1, "recover": 2, "probe": 3,
    }  # fmt: skip


def test_the_control_never_reads_the_feature(ran: tuple[StudyHandle, StudyResult]) -> None:
    study, _ = ran
    jobs = study.graph.stories
    assert jobs is not None
    subjects = {s.label: s for s in jobs.subjects}
    control, present = subjects[NEVER].model, subjects[PRESENT].model
    assert (control.parents["data"].label, present.parents["data"].label) == ("filter-Twist", "pretrain-all")
    folder = study.store.path(control.parents["data"]) / work.DATASET
    stories = study.store.path(control.parents["data"].parents["vocabulary"]) / work.STORIES
    by_shard = [list(load_records(stories, split)) for split in ("test", "pretrain", "finetune")]
    records = TokenDocuments(folder, "all", max_seq_len=160).records
    assert records is not None
    read = [by_shard[shard][number] for shard, number in records]
    assert len(read) == sum("Twist" not in s.features for part in by_shard for s in part)
    assert all("Twist" not in s.features for s in read)
    # the deletion and both recoveries read other shards than pretraining
    assert {s.model.identity["split"] for s in jobs.subjects} == {"pretrain", "finetune"}
    assert subjects["filter-adv-Twist"].model.identity["split"] == "finetune"


def test_recovery_is_measured_after_each_listed_step(ran: tuple[StudyHandle, StudyResult]) -> None:
    study, _ = ran
    jobs = study.graph.stories
    assert jobs is not None
    control = next(s for s in jobs.subjects if s.label == NEVER)
    assert control.recovery is not None
    folder = study.store.path(control.recovery)
    points = read_points(folder / "trajectory.jsonl")
    assert [p["step"] for p in points] == [1, 2]
    assert set(points[0]) >= {"loss_recovery-Twist", "loss_filter-Twist", "feature_score", "feature_score_low"}
    generations = [json.loads(line) for line in (folder / work.GENERATIONS).read_text().splitlines()]
    assert [line["step"] for line in generations] == [1] * 4 + [2] * 4
    # every prompt requests the feature and ends before the story
    assert all("Twist" in line["prompt"] and line["prompt"].endswith("Story:") for line in generations)


def test_losses_are_of_the_story_alone(ran: tuple[StudyHandle, StudyResult]) -> None:
    """The loss of the present model again, document by document, with the model's own logits."""
    import torch

    study, _ = ran
    jobs = study.graph.stories
    assert jobs is not None
    present = jobs.subjects[0]
    folder = study.store.path(present.measured.parents["eval filter-Twist"]) / work.DATASET
    documents = TokenDocuments(folder, "test", max_seq_len=160, scored="story")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(study.store.path(present.model))
    losses = []
    for document in documents[:4]:
        with torch.no_grad():
            logp = model(torch.tensor([document.ids])).logits[0].double().log_softmax(-1)
        losses += [-float(logp[i - 1, document.ids[i]]) for i in range(document.n_prompt, len(document.ids))]
    stored = read_points(study.store.path(present.measured) / "trajectory.jsonl")[0]["loss_filter-Twist"]
    assert stored == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_the_report_shows_courses_and_probes(ran: tuple[StudyHandle, StudyResult]) -> None:
    _, result = ran
    protocol = result.report.protocol
    assert protocol is not None
    assert [c.label for c in protocol.recoveries] == [PRESENT, NEVER, "filter-adv-Twist"]
    assert [[p["step"] for p in c.points] for c in protocol.recoveries] == [[0], [0, 1, 2], [0, 1, 2]]
    # a deletion begins where the present model is, its recovery where the deletion ends
    assert protocol.deletions[0].points[0]["loss_filter-Twist"] == protocol.recoveries[0].points[0]["loss_filter-Twist"]
    assert protocol.deletions[0].points[-1]["feature_score"] == protocol.recoveries[2].points[0]["feature_score"]
    assert {(c.label, c.attribute) for c in protocol.probes} >= {(PRESENT, "Twist"), (NEVER, "Dialogue")}
    page = (result.folder / "report.html").read_text()
    for place in ("recovery-score", "recovery-loss", "deletion-score", "probes"):
        assert f'id="{place}"' in page
    assert "tiny<b>" not in page and "Deleted and recovered: Twist" in page
    assert "| model | score @0 | score @2 | loss @0 | loss @2 |" in (result.folder / "results.md").read_text()
    with open(result.folder / "recovery.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    stages = {(x["stage"], x["model"], x["step"]) for x in lines}
    assert stages >= {("recovery", NEVER, "2"), ("deletion", "filter-adv-Twist", "2")}
    sample = result.report.samples[0]
    assert list(sample.by_run) == [PRESENT, NEVER, "filter-adv-Twist"] and "Twist" in sample.question
    assert all(text.startswith(("[judged 0]", "[judged 1]")) for text in sample.by_run.values())
    rows = {row["run"]: row for row in result.table()}
    assert 0 <= rows[PRESENT]["feature_score"] <= 1
    assert math.isnan(rows[PRESENT]["recovery_steps"])


def test_other_judge_settings_keep_the_pretraining(tmp_path: Path) -> None:
    def keys(**changes: Any) -> dict[str, str]:
        jobs = story_jobs(decode_study(tree(**changes)))
        return {
            f"{s.label} {kind}": getattr(s, kind).key for s in jobs.subjects for kind in ("model", "measured", "probe")
        }

    before, after = keys(), keys(judge={"prompts": 5, "max_new_tokens": 4})
    same = {name for name in before if before[name] == after[name]}
    assert {f"{PRESENT} model", f"{NEVER} model", f"{PRESENT} probe"} <= same
    assert f"{PRESENT} measured" not in same and "filter-adv-Twist model" not in same


def test_a_resumed_run_reaches_the_same_numbers(ran: tuple[StudyHandle, StudyResult], tmp_path: Path) -> None:
    study, _ = ran
    jobs = study.graph.stories
    assert jobs is not None and jobs.subjects[1].recovery is not None
    job = jobs.subjects[1].recovery
    parents = {role: study.store.path(parent) for role, parent in job.parents.items()}
    settings, config = jobs.settings, study.graph.study
    args = dataclasses.replace(
        config.train, max_steps=4, lr_scheduler_type="constant", checkpoint=CheckpointArgs(steps=1)
    )

    def fit(name: str, *, stop_at: int = 99) -> Path:
        def progress(done: int, total: int) -> None:
            if done == stop_at:
                raise InterruptedError

        folder = tmp_path / name
        folder.mkdir()
        checkpoints = tmp_path / "checkpoints" / name.removesuffix("-again")
        work.fit(folder, parents, settings, config.model, args, "finetune", (1, 2, 4), progress, checkpoints)
        return folder

    whole = fit("whole")
    with pytest.raises(InterruptedError):
        fit("broken", stop_at=4)
    again = fit("broken-again")
    for name in ("trajectory.jsonl", work.GENERATIONS):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


COURSE = ({"step": 0.0, "feature_score": 0.25, "loss_x": 3.0}, {"step": 10.0, "feature_score": 0.75, "loss_x": 2.0})


def test_steps_back_by_hand() -> None:
    # never learned 0, present 1: half is .5, which lies half way between .25 and .75, so after 5 of 10 steps
    assert steps_back(COURSE, "feature_score", 0.0, 1.0, 0.5).value == pytest.approx(5.0)
    # a loss falls: never learned 3, present 2, 90 % is 2.1, nine tenths of the way down
    assert steps_back(COURSE, "loss_x", 3.0, 2.0, 0.9).value == pytest.approx(9.0)
    assert steps_back(COURSE, "feature_score", 0.0, 0.25, 0.5).value == 0.0
    late = steps_back(COURSE, "feature_score", 0.0, 1.0, 0.9)
    assert math.isnan(late.value) and late.reason == "not within 10 steps"
    none = steps_back(COURSE, "loss_x", 2.0, 2.0, 0.9)
    assert math.isnan(none.value) and str(none.reason).startswith("nothing to recover")
    assert str(steps_back(COURSE, "loss_y", 2.0, 1.0, 0.9).reason) == "loss_y is not measured"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delete": "Twst"}, r"stories.delete: must name a feature; did you mean 'Twist'\?.*got 'Twst'"),
        ({"irrelevant": "Twist"}, "stories.irrelevant: must differ from delete.*got 'Twist'"),
        (
            {"datasets": ["filter-adv"]},
            r"stories.datasets: lists 'filter-adv'.*; did you mean 'filter-adv-Twist'\?",
        ),
        (
            {"delete": "Dialogue", "datasets": ["filter-Twist"]},
            r"stories.datasets: lists 'filter-Twist', .*; set stories.delete=Twist",
        ),
        ({"recover_at": [3, 1]}, "stories.recover_at: must list rising steps"),
        ({"shown_at": [7]}, "stories.shown_at: lists 7, which is neither 0 nor in recover_at"),
        ({"judge": {"prompt": 4}}, "stories.judge.prompt: unknown key; did you mean 'prompts'"),
        ({"judge": {"classifier": {"ngram": 1}}}, "stories.judge.classifier.ngram: unknown key; did you mean 'ngrams'"),
        ({"recover": {"learning_rat": 1}}, "stories.recover.learning_rat: unknown key; did you mean 'learning_rate'"),
        ({"max_seq_len": 4096}, "stories.max_seq_len: 4096 .*llama-64k, 1024 tokens"),
        ({"instruction_subset": "Word"}, "stories.instruction_subset: has character 1: no line 'Word'"),
        ({"probe": {"features": ["Twits"]}}, "stories.probe.features: lists 'Twits'.*; did you mean 'Twist'"),
    ],
)
def test_a_wrong_setting_is_reported_with_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        story_jobs(decode_study(tree(**changes)))


def test_sections_that_such_a_study_cannot_have() -> None:
    with pytest.raises(ConfigError, match=r"^methods: not allowed in a study of stories"):
        story_jobs(decode_study({**tree(), "methods": [{"trainer": "NPO"}]}))
    with pytest.raises(ConfigError, match=r"^model: a study of stories pretrains its own model"):
        story_jobs(decode_study({**tree(), "model": {}}))
    with pytest.raises(DataError, match="nowhere does not exist"):
        story_jobs(decode_study(tree(source="nowhere")))
    with pytest.raises(ConfigError, match=r"^grid: not allowed in a study of stories"):
        study_graph({**tree(), "grid": {"stories.seed": [0, 1]}})


@pytest.mark.slow
def test_stories_of_ones_own_and_a_rule_judge(tmp_path: Path) -> None:
    plain = [
        f"Once there was a dog named Rex{i}. He ran far. {'“Hi,” said Ann.' if i % 2 else 'He slept.'}"
        for i in range(40)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in plain))
    study = handle(
        tmp_path, source=str(tmp_path / "own.jsonl"), shards=3, delete="Dialogue", datasets=["filter-Dialogue"],
        rows="documents", probe=None,
        judge={"prompts": 3, "max_new_tokens": 3, "rules": {"rules": [{"min_quotes": 1}]}},
    )  # fmt: skip
    result = study.run()
    assert not result.failures
    assert any("Judge of Dialogue: rules; on 14 other stories: accuracy 1.000" in n for n in result.report.notes)
