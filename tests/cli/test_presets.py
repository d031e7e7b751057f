"""Every model, every experiment and every study that ships composes and decodes."""

from __future__ import annotations

import pytest

from expunge.cli.compose import options, single_tree, study_tree
from expunge.study.config import decode_study, decode_task
from expunge.study.single import Single

MODES = {"finetune": "train", "unlearn": "unlearn", "eval": "eval"}


def single(mode: str, *words: str) -> Single:
    return decode_task(Single, single_tree(mode, [*words, "task_name=x"])[0])


@pytest.mark.parametrize("model", options("model"))
def test_every_model_composes(model: str) -> None:
    chosen = single("eval", f"model={model}")
    if chosen.model.source is None:
        assert chosen.model.preset == model
        return
    assert chosen.model.source.rpartition("/")[2] == model.removesuffix("-arcsf")
    assert not chosen.model.model_args.trust_remote_code
    template = chosen.template_args
    tags = (template.user_start_tag, template.user_end_tag, template.asst_start_tag)
    assert template.apply_chat_template or any(tags)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    mode, benchmark, _ = experiment.split("/")
    chosen = single(MODES[mode], f"experiment={experiment}")
    assert chosen.benchmark == benchmark


@pytest.mark.parametrize("study", options("study"))
def test_every_study_composes(study: str) -> None:
    words = [f"study={study}", "forget=rows.csv"] if study == "custom" else [f"study={study}"]
    assert decode_study(study_tree(words)).name == study


def test_the_model_of_the_command_line_wins_over_the_experiments() -> None:
    assert single("unlearn", "experiment=unlearn/semeval/GD").model.source == "allenai/OLMo-7B-0724-Instruct-hf"
    chosen = single("unlearn", "experiment=unlearn/semeval/iterative", "model=llama-1m")
    assert chosen.model.preset == "llama-1m" and chosen.model.source is None
    assert chosen.trainer.handler == "SemEvalGA" and chosen.trainer.method_args["nll_weight"] == 0.5
    assert chosen.eval.generation.max_new_tokens == 256
