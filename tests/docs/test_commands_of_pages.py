"""The commands of the pages work as pasted: quoted for bash and zsh, and with words that the command line has today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from page_commands import PAGES, ROOT, START, commands, tries, yaml_texts

from expunge.cli.commands.help import _choice_pages
from expunge.cli.config_files import options
from expunge.cli.main import _parsed
from expunge.cli.setting_keys import all_keys
from expunge.core.errors import UserError
from expunge.core.renamed import rename_flags, rename_key, rename_tree

STUDIES = ("run", "plan", "report", "results", "export")
JOBS = ("train", "unlearn", "eval", "audit", "erase")
OPEN = ("study", "experiment", "key")  # words that choose a file, and the placeholder of a setting
PASSED_ON = ("model.model_args.", "model.tokenizer_args.")  # arguments of transformers
INCOMPLETE = re.compile(r"required|expected one argument|invalid \w+ value: '[A-Z]+'|invalid choice: '[A-Z]+'")


def unquoted(command: str) -> str:
    """The command without what stands in quotes, and without a comment."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", command).partition(" #")[0]


def faults(words: list[str], *, whole: bool) -> list[str]:
    """Return what the command line refuses or renames. A command that is not `whole` may lack words."""
    notes: list[str] = []
    present = rename_flags([word for word in words if word != "..."], notes)
    try:
        _parsed(present)
    except UserError as error:
        notes += [] if not whole and INCOMPLETE.search(str(error)) else [str(error)]
    mode = "run" if words[0] in STUDIES else "train"
    for key, _, value in (word.lstrip("+").partition("=") for word in words if "=" in word and word[0] != "-"):
        if words[0] not in (*STUDIES, *JOBS) or " " in key:
            continue
        rename_key(mode, key, notes)
        if not (key in OPEN or key in all_keys() or _choice_pages(key) or key.startswith(PASSED_ON)):
            notes.append(f"{key}: no such key")
        shipped = key in ("study", "experiment") and re.fullmatch(r"[a-z][\w/-]*", value) and "NAME" not in value
        if shipped and value not in options(key):
            notes.append(f"{key}={value}: no such file")
    return notes


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_bracket_is_left_to_the_shell(page: Path) -> None:
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code = not code if line.startswith("```") else code
        result = START.match(line) if code or line.startswith("    ") else None
        if result is None or "|" in unquoted(result[1]):
            continue
        left = re.sub(r" \[[a-z-]+=[^ ]*\]| \[--[^]]*\]", "", unquoted(result[1]))  # optional parts
        assert not set("[]{}*?") & set(left.rstrip("\\")), f"{page.name} line {number}: {line.strip()}"
        if not result[1].endswith("\\"):
            shlex.split(result[1], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_command_line_knows_every_word(page: Path) -> None:
    texts = [(words, whole) for words, whole in commands(page.read_text(encoding="utf-8")) if words[0] != "inside"]
    assert [(words, notes) for words, whole in texts if (notes := faults(words, whole=whole))] == []


@pytest.mark.parametrize("folder", ["src/expunge", "examples/plugins"])
def test_the_commands_of_docstrings_are_whole(folder: str) -> None:
    texts = list(tries(ROOT / folder))
    jobs = [words for _, words in texts if words[0] in JOBS[:3]]
    assert jobs and not [words for words in jobs if not any(word.startswith("task_name=") for word in words)]
    assert [(file, notes) for file, words in texts if (notes := faults(words, whole=True))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_study_file_has_a_word_of_an_earlier_release(page: Path) -> None:
    notes: list[str] = []
    for tree in map(yaml.safe_load, yaml_texts(page.read_text(encoding="utf-8"))):
        if isinstance(tree, dict):
            rename_tree("run", tree, "", notes)
    assert notes == []


def test_an_unquoted_list_is_found() -> None:
    assert "[" in unquoted("expunge run study=quickstart audits=[relearn]")
    assert "[" not in unquoted("expunge run study=quickstart 'audits=[relearn]' # a [note]")


def test_a_command_is_found_whole() -> None:
    page = "See `expunge erase --dry-run` and:\n\n    expunge run study=x \\\n        --json > out  # why\n\n    x\n"
    page += "\n```bash\nexpunge results --query \"SELECT a\n  FROM b\" | head\ncat > s.yaml <<'END'\na: 1\nEND\n```\n"
    assert list(commands(page)) == [
        (["run", "study=x", "--json"], True),
        (["results", "--query", "SELECT a FROM b"], True),
        (["erase", "--dry-run"], False),
    ]
    assert list(yaml_texts(page)) == ["a: 1\n"]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("runn study=quickstart", "'run'"),
        ("run study=quickstat", "study=quickstat: no such file"),
        ("run study=quickstart --jsn", "--json"),
        ("run study=quickstart eval.rows.share=0.5", "eval.split_share"),
        ("unlearn trainer.args.learning_rat=1", "no such key"),
        ("erase --keep rows.csv", "--retain"),
        ("list", "required"),
    ],
)
def test_a_wrong_word_is_found(command: str, fault: str) -> None:
    assert any(fault in note for note in faults(command.split(), whole=True))
    assert not faults(["list"], whole=False)
