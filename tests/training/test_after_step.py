"""What is called after each step, and what it may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from expunge.data.encoder import Encoded
from expunge.methods.objective import objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.run_state import Diverged
from expunge.training.schedule import Schedule

ARGS: dict[str, Any] = {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
Rows = dict[str, list[Encoded]]


def test_it_may_end_the_run(make_model: Callable[..., Any], rows: Rows) -> None:
    calls: list[int] = []

    def after_step() -> bool:
        calls.append(len(calls) + 1)
        return len(calls) == 3

    done = train(make_model(), objective("GradDiff"), rows, TrainArgs(**ARGS), pad_id=0, after_step=after_step)
    assert (done.n_steps, calls) == (3, [1, 2, 3])


def test_it_ends_all_phases(make_model: Callable[..., Any], rows: Rows) -> None:
    args = TrainArgs(
        per_device_train_batch_size=2, gradient_accumulation_steps=1, num_train_epochs=1,
        schedule=Schedule(kind="chunks", chunk_size=2),
    )  # fmt: skip
    done = train(make_model(), objective("GradDiff"), rows, args, pad_id=0, after_step=lambda: True)
    assert done.n_steps == 1


def test_a_loss_that_runs_away_has_an_error_of_its_own(make_model: Callable[..., Any], rows: Rows) -> None:
    with pytest.raises(Diverged, match="passed the limit"):
        train(make_model(), objective("GradDiff"), rows, TrainArgs(**ARGS, max_loss=1e-6), pad_id=0)
