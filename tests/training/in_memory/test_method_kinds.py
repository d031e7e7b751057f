"""The words for a method that is no loss."""

from __future__ import annotations

import pytest

from expunge.training.in_memory.method_kinds import other_kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("task_vector", "it is a weight edit: name it in `methods` of a study (`expunge run`)"),
        ("steering", "it is a wrapper: name it in `methods` of a study (`expunge run`), or call expunge.wrap(model"),
        ("sam", "it is a gradient transform: set grad_transform='sam' in the training settings of a method"),
    ],
)
def test_each_kind_has_its_place(name: str, words: str) -> None:
    assert other_kind(name).startswith(words)


def test_a_loss_and_an_unknown_name_have_none() -> None:
    assert other_kind("NPO") == other_kind("nope") == ""
