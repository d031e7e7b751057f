"""Schedules and requests as a user types them: the shipped experiments, a part by hand, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

TINY = (
    "model=llama-64k", "eval.generation.max_new_tokens=4", "trainer.args.num_train_epochs=1", "benchmark=tofu",
    "trainer.args.eval_strategy=no",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "phases"),
    [
        ("sugd", ("trainer.args.schedule.chunk_size=3", "trainer.args.trainable_last_k_layers=1"), 2),
        ("agad", ("trainer.args.schedule.chunk_size=2", "trainer.args.schedule.anneal_epochs=1"), 5),
    ],
)
def test_the_shipped_experiments(
    here: Path, tofu_source: Path, expunge: Run, name: str, words: tuple[str, ...], phases: int
) -> None:
    code, _, errors = expunge(
        "unlearn", f"experiment=unlearn/semeval/{name}", "task_name=x", f"data.root={tofu_source}", *TINY, *words
    )
    assert code == 0, errors
    lines = (here / "saves" / "unlearn" / "x" / "evals" / "log.jsonl").read_text().splitlines()
    assert {json.loads(line)["phase"] for line in lines} == set(range(1, phases + 1))


@pytest.mark.slow
def test_a_part_by_hand_and_the_next_from_it(here: Path, tofu_source: Path, expunge: Run) -> None:
    words = ("unlearn", "experiment=unlearn/tofu/default", "trainer=NPO", f"data.root={tofu_source}", *TINY)
    assert expunge(*words, "task_name=a", "data.request=1/2")[0] == 0
    first = "model.model_args.pretrained_model_name_or_path=saves/unlearn/a"
    code, _, errors = expunge(*words, "model.preset=null", first, "task_name=b", "data.request=2/2")
    assert code == 0, errors
    assert (here / "saves" / "unlearn" / "b" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("trainer.args.schedule.chunk_siz=3",), ("schedule.chunk_siz", "did you mean", "chunk_size")),
        (("trainer.args.schedule.chunk_size=3",), ("trainer.args.schedule.chunk_size", "kind=chunks")),
        (("trainer.args.schedule.kind=chunks",), ("trainer.args.schedule.kind", "needs chunk_size")),
        (("trainer.args.schedule.retain_ratio=0",), ("trainer.args.schedule.retain_ratio", "at least 1")),
        (("trainer=GradAscent", "trainer.args.schedule.retain_ratio=7"), ("schedule.retain_ratio", "GradAscent")),
        (("data.request=5/4",), ("data.request", "2/4", "'5/4'")),
        (("data.request=1/9",), ("data.request", "4 forget rows", "9")),
    ],
)
def test_what_is_wrong_is_one_line(
    here: Path, tofu_source: Path, expunge: Run, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    base = ("unlearn", "experiment=unlearn/tofu/default", "task_name=x", "trainer=NPO", f"data.root={tofu_source}")
    choice = [w for w in base if not (w.startswith("trainer=") and words[0].startswith("trainer="))]
    code, _, errors = expunge(*choice, *TINY[:1], *words)
    assert code == 2, errors
    lines = [line for line in errors.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, errors
    for part in parts:
        assert part in lines[0], errors
    assert not (here / "saves").exists()
