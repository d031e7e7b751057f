"""A user's own file, from the command line: train, unlearn, eval, and what is said when it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.compose import study_tree
from expunge.pipelines.study.config import decode_study

Run = Callable[..., tuple[int, str, str]]

SMALL = ("trainer.args.max_steps=3", "trainer.args.per_device_train_batch_size=4")
LOADED = "model.model_args.pretrained_model_name_or_path=saves/train/full"


@pytest.fixture
def rows(here: Path) -> Path:
    (here / "forget.csv").write_text(
        "question,answer\n" + "".join(f"Who is no {i}?,It is Ann {i}.\n" for i in range(6))
    )
    (here / "keep.txt").write_text("".join(f"The river number {i} runs to the sea.\n" for i in range(6)))
    return here


def test_train_unlearn_and_eval(rows: Path, expunge: Run) -> None:
    code, _, errors = expunge(
        "train", "benchmark=custom", "forget=forget.csv", "retain=keep.txt", "data.args.train_full=true",
        "task_name=full", "model=llama-64k", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    code, _, errors = expunge(
        "unlearn", "benchmark=custom", "forget=forget.csv", "retain=keep.txt", "data.args.holdout=keep2.txt",
        "trainer=GradDiff", "task_name=gd", "model=llama-64k", LOADED, "eval.generation.max_new_tokens=4", *SMALL,
    )  # fmt: skip
    assert code == 2 and "keep2.txt" in errors
    code, _, errors = expunge(
        "unlearn", "benchmark=custom", "forget=forget.csv", "trainer=GradDiff", "task_name=gd", "model=llama-64k",
        LOADED, "eval.generation.max_new_tokens=4", "data.args.retain_eval_rows=5", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    assert "note: retain rows:" in errors
    summary = json.loads((rows / "saves" / "unlearn" / "gd" / "evals" / "CUSTOM_SUMMARY.json").read_text())
    assert 0 < summary["forget_Q_A_Prob"] < 1 and 0 < summary["retain_Q_A_Prob"] < 1
    code, _, errors = expunge(
        "eval", "benchmark=custom", "forget=keep.txt", "retain=forget.csv", "task_name=texts", "model=llama-64k",
        LOADED, "eval.generation.max_new_tokens=4",
    )  # fmt: skip
    assert code == 0, errors
    assert "note: retain rows:" not in errors
    code, _, errors = expunge(
        "train", "benchmark=custom", "forget=forget.csv", "task_name=x", "model=llama-64k", LOADED
    )
    assert code == 2
    assert "train_split=full: the benchmark custom has no rows to train such a model on" in errors
    assert "data.args.train_full=true" in errors


def test_a_wrong_file_is_one_line_before_anything_is_read(rows: Path, expunge: Run) -> None:
    (rows / "bad.csv").write_text("question,anwser\nWho?,Ann\n")
    for words, expected in (
        (("forget=bad.csv",), "no column 'answer'; did you mean 'anwser'?"),
        ((), "forget: missing"),
        (("forget=forget.csv", "retain=forget.csv"), "forget.csv row 0 is also forget.csv row 0"),
    ):
        code, _, errors = expunge("eval", "benchmark=custom", "task_name=x", "model=gpt2", *words)
        assert code == 2
        assert expected in errors
        assert len(errors.strip().splitlines()) == 1


def test_the_study_needs_a_file_and_takes_any_model(rows: Path, expunge: Run) -> None:
    code, _, errors = expunge("plan", "study=custom")
    assert code == 2 and "forget: missing" in errors
    study = decode_study(study_tree(["study=custom", "forget=forget.csv", "model=Qwen2.5-0.5B-Instruct"]))
    assert (study.benchmark, study.forget, study.model.source) == ("custom", "forget.csv", "Qwen/Qwen2.5-0.5B-Instruct")


def test_equal_rows_under_other_names_keep_their_sides(rows: Path, expunge: Run) -> None:
    (rows / "keep.csv").write_text(
        "question,answer\n" + "".join(f"Where is no {i}?,By the river {i}.\n" for i in range(6))
    )
    code, _, errors = expunge(
        "train", "benchmark=custom", "forget=forget.csv", "retain=keep.csv", "data.args.train_full=true",
        "task_name=full", "model=llama-64k", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    matches = []
    for i, (forget, retain) in enumerate((("forget.csv", "keep.csv"), ("keep.csv", "forget.csv"))):
        code, _, errors = expunge(
            "eval", "benchmark=custom", f"forget={forget}", f"retain={retain}", f"task_name=e{i}", "model=llama-64k",
            LOADED, "eval.generation.max_new_tokens=4",
        )  # fmt: skip
        assert code == 0, errors
        matches.append(json.loads((rows / "saves" / "eval" / f"e{i}" / "CUSTOM_SUMMARY.json").read_text()))
    one, other = matches
    assert one["forget_Q_A_Prob"] == other["retain_Q_A_Prob"] != other["forget_Q_A_Prob"]
    assert one["retain_Q_A_Prob"] == other["forget_Q_A_Prob"]
    # a question without letters is the same in capitals: two sets, scored once, and both are there
    (rows / "digits.csv").write_text("question,answer\n1 + 1 = ?,It is two.\n2 + 1 = ?,It is three.\n")
    code, _, errors = expunge(
        "eval", "benchmark=custom", "forget=digits.csv", "retain=keep.csv", "task_name=digits", "model=llama-64k",
        LOADED, "eval.generation.max_new_tokens=4", "eval.extras=[worst_case]",
    )  # fmt: skip
    assert code == 0, errors
    summary = json.loads((rows / "saves" / "eval" / "digits" / "CUSTOM_SUMMARY.json").read_text())
    assert summary["forget_Q_A_Prob_upper"] == summary["forget_Q_A_Prob"]


def test_answers_that_were_cut_are_told(rows: Path, expunge: Run) -> None:
    (rows / "long.csv").write_text("question,answer\nWho?,Ann.\nWho else?," + "Ann and " * 600 + "Bob.\n")
    code, _, errors = expunge(
        "train", "benchmark=custom", "forget=long.csv", "retain=forget.csv", "data.args.train_full=true",
        "task_name=full", "model=llama-64k", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    assert "note: 1 answers of retain were cut" in errors
    code, _, errors = expunge(
        "unlearn", "benchmark=custom", "forget=long.csv", "trainer=GradAscent", "task_name=ga", "model=llama-64k",
        LOADED,
        "eval.generation.max_new_tokens=4", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    assert "note: 1 answers of forget were cut" in errors
    assert "note: 1 answers of forget_eval were cut" in errors
