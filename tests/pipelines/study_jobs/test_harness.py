"""Tasks of lm-evaluation-harness: settings that arrive, names of the numbers, and the same accuracy as our own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.written_layouts import write_choice_task

import expunge
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, JobError
from expunge.core.fingerprints import fingerprint
from expunge.pipelines.study.task_config import LmEval
from expunge.pipelines.study_jobs import harness
from expunge.pipelines.study_jobs.harness import check_tasks, identity, task_results

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not there")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    words = ["benchmark=world", "model=llama-64k", "data.world.authors=10", "trainer.args.max_steps=2", "task_name=x"]
    paths = [f"paths.output_dir={folder / 'model'}", f"paths.store={folder / 'store'}"]
    return expunge.load_job("train", [*words, *paths]).run().folder


@pytest.fixture
def tasks(tmp_path: Path, wmdp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one task, `tiny_choice`, over eight questions and their options."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    description = "The following are multiple choice questions (with answers) about biology.\n\n"
    questions = wmdp_folder / "wmdp-bio" / "test.json"
    write_choice_task(folder, questions, ("acc", "acc_bytes"), description=description)
    return folder


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():  # those of another project's code
        warnings.simplefilter("ignore")
        yield


def run(model_folder: Path, tmp_path: Path, name: str, *words: str) -> expunge.pipelines.study.job_handle.JobResult:
    model = ["model=llama-64k", f"model.model_args.pretrained_model_name_or_path={model_folder}"]
    paths = [f"paths.output_dir={tmp_path / name}", f"paths.store={tmp_path / 'store'}"]
    return expunge.load_job("eval", [*model, *paths, f"task_name={name}", *words]).run()


@needs_lm_eval
def test_the_harness_and_our_own_family_agree(
    model_folder: Path, tasks: Path, wmdp_folder: Path, tmp_path: Path
) -> None:
    requests = ["eval.lm_eval.tasks=[tiny_choice]", f"eval.lm_eval.include_path={tasks}"]
    own = ["data.args.subjects=[bio]", "data.args.style=options", "data.args.questions_only=true"]
    both = run(model_folder, tmp_path, "both", "benchmark=wmdp", f"data.root={wmdp_folder}", *own, *requests)
    assert set(both.summary) == {"wmdp_bio", "tiny_choice/acc", "tiny_choice/acc_bytes"}
    entry = json.loads((both.folder / "WMDP_EVAL.json").read_text())["wmdp_bio"]
    assert entry["extra"]["acc"] == both.summary["tiny_choice/acc"]
    assert entry["extra"]["acc_norm"] == both.summary["tiny_choice/acc_bytes"]
    stored = json.loads((both.folder / "LMEval_EVAL.json").read_text())
    assert stored["tiny_choice/acc"]["extra"]["stderr"] > 0
    assert json.loads((both.folder / "job.json").read_text())["kind"] == "metrics"


@needs_lm_eval
def test_settings_reach_the_harness(
    model_folder: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    from lm_eval.models import huggingface

    records: dict[str, Any] = {}
    real, real_model = lm_eval.simple_evaluate, huggingface.HFLM

    def spy(**settings: Any) -> Any:
        records.update(settings)
        return real(**settings)

    def spy_model(**settings: Any) -> Any:
        records.update({f"model_{k}": v for k, v in settings.items()})
        return real_model(**settings)

    monkeypatch.setattr(lm_eval, "simple_evaluate", spy)
    monkeypatch.setattr(huggingface, "HFLM", spy_model)
    words = ["num_fewshot=2", "batch_size=3", "limit=4", "tasks=[tiny_choice]", f"include_path={tasks}"]
    result = run(model_folder, tmp_path, "alone", "benchmark=lm_eval", *(f"eval.lm_eval.{word}" for word in words))
    assert (records["num_fewshot"], records["batch_size"], records["limit"]) == (2, 3, 4)
    assert (records["model_batch_size"], records["apply_chat_template"]) == (3, False)
    assert type(records["model_pretrained"]).__name__ == "LlamaForCausalLM"
    assert records["model_tokenizer"].name_or_path == str(model_folder)
    assert sorted(p.name for p in result.folder.glob("*.json")) == [
        "LMEval_EVAL.json",
        "LMEval_SUMMARY.json",
        "job.json",
    ]
    with pytest.raises(JobError, match="this tokenizer has no chat template"):
        run(
            model_folder,
            tmp_path,
            "chat",
            "benchmark=lm_eval",
            *(f"eval.lm_eval.{w}" for w in [*words, "apply_chat_template=true"]),
        )


@needs_lm_eval
@pytest.mark.slow
def test_a_study_asks_each_model(tasks: Path, tmp_path: Path) -> None:
    words = ["study=quickstart", "model=llama-64k", "data.world.authors=10", "train.max_steps=2", "unlearn.max_steps=1"]
    words += ["data.world.questions_per_author=2", "data.world.facts=4", "data.world.holdout_authors=0"]
    words += ["methods=[{trainer: GradAscent}]", "eval.generation.max_new_tokens=2"]
    words += ["eval.lm_eval.tasks=[tiny_choice]", f"eval.lm_eval.include_path={tasks}", "eval.lm_eval.limit=2"]
    words += [f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    rows = expunge.load_study(words).run().table()
    assert [row["run"] for row in rows] == ["full", "retain", "GradAscent"]
    assert all(0 <= row["tiny_choice/acc"] <= 1 and "model_utility" in row for row in rows)


@needs_lm_eval
def test_an_unknown_task_ends_in_one_line(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Index:
        all_tasks = ("arc_easy", "tiny_choice")

    monkeypatch.setattr(harness, "_manager", lambda config: Index())
    with pytest.raises(ConfigError, match=r"^eval\.lm_eval\.tasks: lm-eval has no task named 'arc_esy'; did you mean"):
        check_tasks(LmEval(tasks=("arc_esy",)))
    with pytest.raises(ConfigError, match=r"^eval\.lm_eval\.include_path: no folder nowhere"):
        check_tasks(LmEval(tasks=("arc_easy",), include_path="nowhere"))


def test_a_task_as_a_group_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes a known task, or defines one. It is part of the key."""

    class Index:
        all_tasks = ("arc_easy",)

    monkeypatch.setattr(harness, "_manager", lambda config: Index())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(harness.metadata, "version", lambda name: "1")
    own = {"task": "mine", "dataset_path": "json", "output_type": "multiple_choice"}
    config = decode(LmEval, {"tasks": ["arc_easy", own]}, where="e")
    check_tasks(config)
    assert config.names == ("arc_easy", "mine")
    changed = decode(LmEval, {"tasks": ["arc_easy", {**own, "description": "x"}]}, where="e")
    assert len({fingerprint(identity(c)) for c in (config, changed)}) == 2
    check_tasks(LmEval(tasks=({"task": "arc_easy", "num_fewshot": 2},)))
    with pytest.raises(ConfigError, match=r"lm-eval has no task named 'arc_esy'; did you mean"):
        check_tasks(LmEval(tasks=({"task": "arc_esy", "num_fewshot": 2},)))


