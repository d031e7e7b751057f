"""Plan the rows of each step before training, from the seed alone.

Interleaved: each side is drawn without replacement. Its rows are shuffled, used once each, shuffled again, and so on.
In chunks: forget rows in consecutive parts, with retain rows from a cursor. Alternating: parts of the forget rows
alone, and of the retain rows alone. The k-th sample of the run does not depend on workers, ranks or interruptions.

A micro-batch never contains a row twice, unless the set is smaller than the micro-batch. Then it contains each row
equally often (the counts differ by 1 at most). Three rules ensure this:

- A row comes again after at least `gap(n_rows, batch)` samples of its side, also from one pass to the next.
- `group_by_length` moves samples inside one pass only. A micro-batch that lies across two passes does not change.
- The cursor of a chunked plan wraps around the retain rows if a chunk needs more of them than there are.

The gap is half of the set, at least 8 rows (or all of them) and at most 1024. Up to there the order does not depend on
the batch size. Larger micro-batches that cut a pass need a larger gap. So a set of up to 8 rows has one order, which
each pass repeats.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Places = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairing:
    """The forget row of each sample, shape (S,), and its retain rows, shape (S, ratio); None without the side.

    Rows are positions in their sets. n_epoch: samples of one pass.
    """

    forget: Rows | None
    retain: Rows | None
    n_epoch: int = 0

    def __len__(self) -> int:
        side = self.forget if self.forget is not None else self.retain
        return 0 if side is None else len(side)


LEAST, MOST = 8, 1024  # rows: bounds of the gap for every batch size


def gap(n_rows: int, batch: int = 1) -> int:
    """Return the minimum distance in samples of two visits of a row, so that a micro-batch contains it once."""
    always = min(n_rows, max(LEAST, (n_rows + 1) // 2), MOST)
    if batch % n_rows == 0 or n_rows % batch == 0:  # micro-batches and passes end together
        return always
    return n_rows if batch > n_rows else max(always, batch)


def shuffled_stream(n_rows: int, length: int, seed: int, stream: int, batch: int = 1) -> Rows:
    """Return `length` positions of a set of `n_rows`, in passes that each use every row once, in a new order.

    batch: rows of this side in a micro-batch. It counts only if the micro-batch is larger than the gap and cuts a pass.
    """
    return _stream(n_rows, length, seed, stream, batch).copy()


@functools.lru_cache(maxsize=8)  # methods and seeds of a plan share streams
def _stream(n_rows: int, length: int, seed: int, stream: int, batch: int) -> Rows:
    passes: list[Rows] = []
    for k in range(math.ceil(length / max(n_rows, 1))):
        rng = np.random.default_rng([seed, stream, k])
        passes.append(_next_pass(passes[-1], gap(n_rows, batch), rng) if k else rng.permutation(n_rows))
    return np.concatenate(passes)[:length].astype(np.int64) if passes else np.zeros(0, dtype=np.int64)


def _next_pass(before: Rows, distance: int, rng: np.random.Generator) -> Rows:
    """Return a random order in which each row is at least `distance` samples after its place in the pass `before`."""
    n = len(before)
    free = before[: n - distance + 1].tolist()  # rows that may come first
    draws = rng.random(distance - 1)
    head: list[int] = []
    for j in range(distance - 1):
        at = int(draws[j] * len(free))
        head.append(free[at])
        free[at] = int(before[n - distance + 1 + j])  # it may come next
    return np.concatenate([np.array(head, dtype=np.int64), rng.permutation(np.array(free, dtype=np.int64))])


def pair(
    *,
    n_forget: int | None,
    n_retain: int | None,
    n_samples: int,
    seed: int,
    ratio: int = 1,
    n_epoch: int = 0,
    batch: int = 1,
) -> Pairing:
    """Return an interleaved run's samples; a side with no rows (None) is left out.

    Both sides are drawn without replacement, so the anchor only decides how many samples an epoch has (`n_samples`).
    batch: samples of a micro-batch.
    """
    forget = retain = None
    if n_forget is not None:
        forget = shuffled_stream(n_forget, n_samples, seed, 0, batch)
    if n_retain is not None:
        retain = shuffled_stream(n_retain, n_samples * ratio, seed, 1, batch * ratio).reshape(-1, ratio)
    return Pairing(forget, retain, n_epoch)


def in_chunks(
    *,
    n_forget: int,
    n_retain: int | None,
    chunk_size: int,
    samples_of: Callable[[int], int],
    ratio: int,
    seed: int,
    shuffle: bool,
) -> list[Pairing]:
    """Return a pairing per chunk of consecutive forget rows.

    `samples_of` maps a number of rows to the samples of a run over them. Every forget row has its own `ratio` retain
    rows, the same in each pass. A cursor takes the next ones, wraps around, and continues from chunk to chunk. If a
    chunk needs more retain rows than there are, the cursor continues from pass to pass instead. `shuffle` shuffles both
    sides with the seed first.
    """
    retain = None if n_retain is None else _order(n_retain, seed, 1, shuffle)
    out: list[Pairing] = []
    for start, chunk in _chunks(_order(n_forget, seed, 0, shuffle), chunk_size):
        visits = np.arange(samples_of(len(chunk))) % len(chunk)
        partners = None
        if retain is not None:
            once = len(chunk) * ratio <= len(retain)
            cursor = start * ratio + np.arange((len(chunk) if once else len(visits)) * ratio)
            partners = retain[cursor % len(retain)].reshape(-1, ratio)
            partners = partners[visits] if once else partners
        out.append(Pairing(chunk[visits], partners, len(chunk)))
    return out


def alternating(
    *,
    n_forget: int,
    n_retain: int,
    chunk_size: int,
    samples_of: Callable[[int], int],
    anneal_samples_of: Callable[[int], int],
    every: int,
    share: float,
    seed: int,
    shuffle: bool,
    batch: int = 1,
) -> list[Pairing]:
    """Return pairings of one side each, each of its passes in a new seeded order.

    They are every chunk of forget rows; after each `every` whole chunks a random share of the retain rows; at the end
    all retain rows.
    """
    streams = itertools.count(4)  # 0 to 3 order the other plans
    out: list[Pairing] = []

    def passes(rows: Rows, n_samples: int) -> Rows:
        return rows[shuffled_stream(len(rows), n_samples, seed, next(streams), batch)]

    def anneal(rows: Rows) -> None:
        out.append(Pairing(None, passes(rows, anneal_samples_of(len(rows)))[:, None], len(rows)))

    whole = 0
    for _, chunk in _chunks(_order(n_forget, seed, 0, shuffle), chunk_size):
        out.append(Pairing(passes(chunk, samples_of(len(chunk))), None, len(chunk)))
        whole += len(chunk) == chunk_size
        if len(chunk) == chunk_size and whole % every == 0:
            anneal(shuffled_stream(n_retain, max(1, int(share * n_retain + 1e-9)), seed, next(streams)))
    anneal(np.arange(n_retain, dtype=np.int64))
    return out


def _order(n_rows: int, seed: int, stream: int, shuffle: bool) -> Rows:
    return shuffled_stream(n_rows, n_rows, seed, stream) if shuffle else np.arange(n_rows, dtype=np.int64)


def _chunks(rows: Rows, size: int) -> list[tuple[int, Rows]]:
    """Return consecutive parts of at most `size` rows, each with its start."""
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


def choices(visited: Rows, n: int, seed: int) -> Rows:
    """Return the index of the alternate of each visit of a row: all `n` in the row's own order, then again."""
    seen: dict[int, int] = {}
    orders: dict[int, Rows] = {}
    out = np.zeros(len(visited), dtype=np.int64)
    for k, row in enumerate(visited.tolist()):
        if row not in orders:
            orders[row] = np.random.default_rng([seed, 3, row]).permutation(n).astype(np.int64)
        out[k] = orders[row][seen.get(row, 0) % n]
        seen[row] = seen.get(row, 0) + 1
    return out


