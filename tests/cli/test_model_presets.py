"""Every model that ships decodes, and the experiments and the study of this kind compose."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from expunge.cli.compose import CONF, options, single_tree, study_tree
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task

EXPERIMENTS = [
    "eval/rwku/default",
    "eval/semeval/default",
    "finetune/semeval/default",
    "unlearn/knowundo/default",
    "unlearn/r_tofu/default",
    "unlearn/rwku/default",
    *(f"unlearn/semeval/{name}" for name in ("default", "GA", "GD", "KL", "NPO", "iterative")),
]


def single(mode: str, *words: str) -> SingleJob:
    return decode_task(SingleJob, single_tree(mode, [*words, "task_name=x"])[0])


@pytest.mark.parametrize("model", options("model"))
def test_every_model_decodes(model: str) -> None:
    content = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())
    task = decode_task(SingleJob, {"mode": "eval", "task_name": "x", "model": content})
    if task.model.source is None:
        assert task.model.preset == model
        return
    assert task.model.source.rpartition("/")[2] == model.removesuffix("-arcsf")
    assert not task.model.model_args.trust_remote_code
    template = task.template_args
    assert template.apply_chat_template or template.user_end_tag


def test_every_model_composes_over_another() -> None:
    settings = single("eval", "model=Qwen3-0.6B")
    assert settings.model.source == "Qwen/Qwen3-0.6B"
    assert settings.template_args.asst_start_tag == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert settings.template_args.date_string is None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    mode, benchmark, _ = experiment.split("/")
    settings = single(mode.replace("finetune", "train"), f"experiment={experiment}")
    assert settings.benchmark == benchmark
    if benchmark == "semeval":
        assert settings.eval.generation.max_new_tokens == 256


def test_the_study_of_own_rows_composes() -> None:
    assert decode_study(study_tree(["study=custom", "forget=rows.csv"])).name == "custom"


def test_the_model_of_the_command_line_wins_over_the_experiments() -> None:
    assert single("unlearn", "experiment=unlearn/semeval/GD").model.source == "allenai/OLMo-7B-0724-Instruct-hf"
    settings = single("unlearn", "experiment=unlearn/semeval/iterative", "model=llama-1m")
    assert settings.model.preset == "llama-1m" and settings.model.source is None
    assert settings.trainer.handler == "SemEvalGA" and settings.trainer.method_args["nll_weight"] == 0.5


def test_a_folder_of_a_shipped_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["benchmark=world", "model=gpt2", "task_name=x"]
    assert not single_tree("eval", words)[1]
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    note = "model=gpt2: the model of this name that comes with the package; for the folder: model=./gpt2"
    assert note in single_tree("eval", words)[1]
