"""The Python API and `expunge run` on the micro study: the table, the report, and the second run that does nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import expunge as package


@pytest.fixture
def words(micro: list[str]) -> list[str]:
    """The micro study, shorter still."""
    return [*micro, "train.num_train_epochs=2", "unlearn.num_train_epochs=1", "eval.generation.max_new_tokens=4"]


@pytest.mark.slow
def test_a_study_from_python_and_again_from_the_command_line(
    here: Path, words: list[str], expunge: Callable[..., tuple[int, str, str]]
) -> None:
    result = package.load_study(words).run()
    table = result.table()
    assert [row["run"] for row in table] == ["full", "retain", "GradAscent", "GradDiff", "GradDiff-KL", "NPO"]
    assert all(0 < row["forget_Q_A_Prob"] < 1 for row in table)
    assert not result.failures
    assert all(p.state == "hit" for p in package.load_study(words).plan())

    weights = {p: p.stat().st_mtime_ns for p in (here / "saves" / "store").rglob("*.safetensors")}
    code, out, errors = expunge("run", *words)
    assert code == 0, errors
    assert out.count(": hit") == 21
    (folder,) = (p for p in (here / "saves/study").iterdir() if not p.is_symlink())  # the words change settings
    assert re.fullmatch("quickstart-[0-9a-f]{8}", folder.name)
    assert f"report: saves/study/{folder.name}/report.html" in out
    assert (here / "saves/study/quickstart-latest").resolve() == folder.resolve()
    assert {p: p.stat().st_mtime_ns for p in (here / "saves" / "store").rglob("*.safetensors")} == weights
    with open(folder / "results.csv", newline="") as f:
        assert len(list(csv.DictReader(f))) == 6
    code, out, errors = expunge("results", "--format=csv", "--query=SELECT DISTINCT label FROM results ORDER BY label")
    assert (code, out.split()) == (0, ["label", "GradAscent", "GradDiff", "GradDiff-KL", "NPO", "full", "retain"]), (
        errors
    )
    assert "extraction_strength" in expunge("results", *words)[1]  # no name is cut, however narrow the terminal
    code, out, errors = expunge("results", *words, "--format=markdown")
    assert code == 0, errors
    assert "| quickstart | unlearn | NPO | model_utility | 1 |" in out
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_method_that_explodes_leaves_the_others(
    here: Path, words: list[str], expunge: Callable[..., tuple[int, str, str]]
) -> None:
    bad = "methods=[{trainer: GradAscent, args: {max_loss: 1e-6}}, {trainer: NPO}]"
    code, out, _ = expunge("run", *words, bad)
    assert code == 1
    assert "GradAscent: the loss passed the limit" in " ".join(out.split())
    assert "NPO" in (here / "saves/study/quickstart-latest/results.csv").read_text()


@pytest.mark.slow
def test_what_is_cut_is_said(here: Path, words: list[str]) -> None:
    short = ["model.template_args.max_length=40", "data.world.holdout_authors=0"]  # 40 is a holdout prompt's length
    report = package.load_study([*words, *short, "methods=[]", "train.max_steps=1"]).run().report
    output = [note for note in report.notes if "were cut at 40 tokens" in note]
    assert any("train full" in note for note in output)
    assert any("score retain" in note and "forget_eval" in note for note in output)
