"""Which rows meet in a micro-batch: each at most once, whatever the set, the batch size, the ratio and the ranks."""

from __future__ import annotations

from collections import Counter

import pytest

from expunge.core.distributed import Rank
from expunge.methods import objective
from expunge.training.config import TrainArgs
from expunge.training.data_parallel import rank_batches
from expunge.training.loop import plan_samples
from expunge.training.schedule import Schedule


def rows_for(make_rows, n_forget: int, n_retain: int):
    lengths = [(5 + (7 * k) % 23, 2) for k in range(max(n_forget, n_retain))]
    return {"forget": make_rows(lengths[:n_forget], 1), "retain": make_rows(lengths[:n_retain], 2)}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize(
    ("n_forget", "n_retain", "ratio"), [(1, 3, 1), (3, 10, 2), (10, 3, 1), (40, 100, 1), (40, 30, 2)]
)
def test_no_row_twice_in_a_micro_batch(make_rows, n_forget: int, n_retain: int, ratio: int, size: int, world: int):
    rows = rows_for(make_rows, n_forget, n_retain)
    args = TrainArgs(
        num_train_epochs=6, per_device_train_batch_size=size, gradient_accumulation_steps=3,
        schedule=Schedule(retain_ratio=ratio),
    )  # fmt: skip
    plan = plan_samples(objective("GradDiff"), rows, args)
    for rank in range(world):
        for micro in rank_batches(plan, args, Rank(rank, world)):
            if len(micro.samples) < size:
                continue
            for side, n_rows in (("forget", n_forget), ("retain", n_retain)):
                counts = Counter(i for s in micro.samples for i in s.numbers(side))
                least = min(counts.values()) if len(counts) == n_rows else 0
                assert max(counts.values()) - least <= 1, (side, counts)


@pytest.mark.parametrize("kind", ["chunks", "alternating"])
@pytest.mark.parametrize("n_retain", [3, 7, 40])
def test_no_row_twice_in_other_schedules(make_rows, kind: str, n_retain: int) -> None:
    rows = rows_for(make_rows, 10, n_retain)
    plan = Schedule(kind=kind, chunk_size=6, **({"anneal_every": 1} if kind == "alternating" else {}))
    args = TrainArgs(num_train_epochs=5, per_device_train_batch_size=4, schedule=plan)
    from expunge.training.phases import plan_phases

    for phase in plan_phases(objective("GradDiff"), rows, args):
        for micro in rank_batches(phase.samples, args, Rank(0, 1)):
            for side in ("forget", "retain"):
                counts = Counter(i for s in micro.samples for i in s.numbers(side))
                if counts and len(micro.samples) == 4:
                    n_rows = len({i for s in phase.samples for i in s.numbers(side)})
                    least = min(counts.values()) if len(counts) == n_rows else 0
                    assert max(counts.values()) - least <= 1, (side, counts)


def test_the_plain_order_does_not_depend_on_the_batch_size(make_rows) -> None:
    rows = rows_for(make_rows, 40, 30)
    plans = [
        plan_samples(
            objective("GradDiff"), rows,
            TrainArgs(num_train_epochs=4, per_device_train_batch_size=size, gradient_accumulation_steps=n,
                      group_by_length=False),
        )
        for size, n in ((1, 4), (4, 1), (8, 2), (15, 1))
    ]  # fmt: skip
    assert all(plan == plans[0] for plan in plans)
