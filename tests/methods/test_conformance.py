"""Each file of numbers of the authors' code names the command that made it, which runs each of its cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "conformance"
FILES = sorted(HERE.glob("*.json"))
LIST = (
    "import measure, authors_losses, authors_training, authors_weights; "
    "print(*(f'{name} {part}' for name, parts in measure.CASES.items() for part in parts), sep='\\n')"
)


@pytest.fixture(scope="module")
def runs() -> set[tuple[str, ...]]:
    """The registered cases, from a process of its own, as the command runs them."""
    folders = [str(HERE), str(HERE.parent)]
    code = f"import sys; sys.path[:0] = {folders!r}; {LIST}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {tuple(line.split()) for line in done.stdout.splitlines()}


def test_each_case_has_a_file(runs: set[tuple[str, ...]]) -> None:
    assert {name for name, _ in runs} == {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_of_a_file(file: Path, runs: set[tuple[str, ...]]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["command"] == f"python tests/methods/conformance/measure.py {file.stem} FOLDER --write"
    assert len(content["commit"]) == 40 and "/" in content["repository"]
    assert {(file.stem, part) for part in content["cases"]} == {run for run in runs if run[0] == file.stem}
    assert all(case.keys() == {"call", "inputs", "outputs"} for case in content["cases"].values())
