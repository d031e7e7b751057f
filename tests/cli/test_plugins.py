"""A method from a user's own file: listed, checked and run like the others."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.cli import arguments
from expunge.cli.commands.audit import _next

Run = Callable[..., tuple[int, str, str]]

MINE = """
share: float = 0.5

def forget_loss(self, view: LossInputs) -> Tensor:
    return -self.share * served(view.forget, "forget").nll
"""


@pytest.fixture
def mine(here: Path, method_file: Callable[..., Path]) -> Path:
    """A plugin file."""
    return method_file(here, "HalfAscent", MINE)


def test_a_method_from_a_file(mine: Path, expunge: Run) -> None:
    code, out, errors = expunge("list", "methods", "--json", "--plugin", "mine.py")
    assert code == 0, errors
    assert json.loads(out)["HalfAscent"]["settings"]["share"] == 0.5
    words = ("study=quickstart", "methods=[{trainer: HalfAscent, method_args: {share: 0.1}}]", "--json")
    code, out, errors = expunge("plan", "--plugin", "mine.py", *words)
    assert code == 0, errors
    assert any(job["label"] == "HalfAscent(share=0.1)" for job in json.loads(out))


def test_a_command_of_one_file_need_not_name_plugins(expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_hello(commands: Any) -> None:
        sub = commands.add_parser("hello")
        sub.add_argument("name")
        sub.set_defaults(command=lambda parsed, words: print(f"hello {parsed.name}") or 0)

    module = types.ModuleType("expunge.cli.commands.hello")
    module.add_hello = add_hello  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(arguments, "ELSEWHERE", (*arguments.ELSEWHERE, "hello"))
    assert expunge("hello", "world") == (0, "hello world\n", "")


def test_a_proposed_command_loads_the_plugin(mine: Path, expunge: Run) -> None:
    words = ("study=quickstart", "methods=[{trainer: HalfAscent}]")
    code, out, errors = expunge("plan", "--plugin", "mine.py", "--allow-env", *words)
    proposed = "'methods=[{trainer: HalfAscent}]' --plugin mine.py"
    assert code == 0, errors
    assert out.splitlines()[-1] == f"next:    expunge run study=quickstart {proposed} --allow-env"
    code, _, errors = expunge("report", "--plugin", "mine.py", *words)
    assert code == 2 and errors.endswith(f"first run: expunge run study=quickstart {proposed}\n")
    audited = argparse.Namespace(model="m", forget="f.csv", retain_model="r", plugin=["my audit.py"], allow_env=False)
    words = "--model m --forget f.csv --out erased --dry-run --plugin 'my audit.py'"
    assert _next(audited) == f"if rows are left: expunge erase {words}"


@pytest.mark.parametrize(
    ("text", "part"),
    [("1 +", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError"), (None, "no file")],
)
def test_a_broken_file_is_told_in_one_line(text: str | None, part: str, here: Path, expunge: Run) -> None:
    if text is not None:
        (here / "bad.py").write_text(text)
    code, _, errors = expunge("list", "methods", "--plugin", "bad.py")
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "bad.py" in errors
    assert part in errors


def test_an_unknown_name_without_a_similar_one_mentions_plugins(expunge: Run) -> None:
    code, _, errors = expunge("plan", "study=quickstart", "methods=[Zq]")
    assert code == 2 and "--plugin FILE.py loads names of your own" in errors


BROKEN = '''
from expunge.benchmarks import Benchmark, BenchmarkConfig, benchmark
from expunge.data.examples import ExampleSet

@benchmark("broken", about="a mistake")
def broken(config: BenchmarkConfig) -> Benchmark:
    """Make a mistake."""
    MISTAKE
'''


@pytest.mark.parametrize("mistake", ["return config.rows", "return ExampleSet('full', [], form='qa', nothing=1)"])
def test_an_error_in_the_code_of_a_plugin_names_its_file_and_line(
    mistake: str, here: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(here))
    (here / "broken.py").write_text(BROKEN.replace("MISTAKE", mistake))
    code, _, errors = expunge("plan", "--plugin", "broken.py", "study=quickstart", "benchmark=broken")
    assert code == 2
    assert errors.startswith(f"expunge: error: plugin {here / 'broken.py'}, line 8: ") and "; details in " in errors
    assert len(errors.splitlines()) == 1 and ("AttributeError" in errors or "TypeError" in errors)


def test_a_name_that_is_hardly_similar_mentions_plugins(expunge: Run) -> None:
    code, _, errors = expunge("plan", "study=quickstart", "methods=[Mine]")
    assert code == 2 and "did you mean 'ME'?" in errors and "--plugin FILE.py loads names of your own" in errors
    code, _, errors = expunge("plan", "study=quickstart", "methods=[NPPO]")
    assert code == 2 and "did you mean 'NPO'?" in errors and "--plugin" not in errors
