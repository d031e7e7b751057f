"""`--push`: a stub of the hub receives the model's files and the card, and nothing that contains texts of rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.upload_stub import Hub

from expunge.cli.commands.push import push_erasure, push_job
from expunge.cli.main import main
from expunge.core.errors import ConfigError, JobError
from expunge.core.hub import card, check_repository, upload
from expunge.metrics.api import MetricResult
from expunge.models.folder_files import model_files
from expunge.report.model import ReportModel, ReportRun
from expunge.report.query import read_results, write_results


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    for name in (
        "TOFU_EVAL.json",
        "rows.parquet",
        "job.json",
        "log.jsonl",
        ".expunge-key",
        "config.yaml",
        "forget.json",
    ):
        (folder / name).write_text("a text of a row")
    (folder / "README.md").write_text("---\nerasure_commitment: ab\n---\n# erased\n")
    return folder


def words(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"push": "me/forgetful", "public": False, "json": False, **more})


def test_a_model_is_pushed_with_its_card_alone(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = SimpleNamespace(handler="NPO", method_args={"beta": 0.1})
    start = SimpleNamespace(source="/home/me/start")
    single = SimpleNamespace(trainer=trainer, mode="unlearn", benchmark="tofu", model=start)
    benchmark = SimpleNamespace(forget_set="forget", sets={"forget": [0] * 20})
    setting = SimpleNamespace(benchmark=benchmark)
    prepared = SimpleNamespace(single=single, model=SimpleNamespace(key="f" * 64), setting=setting)
    (model / ".expunge-key").write_text(f"store {'a' * 16} job {'b' * 64}\n")
    done = SimpleNamespace(folder=model, summary={"forget_Q_A_Prob": 0.25, "none": None}, verdict=None)
    push_job(words(), done, prepared, "expunge unlearn x=1")
    assert hub.created == [{"name": "me/forgetful", "repo_type": "model", "private": True, "exist_ok": True}]
    own = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert set(hub.files) == own | {"README.md"}
    text = hub.files["README.md"].decode()
    assert "- **start**: start" in text and "/home/me" not in text
    for part in ("tags: [expunge, unlearning]", "NPO", "beta=0.1", "b" * 64, "`expunge unlearn x=1`", "| 0.25 |"):
        assert part in text
    assert "f" * 64 not in text
    assert not any(b"a text of a row" in content for content in hub.files.values())
    assert capsys.readouterr().out == "pushed:  https://hub.example/me/forgetful\n"


def test_an_erasure_keeps_the_card_with_its_commitment(hub: Hub, model: Path) -> None:
    push_erasure(words(public=True), model)
    assert hub.created[0]["private"] is False
    assert b"erasure_commitment: ab" in hub.files["README.md"]


def test_results_are_a_dataset(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = (ReportRun("NPO", "unlearn", "NPO", "", 0, {"model_utility": MetricResult(0.5)}),)
    folder = tmp_path / "saves" / "study" / "mine"
    folder.mkdir(parents=True)
    write_results(ReportModel("t", "mine", "c", "now", {"forget": 8}, runs), folder)
    assert main(["results", "--push", "me/numbers"]) == 0
    assert hub.created[0]["repo_type"] == "dataset"
    assert set(hub.files) == {"README.md", "results.parquet"}
    (tmp_path / "back.parquet").write_bytes(hub.files["results.parquet"])
    assert read_results([tmp_path / "back.parquet"])["value"].to_pylist() == [0.5]
    assert "Results of mine" in hub.files["README.md"].decode()
    assert "pushed:  https://hub.example/me/numbers" in capsys.readouterr().out
    assert main(["results", "--push", "me/numbers", "--format", "csv"]) == 2
    assert "leave out --query and --format" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a/b/c", "me/ space", "-x/y", "https://hub.example/me/x", "me/..x"])
def test_a_wrong_repository_ends_before_anything_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="write OWNER/NAME"):
        check_repository(name)
    assert main(["unlearn", "experiment=unlearn/tofu/default", f"--push={name}"]) == 2
    assert "--push: " in capsys.readouterr().err
    assert main(["erase", f"--push={name}", "--model", "none", "--forget", "none.csv", "--out", "x"]) == 2
    assert "--push: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--public"], "--public: belongs to --push OWNER/NAME"),
        (["--push", "me/x", "--multirun"], "--push: uploads one model; leave out --multirun"),
    ],
)
def test_options_that_do_not_fit(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=finetune/tofu/default", *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("refusal", [ConnectionError("no route\nto host"), ValueError("401 unauthorised")])
def test_a_refusal_of_the_hub_is_one_line(hub: Hub, model: Path, refusal: Exception) -> None:
    hub.refusal = refusal
    with pytest.raises(JobError, match=r"^--push: me/x was not uploaded: [^\n]+; the local result is complete"):
        upload("me/x", "model", model_files(model), "card")


def test_a_card_is_plain_markdown() -> None:
    text = card("T", ["unlearning"], ["about"], {"a": "1\n2", "empty": ""}, "## More")
    assert text == "---\ntags: [expunge, unlearning]\n---\n\n# T\n\nabout\n\n- **a**: 1 2\n\n## More\n"