@needs_lm_eval
def test_a_task_that_the_settings_define_runs(model_folder: Path, tasks: Path, tmp_path: Path) -> None:
    own = {**yaml.safe_load((tasks / "tiny_choice.yaml").read_text()), "task": "mine"}
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump({"benchmark": "lm_eval", "eval": {"lm_eval": {"tasks": [own], "limit": 4}}}))
    assert set(run(model_folder, tmp_path, "own", f"experiment={file}").summary) == {"mine/acc", "mine/acc_bytes"}


@needs_lm_eval
def test_changed_settings_of_a_known_task(model_folder: Path, tasks: Path, tmp_path: Path) -> None:
    """The settings in the group of keys give the numbers of the same settings for all tasks."""
    names = {"tasks": ["tiny_choice"], "num_fewshot": 2, "include_path": str(tasks), "limit": 4}
    keys = {"tasks": [{"task": "tiny_choice", "num_fewshot": 2}], "include_path": str(tasks), "limit": 4}
    tables = []
    for name, settings in (("names", names), ("keys", keys)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"benchmark": "lm_eval", "eval": {"lm_eval": settings}}))
        folder = run(model_folder, tmp_path, name, f"experiment={file}").folder
        tables.append(json.loads((folder / "LMEval_SUMMARY.json").read_text()))
    assert tables[0] == tables[1]
    assert set(tables[0]) == {"tiny_choice/acc", "tiny_choice/acc_bytes"}


@needs_lm_eval
def test_identity(tasks: Path) -> None:
    config = LmEval(tasks=("tiny_choice",), include_path=str(tasks))
    assert identity(config) == identity(dataclasses.replace(config, batch_size=1))
    assert identity(config) != identity(dataclasses.replace(config, num_fewshot=1))
    before = identity(config)
    (tasks / "tiny_choice.yaml").write_text((tasks / "tiny_choice.yaml").read_text().replace("Answer:", "A:"))
    assert identity(config) != before


def test_without_the_package_one_line_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^eval\.lm_eval\.tasks: needs the package lm-eval.*pip install"):
        check_tasks(LmEval(tasks=("arc_easy",)))


def test_nothing_to_measure(model_folder: Path) -> None:
    words = ["benchmark=lm_eval", "model=llama-64k", "task_name=x"]
    with pytest.raises(ConfigError, match=r"nothing to measure; name tasks in eval\.lm_eval\.tasks"):
        expunge.load_job("eval", [*words, f"model.model_args.pretrained_model_name_or_path={model_folder}"])


def test_names_of_numbers() -> None:
    result = {
        "gsm8k": {
            "alias": "gsm8k", "sample_len": 3, "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": 0.1, "acc,none": 0.25, "acc_stderr,none": "N/A", "f1,none": math.nan,
        }
    }  # fmt: skip
    results = task_results(result)
    assert set(results) == {"gsm8k/exact_match,strict-match", "gsm8k/acc", "gsm8k/f1"}
    assert results["gsm8k/exact_match,strict-match"].extra == {"stderr": 0.1}
    assert results["gsm8k/acc"].extra == {}
    assert results["gsm8k/f1"].reason == "lm-eval gave no number"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["a", "a"]}, "e.tasks: must be different ones"),
        ({"tasks": ["a", {"task": "a"}]}, "e.tasks: must be different ones"),
        ({"tasks": [{"name": "a"}]}, "e.tasks: must be names, or groups of keys with a name as `task`"),
        ({"num_fewshot": -1}, "e.num_fewshot: must be at least 0, got -1"),
        ({"batch_size": 0}, "e.batch_size: must be at least 1, got 0"),
        ({"limit": 0}, "e.limit: must be a number > 0, got 0"),
        ({"task": ["a"]}, "e.task: unknown key; did you mean 'tasks'?"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode(LmEval, settings, where="e")
    assert str(error.value).startswith(message)
