"""`expunge help KEY` answers each key that a shipped file of settings or a page names."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_commands import PAGES, commands, yaml_texts

from expunge.cli.commands.help import show_key
from expunge.cli.compose import CONF
from expunge.core.errors import ConfigError

FILES = [file for file in sorted(CONF.rglob("*.yaml")) if file.parent.name != "accelerate"]
COMMANDS = ("run", "plan", "report", "results", "export", "train", "unlearn", "eval", "audit", "erase", "config")
OTHERS = {
    "key": "a placeholder",
    "methods[].method_args.floor": "a setting of the plugin that tutorial 3 writes",
    **dict.fromkeys(("rules[].any_of", "rules[].max_words", "rules[].regex"), "keys of a file for `expunge judge`"),
}


def keys_of(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a tree of settings; a list's items have `[]`."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield f"{prefix}{name}"
            yield from keys_of(value, f"{prefix}{name}.")
    elif isinstance(tree, list):
        for item in tree:
            yield from keys_of(item, f"{prefix.removesuffix('.')}[].")


def keys_of_file(file: Path) -> set[str]:
    tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    keys = {key for key in keys_of(tree) if key.partition(".")[0].partition("[")[0] not in ("defaults", "hydra")}
    return {f"model.{key}" for key in keys} if file.parent.name == "model" else keys


def keys_of_page(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    words = [word for words, _ in commands(text) if words[0] in COMMANDS for word in words]
    keys = {word.partition("=")[0].lstrip("+") for word in words if "=" in word and word[0] != "-"}
    trees = [tree for tree in map(yaml.safe_load, yaml_texts(text)) if isinstance(tree, dict)]
    return {key for key in keys if " " not in key} | {
        key for tree in trees for key in keys_of(tree) if not key.startswith("defaults")
    }


def answered(key: str) -> bool:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            return show_key(key) == 0 and bool(out.getvalue().strip())
        except ConfigError:
            return False


@pytest.mark.slow
def test_each_key_of_a_shipped_file_has_an_answer() -> None:
    assert len(FILES) > 100
    assert sorted(key for key in set().union(*map(keys_of_file, FILES)) if not answered(key)) == []


def test_each_key_of_a_page_has_an_answer() -> None:
    keys = set().union(*map(keys_of_page, PAGES)) - OTHERS.keys()
    assert len(keys) > 100
    assert sorted(key for key in keys if not answered(key)) == []


@pytest.mark.parametrize(
    ("key", "page"),
    [
        ("data.args.target", "SetSizes in data/procedural/sets.py"),
        ("methods[].method_args.gamma", "trainer.method_args.gamma"),
        ("methods.method_args.n_forget", "InContext in models/wrappers/in_context.py"),
        ("methods[].args.learning_rate", "trainer.args.learning_rate"),
        ("trainers.WGA.method_args.beta", "WGA in methods/wga.py"),
        ("models.gemma-7b-it.model_args.dtype", "model.model_args.dtype"),
        ("grid.training.long.train.learning_rate", "train.learning_rate"),
        ("sweep.space.args.learning_rate.high", "trainer.args.learning_rate"),
        ("audits[].forms", "audits/quantize.py"),
        ("trainer.args.grad_transform_args.refresh", "methods/grad_transforms"),
        ("data.args.operand_prior.a", "data.args.operand_prior"),
        ("study", "expunge list studies"),
    ],
)
def test_a_key_is_found_in_each_place_where_it_may_stand(
    key: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_key(key) == 0
    assert page in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("key", ["data.args.targt", "methods[].method_args.gama", "trainer.args.learning_rat", "studi"])
def test_a_wrong_key_has_no_answer(key: str) -> None:
    assert not answered(key)
