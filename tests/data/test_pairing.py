from __future__ import annotations

import numpy as np
import pytest

from expunge.data.pairing import choices, gap, group_by_length, pair, pass_ends, shuffled_stream


@pytest.mark.parametrize(("n_rows", "length"), [(7, 7), (7, 21), (7, 24), (7, 3), (1, 5)])
def test_every_pass_uses_every_row_once(n_rows: int, length: int) -> None:
    stream = shuffled_stream(n_rows, length, seed=3, stream=0)
    assert len(stream) == length
    for start in range(0, length, n_rows):
        part = stream[start : start + n_rows]
        assert len(set(part.tolist())) == len(part)
        assert set(part.tolist()) <= set(range(n_rows))
    counts = np.bincount(stream, minlength=n_rows)
    assert counts.max() - counts.min() <= 1


def test_passes_streams_and_seeds_differ() -> None:
    first = shuffled_stream(40, 80, seed=0, stream=0)
    assert first[:40].tolist() != first[40:].tolist()
    assert first.tolist() != shuffled_stream(40, 80, seed=0, stream=1).tolist()
    assert first.tolist() != shuffled_stream(40, 80, seed=1, stream=0).tolist()


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    short = pair(n_forget=9, n_retain=23, n_samples=20, seed=5)
    long = pair(n_forget=9, n_retain=23, n_samples=200, seed=5)
    assert long.forget is not None and long.retain is not None
    assert short.forget is not None and short.retain is not None
    assert long.forget[:20].tolist() == short.forget.tolist()
    assert long.retain[:20].tolist() == short.retain.tolist()
    assert (len(short), len(long)) == (20, 200)


def test_one_side_does_not_move_the_other() -> None:
    both = pair(n_forget=9, n_retain=23, n_samples=20, seed=5)
    alone = pair(n_forget=9, n_retain=None, n_samples=20, seed=5)
    assert both.forget is not None and alone.forget is not None
    assert alone.retain is None
    assert both.forget.tolist() == alone.forget.tolist()
    assert len(pair(n_forget=None, n_retain=23, n_samples=4, seed=5)) == 4


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    first = shuffled_stream(40, 80, seed=0, stream=0).tolist()
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(1)
    assert shuffled_stream(40, 80, seed=0, stream=0).tolist() == first


def test_choices_meet_each_alternate_once_before_any_comes_again() -> None:
    visited = shuffled_stream(6, 60, seed=0, stream=0)
    choice = choices(visited, 5, seed=0)
    for row in range(6):
        mine = choice[visited == row]
        assert sorted(mine[:5]) == sorted(mine[5:]) == [0, 1, 2, 3, 4]
    assert len({tuple(choice[visited == row][:5]) for row in range(6)}) > 1
    assert choices(visited[:20], 5, seed=0).tolist() == choice[:20].tolist()
    assert choices(visited, 5, seed=1).tolist() != choice.tolist()
    assert set(choices(visited, 1, seed=0).tolist()) == {0}


@pytest.mark.parametrize("n", [1, 7, 32, 64, 71, 100])
def test_grouping_keeps_each_window(n: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=n)
    order = np.random.default_rng(1).permutation(n)
    grouped = group_by_length(order, lengths, batch=4, seed=0, window=8)
    assert len(grouped) == n
    for start in range(0, n, 32):
        assert sorted(grouped[start : start + 32]) == sorted(order[start : start + 32])
    assert grouped.tolist() == group_by_length(order, lengths, batch=4, seed=0, window=8).tolist()


def test_grouping_brings_like_lengths_together_in_a_seeded_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=256)
    order = np.arange(256)

    def padded(rows: np.ndarray) -> int:
        return int(sum(lengths[rows[i : i + 4]].max() * 4 for i in range(0, 256, 4)))

    grouped = group_by_length(order, lengths, batch=4, seed=0)
    assert padded(grouped) < 1.1 * lengths.sum() < padded(order)
    widths = [int(lengths[grouped[i : i + 4]].max()) for i in range(0, 64, 4)]
    assert widths != sorted(widths)  # not from short to long: that would order the training by length
    assert grouped.tolist() != group_by_length(order, lengths, batch=4, seed=1).tolist()


def test_grouping_nothing() -> None:
    empty = np.zeros(0, dtype=np.int64)
    assert group_by_length(empty, empty, batch=4, seed=0).tolist() == []


@pytest.mark.parametrize("n_rows", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("batch", [1, 2, 4, 7, 8, 16, 40])
def test_a_micro_batch_holds_each_row_equally_often(n_rows: int, batch: int) -> None:
    stream = shuffled_stream(n_rows, 12 * n_rows + 5, seed=1, stream=0, batch=batch)
    for start in range(0, 12 * n_rows + 5 - batch, batch):
        counts = np.bincount(stream[start : start + batch], minlength=n_rows)
        assert counts.max() - counts.min() <= 1, (start, stream[start : start + batch])


@pytest.mark.parametrize("n_rows", [10, 40, 400])
def test_the_order_does_not_depend_on_micro_batches_of_up_to_half_of_the_set(n_rows: int) -> None:
    plain = shuffled_stream(n_rows, 5 * n_rows, seed=0, stream=0)
    for batch in {1, 3, 8, n_rows // 4, n_rows // 2}:
        assert shuffled_stream(n_rows, 5 * n_rows, seed=0, stream=0, batch=batch).tolist() == plain.tolist()
    last = {int(row): at for at, row in enumerate(plain[:n_rows])}
    gaps = [n_rows + at - last[int(row)] for at, row in enumerate(plain[n_rows : 2 * n_rows])]
    assert min(gaps) >= gap(n_rows) == max(8, n_rows // 2)
    assert len(set(gaps)) > n_rows // 4 or n_rows == 10  # still shuffled


def test_every_row_may_take_most_places_of_the_next_pass() -> None:
    """The gap keeps the last rows of a pass from the first places of the next one, and nothing else."""
    n = 18
    records = np.zeros((n, n), dtype=int)
    for seed in range(3000):
        stream = shuffled_stream(n, 2 * n, seed=seed, stream=0)
        at = {int(row): place for place, row in enumerate(stream[:n])}
        for place, row in enumerate(stream[n:]):
            records[at[int(row)], place] += 1
    allowed = np.array([[n - i + j >= 9 for j in range(n)] for i in range(n)])
    assert (records[~allowed] == 0).all() and (records[allowed] > 20).all()


def test_pass_ends_are_where_rows_come_again() -> None:
    assert pass_ends(np.array([0, 1, 2, 1, 0, 2, 2, 0])).tolist() == [3, 6]
    assert pass_ends(np.array([[0, 1], [2, 0], [1, 2], [0, 1]])).tolist() == [1.5, 3.0]
    assert pass_ends(np.zeros(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("n_rows", [1, 3, 10, 40])
@pytest.mark.parametrize("batch", [2, 4, 8])
def test_grouping_never_crosses_a_pass(n_rows: int, batch: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=n_rows)
    visits = shuffled_stream(n_rows, 10 * n_rows, seed=0, stream=0, batch=batch)
    order = np.arange(len(visits))
    grouped = visits[group_by_length(order, lengths[visits], batch=batch, seed=0, ends=pass_ends(visits))]
    for start in range(0, len(visits), n_rows):
        assert sorted(grouped[start : start + n_rows]) == list(range(n_rows))
    for start in range(0, len(visits) - batch, batch):
        counts = np.bincount(grouped[start : start + batch], minlength=n_rows)
        assert counts.max() - counts.min() <= 1
    if n_rows == 40:
        assert grouped.tolist() != visits.tolist()
