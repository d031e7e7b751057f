"""`--multirun`: a job for each combination of values, in Hydra's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.multirun import combinations
from expunge.core.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]


def test_the_product_with_the_last_changing_fastest() -> None:
    result = combinations(
        "unlearn",
        [
            "trainer=NPO,GradAscent",
            "trainer.args.learning_rate=1e-5,1e-4",
            "task_name=x",
            "eval.extras=[rmia]",
            "trainer.method_args.a=range(3)",
        ],
    )
    assert len(result) == 2 * 2 * 3
    name, words = result[1]
    choice = ["trainer=NPO", "trainer.args.learning_rate=1e-05", "trainer.method_args.a=1"]
    assert name == "trainer=NPO,learning_rate=1e-05,a=1"
    assert words == [f"task_name=x/{name}", "eval.extras=[rmia]", *choice]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task_name=x"], "no value is a list"),
        (["task_name=x,y"], "task_name and paths.output_dir take one value"),
        (["a=interval(0,1)"], "does not support sweep type"),
        (["a=1,,2"], "--multirun: "),
        (["a=1,1.0,1"], "two combinations have the same name"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        combinations("unlearn", words)


WORLD = (
    "data.world.authors=6",
    "data.world.questions_per_author=2",
    "data.world.facts=2",
    "data.world.holdout_authors=0",
)


@pytest.mark.slow
def test_a_value_that_fails_stops_no_other_and_a_wrong_one_stops_all(here: Path, expunge: Run) -> None:
    words = (
        "train", "-m", "benchmark=world", "model=llama-64k", "trainer=finetune", "task_name=x", *WORLD,
        "trainer.args.max_steps=1", "train_split=full", "eval.generation.max_new_tokens=1",
    )  # fmt: skip
    code, _, errors = expunge(*words, "trainer.args.learning_rate=1e-4,-1")
    assert code == 2 and "learning_rate=-1: trainer.args.learning_rate" in errors
    assert not (here / "saves").exists()
    code, out, errors = expunge(*words, "trainer.args.learning_rate=1e-4,2e-4", "trainer.args.max_loss=1e-6,1e6")
    assert code == 1, errors + out
    folders = sorted(p.name for p in (here / "saves" / "train" / "x").iterdir())
    assert folders == ["learning_rate=0.0001,max_loss=1000000.0", "learning_rate=0.0002,max_loss=1000000.0"]
    assert "failed: learning_rate=0.0001,max_loss=1e-06: " in out and "the loss passed the limit" in out
