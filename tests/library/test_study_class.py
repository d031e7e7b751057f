"""Study from Python: opened from a file or a name, planned, run, and read as DataFrames. And `judge`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import expunge
from expunge.core.errors import ConfigError, DataError

FILE = """
# @package _global_
defaults:
  - override /model: llama-64k
name: mine
benchmark: world
data:
  world: {authors: 4, questions_per_author: 2, forget_fraction: 0.25, facts: 2, holdout_authors: 0}
train: {num_train_epochs: 1, per_device_train_batch_size: 16, gradient_accumulation_steps: 1}
unlearn: {num_train_epochs: 1, gradient_accumulation_steps: 1}
methods: [{trainer: GradAscent}]
eval: {generation: {max_new_tokens: 2}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.slow
def test_a_study_file_is_planned_run_and_read(file: Path) -> None:
    study = expunge.Study.from_yaml(file)
    plan = study.plan()
    assert list(plan.columns) == ["job", "kind", "state", "tokens", "seconds"]
    assert "hit" not in set(plan["state"])
    assert repr(study).startswith("Study(mine)\n  benchmark: world\n  methods: GradAscent\n  jobs: ")
    assert list(study.results().columns) == ["label", "role", "seed"] and not len(study.results())
    assert study.run() is study
    assert not study.failures
    assert set(study.plan()["state"]) == {"hit"}
    results = study.results()
    assert list(results["label"]) == ["full", "retain", "GradAscent"]
    assert {"forget_Q_A_Prob", "model_utility"} <= set(results.columns)
    long = study.metrics()
    probability = long[(long.label == "full") & (long.metric == "forget_Q_A_Prob")]["value"].item()
    assert probability == results.loc[results.label == "full", "forget_Q_A_Prob"].item()
    assert study.report.is_file()
    page = study._repr_html_()
    assert "<th>forget_Q_A_Prob</th>" in page and "n_missing" not in page
    assert "wf_Truth_Ratio.n_missing" in results.columns


def test_words_change_a_study_and_scripts_are_exported(file: Path, tmp_path: Path) -> None:
    study = expunge.Study.from_yaml(file, "seeds.unlearn=[0,1]")
    assert (study.plan()["kind"] == "unlearn").sum() == 2
    scripts = study.export_slurm(tmp_path / "slurm")
    assert scripts[-1].name == "queue.sh" and all(script.is_file() for script in scripts)


def test_a_study_reads_methods_of_ones_own(file: Path, method_file: Callable[..., Path]) -> None:
    body = """
    def forget_loss(self, view: LossInputs) -> Tensor:
        return require(view.forget, "forget").nll
    """
    mine = method_file(file.parent, "StudyOwn", body)
    study = expunge.Study.from_yaml(file, "methods=[{trainer: StudyOwn}]", plugins=[mine])
    assert "methods: StudyOwn" in repr(study)


def test_a_shipped_study_is_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expunge.Study.from_name("quickstart", "model=llama-64k").name == "quickstart"


def test_a_wrong_study_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mine"):
        expunge.Study.from_yaml(file.with_name("mien.yaml"))
    file.with_name("mien.py").touch()
    with pytest.raises(ConfigError, match=r"study: no file .*\(allowed: mine.yaml\)$"):
        expunge.Study.from_yaml(file.with_name("mien"))
    for plugins, error in (
        ("mine.py", r"expected a list, got a str; write \['mine.py'\]"),
        (None, "got None"),
        ([3], "an int"),
    ):
        with pytest.raises(ConfigError, match=f"^plugins.*: .*{error}"):
            expunge.Study.from_yaml(file, plugins=plugins)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="quickstart"):
        expunge.Study.from_name("quickstrat")
    with pytest.raises(ConfigError, match=r"Study: open one by Study\.from_yaml or Study\.from_name, not with a str"):
        expunge.Study("quickstart")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="overrides: expected a list, got a str; write"):
        expunge.load_study("study=quickstart")
    with pytest.raises(ConfigError, match="mode: no job named 'trian'; did you mean 'train'"):
        expunge.load_job("trian", [])


def test_wrong_arguments_of_a_study_are_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^study: is '.*mine.yaml' already; open another one by its own call$"):
        expunge.Study.from_yaml(file, "study=quickstart")
    with pytest.raises(ConfigError, match=r"^overrides\[1\]: expected a text, got an int$"):
        expunge.Study.from_yaml(file, 3)  # type: ignore[arg-type]
    study = expunge.Study.from_yaml(file)
    with pytest.raises(ConfigError, match=r"^show_progress: expected True, False or None, got 'yes'$"):
        study.run(show_progress="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^export_slurm: expected a path, got an int$"):
        study.export_slurm(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^export_slurm: .*mine.yaml is a file; name a folder$"):
        study.export_slurm(file)


def test_texts_are_judged() -> None:
    rules = {"rules": [{"contains_reference": True}]}
    texts = [{"generation": "It is Rome.", "reference": "Rome"}, {"text": "No idea.", "reference": "Oslo"}]
    verdict = expunge.judge(rules, texts)
    assert (verdict.mean, verdict.n) == (0.5, 2)
    for settings in ({"rules": [{"max_words": 2}]}, {"rules": {"rules": [{"max_words": 2}]}}):
        assert expunge.judge(settings, ["one two", "one two three"]).mean == 0.5
    with pytest.raises(expunge.ConfigError, match=r"^judge\.model\.model: .*nowhere"):
        expunge.judge({"model": {"model": "./nowhere", "question": "Is it true?"}}, ["fine"])
    with pytest.raises(DataError, match="text 1: no column 'generation' or 'text'"):
        expunge.judge(rules, ["fine", {"answer": "Rome"}])
    with pytest.raises(ConfigError, match="expected a judge"):
        expunge.judge(lambda text: 1.0, ["fine"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rules"):
        expunge.judge({"rls": []}, ["fine"])
