"""Configuration words of earlier releases: each has its present name, and a notice."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.core.renamed import rename_flags, rename_key, rename_keys, rename_tree


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.head_chunk", "train.logits_chunk_size"),
        ("unlearn.loss_limit", "unlearn.max_loss"),
        ("trainer.args.finegrained_log_iters", "trainer.args.dense_logging_steps"),
        ("trainer.args.step_args.rho", "trainer.args.grad_transform_args.rho"),
        ("grid.unlearn.step", "grid.unlearn.grad_transform"),
        ("sweep.space.args.step_args.rho", "sweep.space.args.grad_transform_args.rho"),
        ("keep.weights", "store.keep_weights"),
        ("keep.delta", "keep.delta"),
        ("eval.rows.part", "eval.split"),
        ("data.args.step", "data.args.step"),
        ("trainer.method_args.step", "trainer.method_args.step"),
        ("train.learning_rate", "train.learning_rate"),
    ],
)
def test_keys(old: str, new: str) -> None:
    notes: list[str] = []
    assert rename_key("run", old, notes) == new
    assert bool(notes) == (old != new)
    assert rename_key("run", new, []) == new


def test_a_whole_study() -> None:
    old = {
        "train": {"head_chunk": 0, "step": "sam", "step_args": {"rho": 0.1}},
        "unlearn": {"loss_limit": 5},
        "methods": [{"trainer": "UNDO", "of": ["NPO"], "args": {"loss_limit": 3}, "grid": {"args.head_chunk": [1]}}],
        "grid": {"unlearn.loss_limit": [1, 2], "part": {"a": {"eval.rows.part": "report"}}},
        "keep": {"weights": "best"},
        "eval": {"rows": {"share": 0.3}},
        "data": {"args": {"step": 1}},
    }
    notes: list[str] = []
    assert rename_tree("run", old, "", notes) == {
        "train": {"logits_chunk_size": 0, "grad_transform": "sam", "grad_transform_args": {"rho": 0.1}},
        "unlearn": {"max_loss": 5},
        "methods": [
            {"trainer": "UNDO", "from": ["NPO"], "args": {"max_loss": 3}, "grid": {"args.logits_chunk_size": [1]}}
        ],
        "grid": {"unlearn.max_loss": [1, 2], "part": {"a": {"eval.split": "report"}}},
        "store": {"keep_weights": "best"},
        "eval": {"split_share": 0.3},
        "data": {"args": {"step": 1}},
    }
    assert "methods.of is now methods.from; the old name works for this release" in notes
    assert all("is now" in note for note in notes) and len(notes) == len(set(notes))


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"unlearn": {"loss_limit": 1, "max_loss": 2}},
            r"^unlearn\.loss_limit: is the old name of unlearn\.max_loss",
        ),
        (
            {"methods": [{"of": ["NPO"], "from": ["NPO"]}]},
            r"^methods\.of: .*; leave methods\.of out$",
        ),
        ({"grid": {"train.step": [1], "train.grad_transform": [2]}}, r"^grid\.train\.step: .*train\.grad_transform"),
        ({"keep": {"weights": "all"}, "store": {"keep_weights": "all"}}, r"^keep\.weights: .* store\.keep_weights"),
    ],
)
def test_an_old_name_next_to_its_new_one(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rename_tree("run", tree, "", [])


def test_an_old_word_next_to_its_new_one() -> None:
    with pytest.raises(ConfigError, match=r"^eval\.rows\.part: is the old name of eval\.split, which is set as well"):
        rename_keys("run", ["eval.split", "eval.rows.part"], [])
    with pytest.raises(ConfigError, match=r"^erase --keep: is the old name of --retain"):
        rename_flags(["erase", "--keep=a", "--retain", "b"], [])
    keys = ["train.step", "train.step", "train.step_args.rho"]  # a word that is repeated is no second name
    assert rename_keys("run", keys, []) == ["train.grad_transform"] * 2 + ["train.grad_transform_args.rho"]


def test_an_old_name_moves_to_an_empty_group() -> None:
    assert rename_tree("run", {"keep": {"weights": "all"}, "store": None}, "", []) == {"store": {"keep_weights": "all"}}


def test_flags_of_a_command() -> None:
    notes: list[str] = []
    words = ["erase", "--keep", "a.csv", "--floor=0.8", "--target", "0.1", "--unseen=b", "--full-data", "c"]
    assert rename_flags(words, notes) == [
        "erase", "--retain", "a.csv", "--min-utility=0.8", "--max-residual", "0.1", "--holdout=b", "--train-data", "c",
    ]  # fmt: skip
    assert notes[0] == "erase --keep is now --retain; the old name works for this release"
    assert rename_flags(["gc", "study=a", "--keep", "best"], notes) == ["gc", "study=a", "--keep", "best"]
    assert rename_flags(["inside", "probe", "--against", "x"], [])[2] == "--compare-with"
