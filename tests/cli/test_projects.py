"""Words of other projects become ours."""

from __future__ import annotations

import re

import pytest

from expunge.cli.compose import compose
from expunge.cli.main import main
from expunge.cli.projects import PUBLISHED, with_compat
from expunge.cli.schema import hint_of
from expunge.core.errors import ConfigError


@pytest.mark.parametrize(
    ("project", "settings"),
    [
        (
            "semeval",
            [
                "model.model_args.dtype=bfloat16",
                "model.model_args.batched=false",
                "eval.generation.max_new_tokens=256",
            ],
        ),
        ("arcsf", ["data.args.compat=arcsf"]),
    ],
)
def test_a_projects_name_stands_for_its_settings(project: str, settings: list[str]) -> None:
    words, notes = with_compat([f"compat={project}"])
    assert words == settings and notes == [f"compat={project} stands for {' '.join(settings)}"]


def test_a_setting_of_the_user_wins() -> None:
    tree = compose(
        "eval", ["eval.generation.max_new_tokens=9", "compat=semeval", "benchmark=semeval", "task_name=x"]
    ).tree
    assert tree["eval"]["generation"]["max_new_tokens"] == 9


def test_an_unknown_project() -> None:
    with pytest.raises(ConfigError, match=r"compat=semevl: no such project; did you mean 'semeval'"):
        with_compat(["compat=semevl"])


def test_a_command_without_such_keys_has_no_answer_for_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--delta", "study=quickstart"]) == 2
    assert "method_args" not in capsys.readouterr().err


def test_options_of_the_stories_script_are_answered_with_the_right_name() -> None:
    with pytest.raises(
        ConfigError, match=r"^batch_size: unknown key; write trainer\.args\.per_device_train_batch_size$"
    ):
        compose("train", ["experiment=stories/pretrain", "batch_size=32", "task_name=x"])


@pytest.mark.parametrize(("option", "key"), [pair for pair in PUBLISHED.items() if pair[0] != "seed"])  # acts
def test_the_answer_for_an_option_is_a_key(option: str, key: str) -> None:
    free = key.startswith(("trainer.method_args.", "data.args."))  # their keys depend on the method or the benchmark
    assert key == "trainer" or free or hint_of("unlearn", key) is not None
    with pytest.raises(ConfigError, match=rf"^{option}: unknown key; write {re.escape(key)}$"):
        compose("unlearn", ["experiment=unlearn/tofu/default", f"{option}=1", "task_name=x"])


@pytest.mark.parametrize("option", ["dim", "vocab_size", "init_from", "decay_lr", "top_k", "min_lr", "wandb_log"])
def test_an_option_without_a_key_is_answered(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}: unknown key; (write|leave it out)"):
        compose("train", ["experiment=stories/pretrain", f"{option}=1", "task_name=x"])


def test_the_texts_of_stories_are_no_setting_of_a_job() -> None:
    with pytest.raises(ConfigError, match=r"^compat=tinystories: is for the texts of stories"):
        compose("train", ["experiment=stories/pretrain", "compat=tinystories", "task_name=x"])


def test_open_unlearning_is_a_profile() -> None:
    with pytest.raises(ConfigError, match="write profile=openunlearning"):
        with_compat(["compat=open-unlearning"], "unlearn")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("train --batch_size=32", "for batch_size, write trainer.args.per_device_train_batch_size"),
        ("config train --batch_size=32", "for batch_size, write trainer.args.per_device_train_batch_size"),
        ("train --experiment_name=tofu/full_0", "for experiment_name, write expunge import arcsf"),
        ("eval --checkpoint_path=m", "for checkpoint_path, write model.model_args.pretrained_model_name_or_path"),
        ("eval --mmlu_metrics_file_path=x", "for mmlu_metrics_file_path, write data.args.mmlu_accuracy=NUMBER"),
        ("unlearn --refresh saves/eval/x", "for refresh, write expunge eval --refresh FOLDER"),
        (
            "evaluate_generations.py --data_path=x",
            "write `expunge eval experiment=eval/semeval/default compat=semeval`",
        ),
        ("data stories download", "write `expunge data stories import roneneldan/TinyStories"),
        ("tinystories.py pretokenize", "write `expunge data stories` in place of"),
        ("scripts/gen_configs.py tofu_test", "write `expunge import arcsf"),
    ],
)
def test_commands_of_these_projects_are_answered(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert answer in capsys.readouterr().err
