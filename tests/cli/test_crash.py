"""An unexpected error is one line and a private file; the environment is off for config files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("by\nsecretvalue")

    monkeypatch.setattr("expunge.cli.commands.help.show_key", fail)
    monkeypatch.setenv("MY_API_KEY", "secretvalue")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("broken")
def test_an_unexpected_error_is_one_line_and_a_file(expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, message = expunge("help", "train")
    assert code == 1 and not out
    match = re.fullmatch(r"expunge: internal error: ZeroDivisionError: by <MY_API_KEY>; details in (\S+)\n", message)
    assert match is not None, message
    details = Path(match[1])
    text = details.read_text()
    assert "Traceback" in text and "command: expunge help train" in text and "secretvalue" not in text
    assert details.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("EXPUNGE_TRACEBACK", "1")
    assert "Traceback" in expunge("help", "train")[2]


def test_the_environment_is_read_only_if_allowed(here: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret")
    (here / "mine.yaml").write_text("methods: [{trainer: NPO, label: '${oc.env:MY_SECRET}'}]\n")
    code, out, message = expunge("config", "run", "study=mine.yaml")
    assert code == 2 and "methods[0].label" in message and "--allow-env" in message and "s3cret" not in out + message
    code, out, _ = expunge("config", "run", "study=mine.yaml", "--allow-env")
    assert code == 0 and "label: s3cret" in out
    assert expunge("config", "run", "study=mine.yaml")[0] == 2  # the permission ends with the command
    monkeypatch.setenv("EXPUNGE_ALLOW_ENV", "1")
    assert expunge("config", "run", "study=mine.yaml")[0] == 0


def test_references_cannot_multiply(here: Path, expunge: Run) -> None:
    lines = [f"  k{i}: {'${data.args.k' + str(i + 1) + '}' + '${data.args.k' + str(i + 1) + '}'}" for i in range(19)]
    (here / "mine.yaml").write_text("data:\n args:\n" + "\n".join(lines) + "\n  k19: " + "x" * 99 + "\n")
    code, _, message = expunge("plan", "study=mine.yaml")
    assert code == 2 and "multiply" in message and len(message) < 300
