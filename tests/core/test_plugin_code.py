"""The key of a result covers the code of a plugin and of the modules that it imports."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from expunge.core.plugin_code import declared, with_code
from expunge.core.plugins import load_plugins
from expunge.evaluation.kinds import _KINDS
from expunge.methods.npo import NPO
from expunge.training.rewards.api import _REWARDS, find_reward

PLUGIN = """
from expunge.training.rewards.api import reward
import json, own_parts
from own_package import numbers

@reward("of_a_test", revision=3)
def of_a_test(rollouts):
    return [own_parts.ONE + numbers.TWO for _ in rollouts]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "plugin"
    (place / "own_package").mkdir(parents=True)
    for name, text in (
        ("mine.py", PLUGIN),
        ("own_parts.py", "from own_more import *\nONE = 1"),
        ("own_more.py", ""),
        ("other.py", ""),
        ("own_package/__init__.py", ""),
        ("own_package/numbers.py", "from . import deeper\nTWO = 2"),
        ("own_package/deeper.py", ""),
    ):
        (place / name).write_text(text)
    monkeypatch.setattr(sys, "path", sys.path.copy())  # loading a plugin adds its folder
    return place


def revision(folder: Path) -> int:
    """Load the plugin of a folder as a new process does."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("own_parts", "own_more", "own_package")]:
        del sys.modules[name]
    _REWARDS.remove("of_a_test")
    load_plugins([str(folder / "mine.py")])
    return find_reward("of_a_test").revision


@pytest.mark.parametrize(
    "name", ["mine.py", "own_parts.py", "own_more.py", "own_package/__init__.py", "own_package/numbers.py",
             "own_package/deeper.py"]
)  # fmt: skip
def test_an_edit_of_a_plugin_or_of_its_modules_changes_its_revision(folder: Path, name: str) -> None:
    before = revision(folder)
    assert declared(before) == 3 and before != 3 and revision(folder) == before
    (folder / name).write_text((folder / name).read_text() + "\n# an edit")
    assert revision(folder) != before and declared(revision(folder)) == 3


def test_other_files_and_the_place_of_a_plugin_do_not_count(folder: Path) -> None:
    before = revision(folder)
    (folder / "other.py").write_text("X = 1")
    moved = Path(shutil.move(folder, folder.with_name("moved")))
    assert revision(moved) == before


def test_a_module_next_to_a_plugin_hides_no_package(folder: Path) -> None:
    (folder / "json.py").write_text("raise ValueError('hidden')")
    assert revision(folder)
    assert sys.path[-1] == str(folder) and sys.path.count(str(folder)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import later",
        "from spaces import later",
        "from own_package import later",
        "from own_package.lower import later",
        "import importlib; importlib.import_module('later')",
        "__import__('spaces.later')",
        "import runpy; runpy.run_path(FOLDER + '/later.py')",
        "import runpy; runpy.run_path(f'{FOLDER}/later.py')",
    ],
)
def test_a_module_that_a_function_imports_later_counts(folder: Path, code: str) -> None:
    places = [folder, folder / "spaces", folder / "own_package", folder / "own_package" / "lower"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / "later.py").write_text("X = 1")
    (folder / "own_package" / "lower" / "__init__.py").write_text("")
    with (folder / "mine.py").open("a") as file:
        file.write(f"\nFOLDER = '.'\ndef later():\n    {code}\n")
    before = revision(folder)
    assert revision(folder) == before and not {"later", "spaces", "spaces.later", "own_package.lower"} & set(
        sys.modules
    )
    for place in places:
        (place / "later.py").write_text("X = 2")
    assert revision(folder) != before


@pytest.mark.parametrize("call", ["make(1)", "reward('of_a_test')(functools.partial(plain, 1))"])
def test_the_arguments_of_an_imported_factory_count(folder: Path, call: str) -> None:
    (folder / "own_parts.py").write_text(
        "from expunge.training.rewards.api import reward\ndef plain(n, rollouts):\n    return [n for _ in rollouts]\n"
        "def make(n):\n    return reward('of_a_test')(lambda rollouts: plain(n, rollouts))\n"
    )
    revisions = []
    for n in "12":
        text = "import functools\nfrom expunge.training.rewards.api import reward\nfrom own_parts import make, plain\n"
        (folder / "mine.py").write_text(text + call.replace("1", n))
        revisions.append(revision(folder))
    assert revisions[0] != revisions[1]


@pytest.mark.parametrize("name", ["words.txt", "lists/more.txt", "current.txt"])
def test_a_file_that_a_plugin_names_counts(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lists").mkdir()
    for file in ("words.txt", "lists/more.txt", "other.txt"):
        (folder / file).write_text("one")
    (folder.parent / "current.txt").write_text("one")
    monkeypatch.chdir(folder.parent)
    with (folder / "own_parts.py").open("a") as code:
        code.write("\nPLACES = ['words.txt', ('lists', 'more.txt'), 'current.txt', 'absent.txt', '', '.', 'lists/']\n")
    before = revision(folder)
    (folder / "other.txt").write_text("two")
    assert revision(folder) == before
    (folder.parent / name if name == "current.txt" else folder / name).write_text("two")
    assert revision(folder) != before


def test_definitions_of_the_package_keep_their_numbers() -> None:
    assert with_code(2, NPO) == 2
    assert all(kind.revision < 100 for kind in _KINDS.values())
