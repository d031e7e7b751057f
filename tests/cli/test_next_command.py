"""The command that a single job proposes is complete: it reads the same data and the job's own result."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import yaml

from expunge.cli.next_command import next_command

FOLDER = Path("saves/unlearn/npo")
WORLD = {"benchmark": "world", "data": {"world": {"authors": 6}}, "eval": {"split": "all"}}


def parsed(*words: str) -> argparse.Namespace:
    return argparse.Namespace(overrides=list(words), plugin=["own.py"], allow_env=False)


def measured(folder: Path, age_s: int = 0, **changes: object) -> None:
    (folder / "evals").mkdir(parents=True)
    (folder / "evals" / "TOFU_EVAL.json").write_text("{}")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**WORLD, "task_name": folder.name, **changes}))
    os.utime(folder, (1_000_000 - age_s,) * 2)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_trained_model_is_unlearned_on_the_same_data() -> None:
    words = (
        "benchmark=world",
        "data.world.authors=6",
        "train_split=full",
        "trainer.args.max_steps=1",
        "task_name=full",
    )
    line = next_command("train", parsed(*words), Path("saves/train/my full"), None)
    assert line == (
        "expunge unlearn benchmark=world data.world.authors=6 trainer=NPO 'task_name=my full_NPO' "
        "'model=saves/train/my full' --plugin own.py"
    )
    words = ("experiment=finetune/tofu/default", "data.root=tofu", "model=llama-64k")
    line = next_command("train", parsed(*words), Path("saves/train/full"), None)
    assert line.startswith("expunge unlearn experiment=unlearn/tofu/default data.root=tofu trainer=NPO ")
    assert next_command("train", parsed("experiment=stories/pretrain"), FOLDER, None) == "expunge ui"


def test_an_unlearned_model_is_compared_with_its_start_model_which_is_measured_first() -> None:
    measured(FOLDER)
    words = ("experiment=unlearn/tofu/default", "trainer=NPO", "eval.generation.max_new_tokens=4", "model=Llama-3.2-1B")
    line = next_command("unlearn", parsed(*words), FOLDER, "owner/full")
    assert line == (
        "expunge eval experiment=eval/tofu/default eval.generation.max_new_tokens=4 model=Llama-3.2-1B "
        "model.model_args.pretrained_model_name_or_path=owner/full task_name=npo_before --plugin own.py"
    )
    named = parsed("benchmark=world", "model=saves/train/full")
    line = next_command("unlearn", named, FOLDER, "saves/train/full")
    assert line == "expunge eval benchmark=world model=saves/train/full task_name=npo_before --plugin own.py"
    assert next_command("eval", named, FOLDER, "saves/train/full") == "expunge ui"


def test_models_of_one_evaluation_are_compared() -> None:
    measured(FOLDER)
    measured(Path("saves/eval/other"), eval={"split": "report"})
    assert next_command("unlearn", parsed(), FOLDER, None) == "expunge ui"
    measured(Path("saves/eval/.part.1a2b.part"))  # another command writes it
    assert next_command("unlearn", parsed(), FOLDER, None) == "expunge ui"
    measured(Path("saves/eval/old"), age_s=100)
    measured(Path("saves/eval/new"), age_s=10)
    assert next_command("unlearn", parsed(), FOLDER, None).startswith(
        "expunge compare saves/eval/new saves/unlearn/npo"
    )


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "a: *b"])
def test_a_settings_file_of_another_form_is_passed_over(text: str) -> None:
    measured(FOLDER)
    measured(Path("saves/eval/other"))
    Path("saves/eval/other/config.yaml").write_text(text)
    assert next_command("unlearn", parsed(), FOLDER, None) == "expunge ui"