def pass_ends(visited: Rows) -> Places:
    """Return the starts of new passes through a side, in samples: each row that the current pass has visited already.

    visited: the rows of each sample, shape (S,) or (S, ratio). A pass that ends inside of a sample gives a fraction.
    """
    flat = visited.reshape(-1)
    order = np.argsort(flat, kind="stable")
    before = np.full(len(flat), -1, dtype=np.int64)  # the visit before this one, of the same row
    again = flat[order[1:]] == flat[order[:-1]]
    before[order[1:][again]] = order[:-1][again]
    began, ends = 0, []
    for at in np.flatnonzero(before >= 0).tolist():
        if before[at] >= began:
            began = at
            ends.append(at)
    return np.array(ends, dtype=np.float64) * len(visited) / max(len(flat), 1)


def group_by_length(
    order: Rows, lengths: Rows, *, batch: int, seed: int, ends: Places | None = None, window: int = 16
) -> Rows:
    """Reorder samples so that a micro-batch contains rows of similar length, with less padding.

    Within each window of `window` micro-batches the samples are sorted by length and the micro-batches are shuffled
    with the seed. No window crosses the end of a pass (`ends`, positions in the order). A micro-batch across an end
    does not change.
    """
    n = len(order)
    if not n:
        return order
    marks = np.unique(np.concatenate([[0.0, n], np.asarray([] if ends is None else ends, dtype=float)]))
    out, span, number = order.copy(), batch * window, 0
    for low, high in itertools.pairwise(marks.tolist()):
        first = math.ceil(low / batch) * batch
        last = n if high == n else int(high // batch) * batch
        for start in range(first, last, span):
            index = np.arange(start, min(start + span, last))
            index = index[np.argsort(lengths[order[index]], kind="stable")]
            n_full = len(index) // batch
            blocks = np.random.default_rng([seed, 2, number]).permutation(n_full)
            places = [index[b * batch : (b + 1) * batch] for b in blocks] + [index[n_full * batch :]]
            out[start : start + len(index)] = order[np.concatenate(places)]
            number += 1
    return out
