"""The shipped studies of stories, and of procedural tasks that are relearned: what they plan, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


def planned(expunge: Run, *words: str) -> dict[str, list[str]]:
    code, out, errors = expunge("plan", *words, "--json")
    assert code == 0, errors
    result: dict[str, list[str]] = {}
    for job in json.loads(out):
        result.setdefault(job["kind"], []).append(job["label"])
    return result


def test_the_tiny_study(here: Path, expunge: Run) -> None:
    jobs = planned(expunge, "study=stories_tiny")
    deletions = ["filter-Twist", "filter-adv-Twist", "filter-mix-Twist-Foreshadowing", "filter-ref-Twist"]
    assert jobs["delete"] == deletions
    assert jobs["pretrain"] == ["present", "never learned"]
    assert sorted(jobs["recover"]) == sorted(["never learned", *deletions])
    assert len(jobs["probe"]) == 6
    assert set(jobs["dataset"]) == {"pretrain-all", "recovery-Twist", *deletions}


def test_a_deletion_for_each_data_set_and_rate(here: Path, expunge: Run) -> None:
    words = ("stories.datasets=[filter-Twist,filter-adv-Twist]", "stories.learning_rates=[1e-4,1e-3]")
    jobs = planned(expunge, "study=stories_tiny", *words)
    names, rates = ("filter-Twist", "filter-adv-Twist"), ("0.0001", "0.001")
    assert jobs["delete"] == [f"{name} lr={rate}" for name in names for rate in rates]
    assert len(jobs["recover"]) == 5


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("study=stories_tiny", "stories.delete=Twst"), ("stories.delete", "'Twist'")),
        (("study=stories_tiny", "stories.datsets=[]"), ("stories.datsets: unknown key", "'stories.datasets'")),
        (
            ("study=stories_tiny", "stories.judge.promts=3"),
            ("stories.judge.promts: unknown key", "'stories.judge.prompts'"),
        ),
        (("study=stories_tiny", "audits=[relearn]"), ("audits: not allowed in a study of stories",)),
        (("study=stories_tiny", "stories.source=nowhere.txt"), ("nowhere.txt does not exist",)),
        (("study=stories_real",), ("stories.source: missing; give stories.source=",)),
        (("study=quickstart", "stories.seed=1"), ("stories.delete: missing",)),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: tuple[str, ...], parts: tuple[str, ...], here: Path, expunge: Run
) -> None:
    code, _, errors = expunge("plan", *words)
    assert code == 2
    assert all(part in errors for part in parts), errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.shared
def test_real_stories(shared: Path, here: Path, expunge: Run) -> None:
    jobs = planned(expunge, "study=stories_real", f"stories.source={shared / 'data' / 'tinystories'}")
    assert jobs["delete"] == ["filter-Dialogue"]
    assert len(jobs["recover"]) == 2
