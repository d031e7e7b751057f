"""A user's own study file: what it may say, and what is told when it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.compose import study_tree
from expunge.core.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]

MINE = """
benchmark: world
model: llama-64k
data: {world: {authors: 8, questions_per_author: 3, facts: 4}}
train: {learning_rate: 1e-3, num_train_epochs: 2}
unlearn: {num_train_epochs: 1}
methods:
  - {trainer: NPO, method_args: {beta: 0.5}, args: {learning_rate: 5e-4}}
  - {trainer: GradDiff, label: diff}
seeds: {train: [0], unlearn: [0, 1]}
"""


def test_a_file_of_ones_own(here: Path, expunge: Run) -> None:
    (here / "mine.yaml").write_text(MINE)
    code, out, errors = expunge("plan", "study=mine.yaml", "--json")
    assert code == 0, errors
    labels = {job["label"] for job in json.loads(out) if job["kind"] == "unlearn"}
    assert labels == {"NPO(beta=0.5)-u0", "NPO(beta=0.5)-u1", "diff-u0", "diff-u1"}
    code, out, errors = expunge("plan", "study=mine.yaml", "seeds.unlearn=[3]", "train.num_train_epochs=4", "--json")
    assert code == 0, errors
    assert len([job for job in json.loads(out) if job["kind"] == "unlearn"]) == 2


def test_a_model_in_the_file_may_be_a_mapping(here: Path, expunge: Run) -> None:
    (here / "mine.yaml").write_text(MINE.replace("model: llama-64k", "model: {preset: llama-64k, vocab_size: 400}"))
    code, out, errors = expunge("plan", "study=mine.yaml", "--json")
    assert code == 0, errors
    assert json.loads(out)[0]["label"] == "llama-64k"


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        ("methods: [", (), ("mine.yaml", "not YAML")),
        ("- a\n- b\n", (), ("mine.yaml",)),
        (MINE.replace("learning_rate: 1e-3", "learning_rat: 1e-3"), (), ("train.learning_rat", "train.learning_rate")),
        (MINE.replace("benchmark: world", "benchmark: tofoo"), (), ("benchmark", "'tofu'")),
        (MINE.replace("beta: 0.5", "bta: 0.5"), (), ("methods[0].method_args.bta", "'beta'")),
        (MINE.replace("args: {learning_rate: 5e-4}", "args: {lr: 5e-4}"), (), ("methods[0].args.lr", "learning_rate")),
        (MINE, ("trian.max_steps=1",), ("trian.max_steps", "train.max_steps")),
        (MINE, ("seeds.unlearn=[",), ("seeds.unlearn",)),
        (MINE, ("data.refusals=none.txt",), ("data.refusals", "none.txt")),
        (MINE, ("model=llama-65k",), ("model",)),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    text: str, words: tuple[str, ...], parts: tuple[str, ...], here: Path, expunge: Run
) -> None:
    (here / "mine.yaml").write_text(text)
    code, _, errors = expunge("plan", "study=mine.yaml", *words)
    assert code == 2
    assert len(errors.splitlines()) == 1, errors
    for part in parts:
        assert part in errors


def test_a_group_where_a_list_belongs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("methods: {trainer: NPO}\n")
    with pytest.raises(ConfigError, match=r"methods: expected a list, got \{'trainer': 'NPO'\}"):
        study_tree([f"study={path}"])
