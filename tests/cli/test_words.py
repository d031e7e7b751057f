"""The words of a command line: text is taken as it stands, other values by the type of their key."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.cli.compose import single_tree, study_tree
from expunge.cli.schema import hint_of, is_text, item_hint
from expunge.cli.words import parse_value, split_words
from expunge.core.errors import ConfigError

HOSTILE = [
    "rows (1).csv", "a=b.csv", "a==b", "#1.csv", "a #b.csv", "a,b.csv", "O'Brien.csv", '"quoted".csv', "'quoted'",
    '"Yes" or "no"', "[1].csv", "[a", "a]", "{x}.csv", "{x", "x}", "вопросы.csv", "答え.csv", "naïve.csv", "a\tb.csv",
    "a\nb", "\n", " leading", "trailing ", "C:\\rows\\new.csv", "back\\", "\\", "${HOME}.csv", "${data.root}", "$HOME",
    "???", "a:b.csv", "a;b.csv", "a|b.csv", "a&b.csv", "*.csv", "~/rows.csv", "+x", "~x", "-x", "--keep", "@rows",
    "100%", "1e-5", "007", "true", "No", "yes", "[]", "{}", "!tag", "? a", "- a", "a # b", "", "`a`", "<|im_start|>",
    "choice(a,b)", "range(3)", "glob(*)", "a  b", "\u200b", "\ufeff.csv", "🦊.csv", "x" * 3000,
]  # fmt: skip
TEXT_KEYS = [
    "forget", "retain", "forget_split", "data.root", "data.args.holdout", "model.template_args.system_prompt",
    "model.template_args.user_start_tag", "model.model_args.pretrained_model_name_or_path", "paths.output_dir",
    "task_name",
]  # fmt: skip


def value_at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_the_table_is_long() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_command_line_is_taken_as_it_stands(text: str) -> None:
    words = [f"{key}={text}" for key in TEXT_KEYS]
    tree, _ = single_tree("unlearn", ["benchmark=custom", "trainer=NPO", *words])
    assert [value_at(tree, key) for key in TEXT_KEYS] == [text] * len(TEXT_KEYS)
    study = study_tree(["study=custom", f"forget={text}", f"launch.slurm.env.X={text}"])
    assert (study["forget"], study["launch"]["slurm"]["env"]["X"]) == (text, text)


@given(st.text())
def test_any_text_is_taken_as_it_stands(text: str) -> None:
    (word,) = split_words([f"forget={text}"])
    value = parse_value("run", word.key, word.text)
    assert value == (None if text == "null" else text)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["task_name=t", "trainer", "=", "NPO"], "write trainer=VALUE, without blanks"),
        (["task_name=t", "trainer.args.seed", "=1"], "write trainer.args.seed=1, without blanks"),
        (["task_name=t", "trainer=", "NPO"], "write trainer=NPO, without blanks"),
        (["task_name=t", " trainer=NPO"], "write trainer=NPO; a backslash continues a command"),
    ],
)
def test_blanks_around_a_word_are_named(words: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        single_tree("unlearn", words)


def test_null_is_no_value_where_the_key_allows_it() -> None:
    assert parse_value("run", "forget", "null") is None
    assert parse_value("unlearn", "train_split", "null") == "null"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.learning_rate", "1e-5", 1e-5),
        ("train.max_steps", "-1", -1),
        ("train.bf16", "true", True),
        ("train.lora", "{r: 4, target_modules: [q_proj, v_proj]}", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
        ("seeds.unlearn", "[0,1,2]", [0, 1, 2]),
        ("seeds.unlearn", "0,1,2", [0, 1, 2]),
        ("seeds.unlearn", "3", [3]),
        ("audits", "relearn,quantize", ["relearn", "quantize"]),
        ("audits", "relearn", ["relearn"]),
        ("audits", "[{name: relearn, rows: 4}]", [{"name": "relearn", "rows": 4}]),
        ("eval.generation.stop", "[a, b]", ["a", "b"]),
        ("eval.generation.stop", "it's", ["it's"]),
        ("train.evaluate.panel", "fast", "fast"),
        ("train.evaluate.panel", "a,b", ["a", "b"]),
        ("train.evaluate.losses", "null", None),
        ("meta", "null", None),
        ("requests", "4", 4),
        ("data.args.n", "3", 3),
        ("data.args.ratio", "0.5", 0.5),
        ("data.args.of", "a b (c)", "a b (c)"),
    ],
)
def test_other_values_follow_the_type_of_their_key(key: str, text: str, value: Any) -> None:
    assert parse_value("run", key, text) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["audits=[relearn,", "quantize]"],
            r"the shell split the value of audits. Write 'audits=\[relearn, quantize\]'",
        ),
        (["audits=[relearn"], "no closing bracket.*quote the whole word"),
        (["seeds.unlearn=[0,"], "no closing bracket"),
        (["train.learning_rate=1e-5,1e-4"], "several values; -m runs a job for each"),
        (["model.template_args.system_prompt=Be", "brief."], "if it belongs to model.template_args.system_prompt"),
        (["quickstart"], "'quickstart': not of the form key=value"),
        (["=x"], "not of the form key=value"),
    ],
)
def test_a_word_that_cannot_be_read_says_what_to_type(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_tree(["study=quickstart", *words])


def test_a_key_below_an_empty_group_begins_it() -> None:
    tree = study_tree(["study=quickstart", "unlearn.lora.r=4", "~unlearn.checkpoint"])
    assert tree["unlearn"]["lora"] == {"r": 4}
    assert "checkpoint" not in tree["unlearn"]


def test_the_types_of_keys() -> None:
    assert is_text(hint_of("run", "data.args.holdout")) and is_text(hint_of("unlearn", "trainer.args.optim"))
    assert item_hint(hint_of("run", "seeds.train")) is int
    assert hint_of("run", "trainer.args.optim") is None and hint_of("unlearn", "unlearn.optim") is None
    assert hint_of("run", "template_args") is None and hint_of("run", "model.template_args.compat") is not None


@pytest.mark.parametrize("text", ["{a:1,a:2}", "{b:{a:1, a: 2}}", "[{a:1},{a:1,b:2,a:1}]", "{a:1,b:[{c:1,c:1}]}"])
def test_a_key_stands_once_in_a_mapping(text: str) -> None:
    with pytest.raises(ConfigError, match=r"the key '[ac]' stands twice in one mapping; write it once$"):
        parse_value("run", "train", text)


def test_a_key_stands_in_several_mappings() -> None:
    assert parse_value("run", "train", "{a:{a:1},b:{a:[{a:1},{a:2}]}}") == {
        "a": {"a": 1},
        "b": {"a": [{"a": 1}, {"a": 2}]},
    }


def test_a_setting_of_a_method_in_a_study_names_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^beta: unknown key; .*'methods=\[\{trainer: \w+, method_args: \{beta: "):
        study_tree(["study=quickstart", "beta=0.1"])
