"""OpenUnlearning's words on evaluation during training."""

from __future__ import annotations

import pytest

from expunge.cli.vocabulary import translate

A = "trainer.args."


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ([f"{A}eval_strategy=epoch"], [f"{A}evaluate.every=1.0"]),
        ([f"+{A}evaluation_strategy=epoch"], [f"{A}evaluate.every=1.0"]),
        ([f"{A}eval_strategy=steps", f"{A}eval_steps=50"], [f"{A}evaluate.steps=50"]),
        ([f"{A}eval_steps=50", f"{A}eval_strategy=steps"], [f"{A}evaluate.steps=50"]),
        ([f"{A}eval_strategy=no"], []),
        ([f"{A}eval_steps=50"], []),
        ([f"{A}eval_strategy=steps"], []),
        ([f"+{A}eval_on_start=False"], [f"{A}evaluate.at_start=False"]),
    ],
)
def test_words_on_evaluation(words: list[str], made: list[str]) -> None:
    found, notes = translate(words)
    assert found == made
    assert len(notes) == len(words)
    assert all(("is now" in note) == bool(made) for note in notes)
